"""The rows of the models place: models and their files, of the catalogue, this disk and the Hub.

A group is a model, a row one file of it. What is installed stands in the group of the catalogue's
model that it is, in place of the file that could be downloaded.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from localllm.core.catalogue.catalogue import Entry, Task
from localllm.core.model.purpose import why_not_generative
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend import Candidate
from localllm.core.text import single_line
from localllm.library.store.installed import InstalledModel
from localllm.translation import N_

if TYPE_CHECKING:  # what asks the network takes a moment to import
    from localllm.library.hub.hub import HubRepo, SearchHit


class Source(StrEnum):
    """Where a model can be had."""

    INSTALLED = "installed"
    CATALOGUE = "catalogue"
    HUB = "hub"


class Ability(StrEnum):
    """What a model can do, as a filter names it."""

    CHATS = "chats"
    CODES = "codes"
    REASONS = "reasons"
    SEES = "sees"
    TOOLS = "tools"
    EMBEDS = "embeds"
    RANKS = "ranks"


ABILITY_LABELS: Final[Mapping[Ability, str]] = MappingProxyType(
    {
        Ability.CHATS: N_("chats"),
        Ability.CODES: N_("codes"),
        Ability.REASONS: N_("reasons"),
        Ability.SEES: N_("sees"),
        Ability.TOOLS: N_("tools"),
        Ability.EMBEDS: N_("embeds"),
        Ability.RANKS: N_("ranks"),
    }
)
_TASKS: Final[Mapping[Task, Ability]] = MappingProxyType(
    {
        Task.CHAT: Ability.CHATS,
        Task.CODE: Ability.CODES,
        Task.REASONING: Ability.REASONS,
        Task.VISION: Ability.SEES,
        Task.EMBED: Ability.EMBEDS,
        Task.RERANK: Ability.RANKS,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantRow:
    """One file of a model. `candidate` is None for an installed file that cannot be read; `problem`
    says why, or what is wrong with its files."""

    key: str
    quant: str
    file_bytes: int
    candidate: Candidate | None
    installed: InstalledModel | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGroup:
    """One model. `rows` are its files, the smallest first; of a repository that was found on the
    Hub none is known until it is read. None: not known."""

    key: str
    name: str
    source: Source
    rows: tuple[QuantRow, ...]
    title: str = ""
    repositories: tuple[str, ...] = ()
    license: str | None = None
    business: bool | None = None
    parameters: int | None = None
    active_parameters: int | None = None
    abilities: frozenset[Ability] = field(default_factory=frozenset)
    context: int | None = None
    released: date | None = None
    architecture: str | None = None
    downloads: int | None = None
    gated: bool = False
    found_by: str = ""
    """The words that the Hub was asked for when it named this repository."""

    @property
    def installed(self) -> bool:
        return any(row.installed is not None for row in self.rows)

    @property
    def words(self) -> str:
        """What a filter's text is looked for in, in lower case."""
        installed = (row.installed.name for row in self.rows if row.installed is not None)
        parts = (self.name, self.title, self.license or "", self.found_by)
        return " ".join((*parts, *self.repositories, *installed, *self.abilities)).lower()


# --- the catalogue ---


def catalogue_groups(
    entries: Sequence[Entry], candidates: Iterable[Candidate]
) -> tuple[ModelGroup, ...]:
    """Make a group of each entry; `candidates` are all their quants."""
    by_model: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_model.setdefault(candidate.model, []).append(candidate)
    return tuple(_of_entry(entry, by_model.get(entry.name, [])) for entry in entries)


def _of_entry(entry: Entry, candidates: Sequence[Candidate]) -> ModelGroup:
    return ModelGroup(
        key=entry.name,
        name=entry.name,
        source=Source.CATALOGUE,
        title=entry.title,
        repositories=entry.repos,
        license=entry.license,
        business=entry.business,
        parameters=entry.parameters,
        active_parameters=entry.active_parameters,
        abilities=frozenset(_TASKS[task] for task in entry.tasks),
        context=entry.context,
        released=entry.released,
        architecture=entry.hparams.architecture,
        rows=_sorted(_row(candidate) for candidate in candidates),
    )


def _row(candidate: Candidate) -> QuantRow:
    return QuantRow(
        key=candidate.file,
        quant=single_line(candidate.quant),
        file_bytes=candidate.size_bytes,
        candidate=candidate,
    )


def _sorted(rows: Iterable[QuantRow]) -> tuple[QuantRow, ...]:
    return tuple(sorted(rows, key=lambda row: (row.file_bytes, row.key)))


# --- this disk ---


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledFacts:
    """An installed model with its header; `candidate` is None when it cannot be read."""

    model: InstalledModel
    candidate: Candidate | None
    problem: str | None = None
    generates: bool = True


