"""What the list is made of, read from this disk: the catalogue, the installed models with their
headers, and the machine. Everything blocks: call it in a thread."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from localllm.core.catalogue.catalogue import Entry
from localllm.core.model.purpose import why_not_generative
from localllm.errors import LocalLLMError
from localllm.library.store.header_cache import cached_spec
from localllm.library.store.installed import InstalledModel
from localllm.runtime.local_machine import machine_of
from localllm.runtime.memory_outlook import MemoryOutlook
from localllm.runtime.suggest import candidates, installed_candidates
from localllm.tui.app_words import app_words
from localllm.tui.screens.models.groups import (
    InstalledFacts,
    ModelGroup,
    catalogue_groups,
    with_installed,
)
from localllm.tui.screens.models.sizing import ThisMachine
from localllm.tui.widgets.memory_bar import machine_memory


def read_groups(
    entries: tuple[Entry, ...], installed: Sequence[InstalledModel]
) -> tuple[ModelGroup, ...]:
    """Make the groups of the catalogue's entries and of what is installed, whose headers are
    read."""
    groups = catalogue_groups(entries, candidates(entries))
    return with_installed(groups, tuple(_facts(installed, entries)))


def _facts(
    installed: Sequence[InstalledModel], entries: tuple[Entry, ...]
) -> Iterator[InstalledFacts]:
    for model in installed:
        problem = model.problem
        if problem is not None:
            yield InstalledFacts(model=model, candidate=None, problem=app_words(f"{problem}."))
            continue
        try:
            spec = cached_spec(model)
            candidate = next(installed_candidates((model,), entries), None)
        except LocalLLMError as error:
            yield InstalledFacts(model=model, candidate=None, problem=app_words(str(error)))
            continue
        yield InstalledFacts(
            model=model, candidate=candidate, generates=why_not_generative(spec) is None
        )


def this_machine(outlook: MemoryOutlook) -> ThisMachine:
    """Work out what this machine has when the models in memory make room.

    Raises LocalLLMError when the bandwidth of its memory cannot be measured.
    """
    budget = outlook.budget(tuple(outlook.held))
    machine = machine_of(outlook.hardware, outlook.reserve_bytes)
    return ThisMachine(
        hardware=outlook.hardware,
        machine=replace(machine, budget=budget),
        memory=machine_memory(outlook.hardware, budget, outlook.reserve_bytes),
    )
