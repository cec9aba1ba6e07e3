"""`localllm suggest`: models and quants that fit here, ranked, each with its reasons."""

from dataclasses import asdict

import click

from localllm.cli import options
from localllm.cli.hub_client import open_hub
from localllm.cli.output import columns, info, print_json, print_line
from localllm.core.catalogue.catalogue import Entry, Task
from localllm.core.model.purpose import why_not_generative
from localllm.core.recommend import (
    Advice,
    Candidate,
    FitPlan,
    Goal,
    Machine,
    Preferences,
    Verdict,
    plans,
)
from localllm.core.sizing.placement import Placement
from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration, parse_bytes
from localllm.errors import ExitCode, UsageError
from localllm.library.files import settings
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.files.references import read_reference
from localllm.runtime.load_policy import context_or_default
from localllm.runtime.local_machine import described_machine, likely_graphs, this_machine
from localllm.runtime.suggest import candidates, installed_candidates

BUSINESS = "business"
"""The word for "any licence that lets a business use it"."""


@click.command()
@click.option("--goal", type=click.Choice([goal.value for goal in Goal]), default="balanced")
@click.option("--repo", "repos", multiple=True, metavar="ORG/REPO",
              help="Choose among this repository's files on the Hub; repeatable.")  # fmt: skip
@options.CONTEXT
@options.PARALLEL
@click.option("--min-tps", metavar="X", type=click.FloatRange(0, 1e6),
              help="Slowest rate called good (default: reading speed, 6 tok/s).")  # fmt: skip
@click.option("--task", type=click.Choice([task.value for task in Task]),
              help="What it is for (default chat).")  # fmt: skip
@click.option("--license", "licenses", metavar="LIST",
              help="SPDX licences, separated by commas, or `business`.")  # fmt: skip
@click.option("--ram", metavar="SIZE", help="System memory that may be used, e.g. 16GiB.")
@click.option("--vram", metavar="SIZE[,SIZE]", help="Memory of each GPU, e.g. 8GiB or 8GiB,8GiB.")
@click.option("--gpu", metavar="NAME", help='A GPU by its name, e.g. "RTX 4060".')
@click.option("--limit", type=click.IntRange(1, 100), default=8, help="Rows (default 8).")
@options.OFFLINE
@options.JSON
def command(
    goal: str,
    repos: tuple[str, ...],
    context: int | None,
    parallel: int,
    min_tps: float | None,
    task: str | None,
    licenses: str | None,
    ram: str | None,
    vram: str | None,
    gpu: str | None,
    limit: int,
    offline: bool,
    as_json: bool,
) -> int:
    """Models and quants that fit here, ranked. Works offline, from the catalogue; only --repo asks
    the Hub, for a list of files and one header.

    With --ram, --vram or --gpu: for a machine that has these; system memory and GPU memory are
    what may be used of them.
    """
    this_one = not (ram or vram or gpu)
    if repos:
        known = _published(repos, task, licenses, offline=offline)
    else:
        entries = _filtered(read_catalogue(), Task(task or Task.CHAT), licenses)
        known = [*candidates(entries)]
        if this_one and task in (None, Task.CHAT) and licenses is None:
            from localllm.library.store.store import Store

            installed = installed_candidates(Store.default().installed(), entries)
            known += (each for each in installed if why_not_generative(each.spec()) is None)
    user = settings.load()
    machine = this_machine(user.reserve_bytes)[0] if this_one else _described(ram, vram, gpu)
    preferences = Preferences(
        graphs=likely_graphs(),
        goal=Goal(goal),
        context=context_or_default(context, user),
        parallel=parallel,
        min_tps=min_tps,
    )
    advice = plans(known, preferences, machine, limit=limit)
    if as_json:
        print_json(document(advice))
    else:
        _print(
            advice, preferences, machine, what=single_line(" or ".join(repos)) or "the catalogue"
        )
    return ExitCode.OK


def _published(
    repos: tuple[str, ...], task: str | None, licenses: str | None, *, offline: bool
) -> list[Candidate]:
    """Read the files of repositories. Raises UsageError for an option that filters the
    catalogue."""
    for option, value in (("--task", task), ("--license", licenses)):
        if value is not None:
            raise UsageError(f"{option} chooses among the catalogue: it does not go with --repo.")
    references = [read_reference(repo) for repo in repos]
    for repo, reference in zip(repos, references, strict=True):
        if not reference.on_hub:
            raise UsageError(f"{single_line(repo)[:200]!r} is no repository: write ORG/REPO.")
    # Only here: everything that asks the network takes a moment to import.
    from localllm.runtime.hub_models import offer_of, read_repository

    known: list[Candidate] = []
    with open_hub(offline=offline) as hub:
        for each in references:
            found = read_repository(hub, each.name, each.revision, quant=each.quant)
            known += (
                found.contents.candidates
                if each.quant is None
                else [offer_of(found, each.quant).candidate]
            )
    return known