def with_installed(
    groups: Sequence[ModelGroup], installed: Sequence[InstalledFacts]
) -> tuple[ModelGroup, ...]:
    """Put installed models into the groups of what they are, and those of no group before them."""
    into: dict[str, list[InstalledFacts]] = {}
    alone = []
    for facts in installed:
        group = next((each for each in groups if _is_of(facts, each)), None)
        if group is None:
            alone.append(_of_installed(facts))
        else:
            into.setdefault(group.key, []).append(facts)
    return (
        *alone,
        *(_with_files(group, into[group.key]) if group.key in into else group for group in groups),
    )


def _is_of(facts: InstalledFacts, group: ModelGroup) -> bool:
    candidate = facts.candidate
    return (
        candidate is not None
        and group.source is Source.CATALOGUE
        and candidate.parameters == group.parameters
        and candidate.architecture == group.architecture
        and (candidate.released is None or candidate.released == group.released)
    )


def _with_files(group: ModelGroup, installed: Sequence[InstalledFacts]) -> ModelGroup:
    # The group's name, so that what a context costs is worked out once for all its files.
    here = [_installed_row(facts, group.name) for facts in installed]
    quants = {row.quant for row in here}
    others = (row for row in group.rows if row.quant not in quants)
    return replace(group, rows=_sorted((*here, *others)))


def _installed_row(facts: InstalledFacts, name: str) -> QuantRow:
    candidate, model = facts.candidate, facts.model
    if candidate is not None:
        candidate = replace(candidate, model=name)
    return QuantRow(
        key=str(model.path),
        quant=single_line(model.quant or "?"),
        file_bytes=model.size_bytes,
        candidate=candidate,
        installed=model,
        problem=facts.problem,
    )


def _of_installed(facts: InstalledFacts) -> ModelGroup:
    model, candidate = facts.model, facts.candidate
    abilities = {Ability.CHATS} if facts.generates else {Ability.EMBEDS}
    if candidate is not None and candidate.mmproj is not None:
        abilities.add(Ability.SEES)
    return ModelGroup(
        key=f"here:{model.name}",
        name=model.name,
        source=Source.INSTALLED,
        license=model.license,
        parameters=candidate.parameters if candidate else None,
        active_parameters=candidate.active_parameters if candidate else None,
        abilities=frozenset(abilities) if candidate else frozenset(),
        context=candidate.context if candidate else None,
        architecture=candidate.architecture if candidate else None,
        rows=(_installed_row(facts, model.name),),
    )


# --- the Hub ---


def hit_group(hit: "SearchHit") -> ModelGroup:
    """Make the group of a repository that a search found; its files are not known yet."""
    license_ = next((tag for tag in hit.tags if tag.startswith("license:")), None)
    return ModelGroup(
        key=f"hub:{hit.name}",
        name=hit.name,
        source=Source.HUB,
        rows=(),
        repositories=(hit.name,),
        license=license_.removeprefix("license:") if license_ else None,
        downloads=hit.downloads,
        gated=hit.gated,
    )


def repository_group(
    group: ModelGroup, repo: "HubRepo", header: ModelSpec, candidates: Sequence[Candidate]
) -> ModelGroup:
    """Fill in the group of a repository of which the files and a header were read."""
    from localllm.core.model.template_features import shows_thoughts, takes_tools

    generates = why_not_generative(header) is None
    template = header.chat_template or ""
    has = {
        Ability.CHATS: generates,
        Ability.EMBEDS: not generates,
        Ability.SEES: any(candidate.mmproj is not None for candidate in candidates),
        Ability.TOOLS: generates and takes_tools(template),
        Ability.REASONS: generates and shows_thoughts(template),
    }
    return replace(
        group,
        rows=_sorted(map(_row, candidates)),
        license=repo.license or group.license,
        parameters=header.parameters,
        active_parameters=header.active_parameters,
        abilities=frozenset(ability for ability, holds in has.items() if holds),
        context=header.context_train or None,
        architecture=header.architecture,
        gated=repo.gated,
    )


ReadTemplate = Callable[[InstalledModel], str]


def with_template_abilities(group: ModelGroup, read_template: ReadTemplate) -> ModelGroup:
    """Add what the chat templates of a group's installed files show: no list of models has it."""
    from localllm.core.model.template_features import shows_thoughts, takes_tools

    found = set(group.abilities)
    for row in group.rows:
        if row.installed is not None and row.candidate is not None:
            template = read_template(row.installed)
            found |= {Ability.TOOLS} if takes_tools(template) else set()
            found |= {Ability.REASONS} if shows_thoughts(template) else set()
    return replace(group, abilities=frozenset(found))
