"""`localllm engine`: builds of llama.cpp that could be the engine, and what is proved of each."""

import asyncio

import click

from localllm.cli import options
from localllm.cli.output import columns, info, print_json, print_line, warn
from localllm.core.units import format_rate
from localllm.engine.builds.candidates import find_candidate
from localllm.engine.builds.choice import ExaminedEngine
from localllm.errors import ExitCode
from localllm.library.files import measurements, paths
from localllm.runtime import engines
from localllm.runtime.engine_change import engine_change
from localllm.runtime.engine_rates import keep_rates, known_rates


@click.group(name="engine")
def command() -> None:
    """Builds of llama.cpp: which is the engine, and whether each can be."""


@command.command(name="ls")
@options.JSON
def list_engines(as_json: bool) -> None:
    """The installed builds, and the one that is chosen (*)."""
    examined = engines.examined_engines()
    if as_json:
        print_json({"engines": [_document(each) for each in examined]})
        return
    rows = [
        ("", "ENGINE", "VERSION", "LLAMA.CPP", "BACKENDS", "PROMPT/DECODE", "VERDICT"),
        *map(_row, examined),
    ]
    for i, line in enumerate(columns(rows, left=7)):
        print_line(line, bold=i == 0, wrap=False)
    for each in examined:
        info(
            f"{each.candidate.name}: {each.reason}"
            if each.verdict.accepted
            else each.verdict.message
        )


@command.command(name="check")
@click.argument("engine", metavar="[NAME|DIR]", required=False)
@options.JSON
def check_engine(engine: str | None, as_json: bool) -> int:
    """Examine a build again: the engine, or the one of this name or directory."""
    examined = engines.examine_engine(engine)
    if as_json:
        print_json(_document(examined))
    else:
        for line in columns(list(_facts(examined)), left=2):
            print_line(line, wrap=False)
    return ExitCode.OK if examined.verdict.accepted else ExitCode.FAILED


@command.command(name="use")
@click.argument("engine", metavar="NAME|DIR|auto")
@options.JSON
def use_engine(engine: str, as_json: bool) -> None:
    """Choose the engine for good: a name, the directory of a build, or auto."""
    used = engines.use_engine(engine)
    asyncio.run(engine_change())  # a change that was asked for is no news later
    if as_json:
        print_json(_document(used))
    else:
        print_line(f"The engine is {used.candidate.name}. {used.reason}", wrap=False)
    if (variable := engines.overriding_variable()) is not None:
        warn(f"LOCALLLM_ENGINE={variable} is set and comes before this choice. Unset it.")


@command.command(name="bench")
@click.argument("model")
@click.option("--engine", "chosen", multiple=True, metavar="NAME|DIR",
              help="Measure this build; repeatable (default: those of `engine ls`).")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 100), default=3, metavar="N",
              help="Turns of each build (default 3).")  # fmt: skip
@options.JSON
@options.QUIET
def bench_engines(
    model: str, chosen: tuple[str, ...], rounds: int, as_json: bool, quiet: bool
) -> None:
    """Measure builds side by side on MODEL, in turns; `engine ls` shows the rates, and `suggest`
    expects as much of this machine with the build."""
    from localllm.cli.commands.setup.engine_bench import measure

    if chosen:
        candidates = [find_candidate(each) for each in chosen]
    else:
        usable = [each for each in engines.examined_engines() if each.verdict.accepted]
        candidates = [each.candidate for each in sorted(usable, key=lambda e: not e.chosen)]
    done = asyncio.run(measure(candidates, model, rounds=rounds, quiet=quiet))
    measured = done.rates
    base = next(iter(measured.values()))
    if as_json:
        print_json({"rounds": rounds, "engines": [
            {"id": engine.name, "path": engine.directory, "rates": rates,
             "prompt_ratio": rates.prompt_tps / base.prompt_tps,
             "decode_ratio": rates.decode_tps / base.decode_tps}
            for engine, rates in measured.items()
        ]})  # fmt: skip
    else:
        rows = [("ENGINE", "PROMPT", "RATIO", "DECODE", "RATIO")] + [
            (engine.name, format_rate(rates.prompt_tps),
             f"{rates.prompt_tps / base.prompt_tps:.2f}", format_rate(rates.decode_tps),
             f"{rates.decode_tps / base.decode_tps:.2f}")
            for engine, rates in measured.items()
        ]  # fmt: skip
        for i, line in enumerate(columns(rows, left=1)):
            print_line(line, bold=i == 0, wrap=False)
    measurements.add(paths.measurements_file(paths.data_dir()), *done.measurements, warn=warn)
    try:
        keep_rates(measured)
    except OSError as error:
        warn(f"The rates cannot be kept: {error.strerror or error}.")


def _document(each: ExaminedEngine) -> dict[str, object]:
    """Return what `--json` prints of a build."""
    build, verdict = each.verdict.build, each.verdict
    return {
        "id": each.candidate.name,
        "path": each.candidate.directory,
        "version": each.candidate.version or verdict.llama_cpp or None,
        "verdict": "accepted" if verdict.accepted else "refused",
        "chosen": each.chosen,
        "reason": each.reason or None,
        "rates": known_rates(each.candidate),
        "refused": verdict.refused,
        "advice": verdict.advice or None,
        "llama_cpp": verdict.llama_cpp or None,
        "commit": build.commit if build else None,
        "backends": build.backends if build else (),
        "devices": build.devices if build else (),
        "layouts": dict(verdict.layouts),
        "vision_problem": verdict.vision_problem,
        "examination_s": verdict.seconds or None,
    }


def _row(each: ExaminedEngine) -> tuple[str, ...]:
    build, verdict = each.verdict.build, each.verdict
    return (
        "*" if each.chosen else "",
        each.candidate.name,
        each.candidate.version or "",
        f"{verdict.llama_cpp} {(build and build.commit) or ''}".strip(),
        ", ".join(build.backends) if build else "",
        _rates(each),
        "refused" if not verdict.accepted else "ok" if not verdict.vision_problem else "no images",
    )


def _rates(each: ExaminedEngine) -> str:
    rates = known_rates(each.candidate)
    if rates is None:
        return ""
    return f"{format_rate(rates.prompt_tps)}, {format_rate(rates.decode_tps)} ({rates.model})"


def _facts(each: ExaminedEngine) -> list[tuple[str, str]]:
    build, verdict = each.verdict.build, each.verdict
    facts = [
        ("Engine", f"{each.candidate.name} {each.candidate.version or ''}".strip()),
        ("Directory", str(each.candidate.directory)),
    ]
    if build is not None:
        commit = f" ({build.commit})" if build.commit else ""
        facts += [("llama.cpp", f"{verdict.llama_cpp}{commit}")]
        facts += [("Backends", ", ".join(build.backends))]
        facts += [("Device", f"{d.name}: {d.description}") for d in build.devices]
        facts += [("Layout", f"{name} as in {commit}") for name, commit in verdict.layouts]
    if verdict.refused is not None:
        facts += [("Verdict", f"refused: {verdict.refused}"), ("Advice", verdict.advice)]
        return facts
    seconds = f"{verdict.seconds:.1f} s"
    facts += [("Images", verdict.vision_problem or "yes")]
    return [*facts, ("Verdict", f"accepted, examined in {seconds}")]
