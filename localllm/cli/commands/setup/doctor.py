"""`localllm doctor`: whether everything that an answer needs is there, and what to do if not."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime

import click

from localllm.cli import options
from localllm.cli.commands.setup import checks
from localllm.cli.commands.setup.checks import Check
from localllm.cli.library_output import open_library
from localllm.cli.output import print_json, print_line
from localllm.core.model.purpose import why_not_generative
from localllm.core.sizing.load import Speculate
from localllm.core.units import format_rate
from localllm.engine.messages import Finished, GenerateRequest, Message, Role, Sampling
from localllm.errors import ExitCode, LocalLLMError
from localllm.library.files import paths
from localllm.library.files.settings import Settings
from localllm.library.files.settings import load as load_settings
from localllm.library.store.header_cache import cached_spec
from localllm.library.store.installed import FileState, InstalledModel
from localllm.runtime.load_policy import CHAT
from localllm.runtime.loading.gpu_tests import GpuVerdicts
from localllm.runtime.local_machine import machine_and_engine
from localllm.runtime.runtime import ResidentModel, Runtime

ANSWER_TOKENS = 16
ANSWER_CONTEXT = 512


@click.command(name="doctor")
@options.JSON
def command(as_json: bool) -> int:
    """Check this installation, from the engine to a real answer. Sends nothing anywhere."""
    done: list[Check] = []
    for check in run_checks():
        done.append(check)
        if not as_json:
            _print(check)
    healthy = all(check.ok for check in done)
    if as_json:
        print_json({"ok": healthy, "checks": [asdict(check) for check in done]})
    else:
        wrong = sum(not check.ok for check in done)
        print_line()
        print_line("Nothing is wrong." if healthy else f"{wrong} of {len(done)} checks failed.")
    return ExitCode.OK if healthy else ExitCode.FAILED


def run_checks() -> Iterator[Check]:
    """Make every check, the quick ones first."""
    yield checks.settings()
    yield checks.directory("data directory", paths.data_dir(), "LOCALLLM_DATA_DIR")
    yield checks.directory("config directory", paths.config_dir(), "LOCALLLM_CONFIG_DIR")
    yield checks.directory("cache directory", paths.cache_dir(), "LOCALLLM_CACHE_DIR")
    yield checks.models(lambda: open_library().installed())
    yield checks.api_key(paths.key_file())
    yield checks.hub_token()
    yield checks.network(_usable_settings())
    yield checks.clock(datetime.now(UTC), checks.installed_at())
    machine = machine_and_engine()
    yield checks.engine(machine)
    yield checks.gpu(machine)
    yield checks.network_filter(machine)
    if machine.engine is not None:
        yield from asyncio.run(_answers())  # which tests a GPU that was not
    verdicts = GpuVerdicts(paths.gpu_verdicts_file())
    yield checks.gpu_test(machine, verdicts, trusted=_usable_settings().trust_gpu)


def _usable_settings() -> Settings:
    """Return the user's settings, or the defaults while there is a fault in them."""
    try:
        return load_settings()
    except LocalLLMError:
        return Settings()


async def _answers() -> list[Check]:
    """Let the smallest installed model that generates text answer; one that cannot be loaded is a
    check that fails, and the next one is tried."""
    failed: list[Check] = []
    try:
        runtime = Runtime.of_this_machine()
        try:
            for model in candidates(runtime.installed()):
                try:
                    return [*failed, await answer(runtime, model)]
                except LocalLLMError as error:
                    failed.append(
                        Check(
                            name="answer",
                            ok=False,
                            detail=f"{model.name}: {error}",
                            fix=f"localllm show {model.name} says more; localllm rm forgets it.",
                        )
                    )
        finally:
            await runtime.close()
    except LocalLLMError as error:  # the settings or the library
        return [Check(name="answer", ok=False, detail=f"not tried: {error}")]
    return failed or [Check(name="answer", ok=True, detail="not tried: no model is installed")]


def candidates(installed: tuple[InstalledModel, ...]) -> Iterator[InstalledModel]:
    """Yield the models that are intact and generate text, the smallest first."""
    for model in sorted(installed, key=lambda model: model.size_bytes):
        try:
            if model.state is FileState.OK and why_not_generative(cached_spec(model)) is None:
                yield model
        except LocalLLMError:
            continue  # `models` and `localllm ls` say what is wrong with its file


async def answer(runtime: Runtime, model: InstalledModel) -> Check:
    """Load a model and generate a few tokens. Raises LocalLLMError."""
    choice = replace(CHAT, context=ANSWER_CONTEXT, speculate=Speculate.OFF)
    resident: ResidentModel | None = None
    async for event in runtime.load(await runtime.plan(model, choice)):
        if isinstance(event, ResidentModel):
            resident = event
    assert resident is not None, model.name
    question = "Say hello."
    request = GenerateRequest(
        request_id="doctor",
        messages=(Message(role=Role.USER, content=question),)
        if resident.loaded.has_chat_template
        else None,
        prompt=None if resident.loaded.has_chat_template else question,
        sampling=Sampling(temperature=0),
        max_tokens=ANSWER_TOKENS,
        ignore_eos=True,
    )
    end: Finished | None = None
    async for each in runtime.generate(model.name, request):
        if isinstance(each, Finished):
            end = each
    assert end is not None, model.name
    rate = end.timings.decode_tps
    speed = f" at {format_rate(rate)}" if rate is not None else ""
    return Check(
        name="answer",
        ok=end.completion_tokens == ANSWER_TOKENS,
        detail=f"{model.name} generated {end.completion_tokens} tokens{speed}",
    )


def _print(check: Check) -> None:
    print_line(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.detail}", wrap=False)
    if check.fix is not None:
        print_line(f"        {check.fix}", wrap=False)