def _filtered(entries: tuple[Entry, ...], task: Task, licenses: str | None) -> tuple[Entry, ...]:
    """Filter the catalogue by task and licence. Raises UsageError for a licence that no entry
    has."""
    chosen = tuple(entry for entry in entries if task in entry.tasks)
    if licenses is None:
        return chosen
    allowed = {word.strip().lower() for word in licenses.split(",") if word.strip()}
    known = {entry.license.lower() for entry in entries} | {BUSINESS}
    if unknown := sorted(allowed - known):
        raise UsageError(
            f"No model of the catalogue has the licence {', '.join(unknown)}. "
            f"There are: {BUSINESS}, {', '.join(sorted({entry.license for entry in entries}))}."
        )
    return tuple(
        entry
        for entry in chosen
        if entry.license.lower() in allowed or (BUSINESS in allowed and entry.business)
    )


def _described(ram: str | None, vram: str | None, gpu: str | None) -> Machine:
    sizes = tuple(parse_bytes(word) for word in vram.split(",")) if vram else ()
    return described_machine(parse_bytes(ram) if ram else None, sizes, gpu)


def document(advice: Advice) -> dict[str, object]:
    """Return what `suggest --json` prints."""
    return {
        "plans": [_plan(plan) for plan in advice.plans],
        "next_better": advice.next_better,
    }


def _plan(plan: FitPlan) -> dict[str, object]:
    candidate = plan.candidate
    return {
        "model": candidate.model,
        "quant": candidate.quant,
        "file": candidate.file,
        "installed": candidate.installed,
        "size_bytes": candidate.size_bytes,
        "context": plan.settings.context,
        "parallel": plan.settings.parallel,
        "placement": _placement(plan.placement),
        "footprint": _footprint(plan),
        "decode_tps": asdict(plan.decode),
        "ttft_s": asdict(plan.ttft),
        "quality": None if plan.quality is None else asdict(plan.quality),
        "verdict": plan.verdict.value,
        "reasons": list(plan.reasons),
    }


def _footprint(plan: FitPlan) -> dict[str, object] | None:
    needed = plan.footprint
    return None if needed is None else asdict(needed) | {"total_bytes": needed.total_bytes}


def _placement(placement: Placement) -> dict[str, object]:
    return {
        "gpu_layers": placement.gpu_layers,
        "cpu_moe": placement.cpu_moe,
        "devices": [
            asdict(share) | {"total_bytes": share.total_bytes} for share in placement.devices
        ],
    }


def _print(advice: Advice, preferences: Preferences, machine: Machine, *, what: str) -> None:
    if not advice.plans:
        free = format_bytes(max(0, machine.budget.host_bytes))
        print_line(
            f"Nothing of {what} fits into {free} with {preferences.context} tokens of context. "
            "Try a smaller --ctx, or close other programs."
        )
        return
    titles = ("model", "quant", "need", "tok/s", "first token", "quality", "verdict")
    title, *lines = columns([titles, *map(_row, advice.plans)], left=2)
    print_line(title, bold=True)
    for plan, line in zip(advice.plans, lines, strict=True):
        print_line(line, dim=plan.verdict is not Verdict.GOOD)
    best = advice.plans[0]
    print_line()
    print_line(f"{best.candidate.model} {best.candidate.quant}", bold=True)
    for reason in best.reasons:
        print_line(f"  {reason}")
    if best.candidate.installed:
        print_line(f"  Run it: localllm run {best.candidate.model}")
    else:
        print_line(f"  Published in {best.candidate.file}")
        print_line(f"  Fetch it: localllm pull {best.candidate.model}:{best.candidate.quant}")
    if advice.next_better is not None:
        info(advice.next_better, dim=True, wrap=True)


def _row(plan: FitPlan) -> tuple[str, ...]:
    decode = plan.decode
    return (
        plan.candidate.model + (" (installed)" if plan.candidate.installed else ""),
        plan.candidate.quant,
        format_bytes(sum(share.total_bytes for share in plan.placement.devices)),
        f"{decode.likely:.0f} ({decode.low:.0f}-{decode.high:.0f})",
        format_duration(plan.ttft.likely),
        "-" if plan.quality is None else f"{plan.quality.value:+.1f} % ppl",
        plan.verdict.value,
    )
