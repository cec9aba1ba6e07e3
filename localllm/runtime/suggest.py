"""Candidates for this machine: every published quant of the catalogue, and what is installed.

`localllm suggest` answers from here in a third of a second, so what reads installed models is
imported where there is one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from localllm.core.catalogue.catalogue import Entry, Task
from localllm.core.hardware import HardwareInfo
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend import Candidate, FitPlan, Goal, Preferences, Verdict, plans
from localllm.core.sizing.load import DEFAULT_CONTEXT
from localllm.errors import LocalLLMError
from localllm.library.files import settings
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import context_or_default
from localllm.runtime.local_machine import likely_graphs, machine_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestionPreferences:
    """What a person wants of a suggestion. `context` None: that of the settings. `parallel`: people
    at once, each with that context."""

    goal: Goal = Goal.BALANCED
    context: int | None = None
    parallel: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestions:
    """The best plans first, the licence of each model by its name, how many models were compared
    and are not here yet, and a sentence on the next better one, or "". `context` is that of each
    plan."""

    plans: tuple[FitPlan, ...] = ()
    licenses: Mapping[str, str] = field(default_factory=dict)
    compared: int = 0
    next_better: str = ""
    context: int = DEFAULT_CONTEXT


def suggestions(
    found: HardwareInfo,
    installed: tuple[InstalledModel, ...],
    chosen: SuggestionPreferences | None = None,
    *,
    limit: int = 5,
) -> Suggestions:
    """Choose the best chat models of the catalogue that fit this machine and are not installed.

    Reads the library's files and may measure the machine: call it in a thread.
    Raises LocalLLMError when the catalogue or the settings cannot be read.
    """
    chosen = chosen or SuggestionPreferences()
    user = settings.load()
    entries = tuple(entry for entry in read_catalogue() if Task.CHAT in entry.tasks)
    have = tuple(each.spec() for each in installed_candidates(installed, entries))
    entries = tuple(entry for entry in entries if not any(_same(entry, spec) for spec in have))
    preferences = Preferences(
        goal=chosen.goal,
        context=context_or_default(chosen.context, user),
        parallel=chosen.parallel,
        graphs=likely_graphs(),
    )
    advice = plans(
        candidates(entries), preferences, machine_of(found, user.reserve_bytes), limit=limit
    )
    return Suggestions(
        plans=tuple(plan for plan in advice.plans if plan.verdict is not Verdict.DOES_NOT_FIT),
        licenses={entry.name: entry.license for entry in entries},
        compared=len(entries),
        next_better=advice.next_better or "",
        context=preferences.context,
    )


def candidates(entries: tuple[Entry, ...]) -> Iterator[Candidate]:
    """Return every published quant of the catalogue's entries."""
    for entry in entries:
        for quant in entry.quants:
            yield Candidate(
                model=entry.name,
                quant=quant,
                file=f"{entry.repos[0]}:{quant}",
                size_bytes=entry.file_bytes(quant),
                parameters=entry.parameters,
                active_parameters=entry.active_parameters,
                architecture=entry.hparams.architecture,
                released=entry.released,
                installed=False,
                spec=partial(entry.spec, quant),
                mmproj=entry.mmproj,
                context=entry.context,
                weight_reads=partial(entry.weight_reads, quant),
                cache_reads=entry.cache_reads,
            )


def installed_candidates(
    models: tuple[InstalledModel, ...], entries: tuple[Entry, ...]
) -> Iterator[Candidate]:
    """Return every installed model whose file is there and passes the gatekeeper."""
    from localllm.library.store.header_cache import cached_spec

    for model in models:
        if model.missing:
            continue
        try:
            spec = cached_spec(model)
        except LocalLLMError:
            continue  # `ls` and `show` say what is wrong with it
        yield _installed(model, spec, entries)


def _installed(model: InstalledModel, spec: ModelSpec, entries: tuple[Entry, ...]) -> Candidate:
    """Make an installed file a candidate. Its release date is that of the catalogue's entry with
    the same architecture and the same number of parameters, if there is one."""
    from localllm.library.store.companions import usable_mmproj

    entry = next((entry for entry in entries if _same(entry, spec)), None)
    return Candidate(
        model=model.name,
        quant=model.quant or "?",
        file=str(model.path),
        size_bytes=model.size_bytes,
        parameters=spec.parameters,
        active_parameters=spec.active_parameters,
        architecture=spec.architecture,
        released=entry.released if entry else None,
        installed=True,
        spec=lambda: spec,
        mmproj=usable_mmproj(model, spec)[0],
    )


def _same(entry: Entry, spec: ModelSpec) -> bool:
    return entry.parameters == spec.parameters and entry.hparams.architecture == spec.architecture
