"""The models of a repository of the Hub, from its list of files and the header of one of them.

Sizing, suggesting and pulling all start here. Nothing else is read of a repository: a model of
40 GB is known after a few megabytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from localllm.core.model.architecture import Purpose
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend.repository import Offer, RepoOffers, offers_of
from localllm.core.recommend.repository_files import (
    DRAFTER_REASON,
    USUAL_QUANT,
    ModelFile,
    RepoFile,
    files_named,
    header_sources,
    mmproj_for,
    model_files,
    shown_name,
)
from localllm.core.sizing.load import Mmproj
from localllm.core.sizing.mmproj import mmproj_of
from localllm.core.units import format_bytes
from localllm.errors import GgufError, LocalLLMError, NotFound, UsageError
from localllm.library.files.names import printable
from localllm.library.hub.file_list import HubFile
from localllm.library.hub.hub import Hub, HubRepo


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModels:
    """A repository's files, the header of one, and the models that they add up to."""

    repo: HubRepo
    header: ModelSpec
    contents: RepoOffers

    @property
    def files(self) -> tuple[RepoFile, ...]:
        return repo_files(self.repo)

    def mmproj(self, offer: Offer) -> HubFile | None:
        """Find the mmproj that belongs to an offer."""
        whole = (f for f in model_files(self.files) if f.names == offer.files)
        found = next((mmproj_for(f, self.files) for f in whole), None)
        return self.hub_files((found.name,))[0] if found else None

    def hub_files(self, names: Sequence[str]) -> tuple[HubFile, ...]:
        """Find the files of these names, in their order."""
        by_name = {file.name: file for file in self.repo.files}
        return tuple(by_name[name] for name in names)


_MAX_HEADERS = 5
"""Headers that are read of a repository until one is a model's: each may be of some megabytes."""


def read_repository(
    hub: Hub, name: str, revision: str | None = None, *, quant: str | None = None
) -> HubModels:
    """Read a repository's list of files and one header: that of the quant, when it is named.

    Raises NotFound for a repository without a model, UsageError for a quant that is several
    files, GgufError when no header can be used, and what the Hub raises.
    """
    return hub_models_of(hub, hub.repo(name, revision), quant=quant)


def hub_models_of(hub: Hub, repo: HubRepo, *, quant: str | None = None) -> HubModels:
    """As `read_repository`, for a repository whose list of files is here already."""
    files = model_files(repo_files(repo))
    named = _file_called(repo, files, quant)
    if named is not None:
        found = _FirstHeader(header=hub.header(repo, named.names[0]))
    else:
        found = _first_header(hub, repo, files)
    models = HubModels(
        repo=repo,
        header=found.header,
        contents=offers_of(repo.name, found.header, repo_files(repo), unusable=found.unusable),
    )
    return _with_encoders(hub, models)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FirstHeader:
    """The first header that is a model's, and the files before it with what is wrong with them."""

    header: ModelSpec
    unusable: dict[str, str] = field(default_factory=dict)


def _first_header(hub: Hub, repo: HubRepo, files: Sequence[ModelFile]) -> _FirstHeader:
    """Read headers until one is a model's: one bad file must not hide the others.

    Raises NotFound when no file is a model, GgufError when none of those read can be used.
    """
    unusable: dict[str, str] = {}
    error: GgufError | None = None
    for file in header_sources(files)[:_MAX_HEADERS]:
        try:
            header = hub.header(repo, file.names[0])
        except GgufError as bad:
            error = error or bad
            # The cause's text is without the names of repository and file.
            unusable[file.names[0]] = str(bad.__cause__ or bad).rstrip(".")
            continue
        if header.arch.purpose is not Purpose.DRAFT:
            return _FirstHeader(header=header, unusable=unusable)
        unusable[file.names[0]] = DRAFTER_REASON
    if error is not None:
        raise error
    drafters = " that is no drafter" if unusable else ""
    raise NotFound(
        f"{printable(repo.name)} holds no GGUF model{drafters} among its {len(repo.files)} files."
        f" Find one with: localllm search {printable(repo.name.rpartition('/')[2])}"
    )


def _with_encoders(hub: Hub, hub_models: HubModels) -> HubModels:
    """Give each offer the image encoder that is fetched with it: a header of each, a few KiB."""
    sized: dict[str, Mmproj | None] = {}

    def offer_with(offer: Offer) -> Offer:
        file = hub_models.mmproj(offer)
        if file is None:
            return offer
        if file.name not in sized:
            sized[file.name] = _encoder(hub, hub_models, file)
        candidate = replace(offer.candidate, mmproj=sized[file.name])
        return replace(offer, candidate=candidate)

    contents = hub_models.contents
    offers = tuple(offer_with(offer) for offer in contents.offers)
    return replace(hub_models, contents=replace(contents, offers=offers))


def _encoder(hub: Hub, hub_models: HubModels, file: HubFile) -> Mmproj | None:
    """Size an mmproj file: by its header, else as large as the file is; None for one that is
    loaded with no model, as it has no images or was made for another."""
    try:
        header = hub.header(hub_models.repo, file.name)
    except LocalLLMError:  # what can be fetched is not refused because of what goes with it
        return Mmproj(path=file.name, weights_bytes=file.size_bytes)
    try:
        return mmproj_of(header, hub_models.header, path=file.name)
    except GgufError:
        return None


def repo_files(repo: HubRepo) -> tuple[RepoFile, ...]:
    """Return a repository's files as the core knows them."""
    return tuple(RepoFile(name=file.name, size_bytes=file.size_bytes) for file in repo.files)


def usual_offer(hub_models: HubModels) -> Offer:
    """Take the usual quant where there is one, else the smallest.

    Raises NotFound when nothing of the repository can be used.
    """
    if not hub_models.contents.offers:
        first = next(iter(hub_models.contents.left_out), None)
        why = f" {first.name}: {first.reason}." if first else ""
        raise NotFound(f"{printable(hub_models.repo.name)} holds no model that can be used.{why}")
    return min(
        hub_models.contents.offers,
        key=lambda o: (o.candidate.quant != USUAL_QUANT, o.candidate.size_bytes),
    )


class NoSuchQuant(NotFound):
    """The repository is there and does not have the quant that was named."""


def offer_of(hub_models: HubModels, quant: str) -> Offer:
    """Take the offer that a quant's or a file's name means.

    Raises NoSuchQuant, which lists all, and UsageError for a file that cannot be used.
    """
    offers, repo = hub_models.contents.offers, hub_models.repo
    named = _file_called(repo, model_files(hub_models.files), quant)
    for offer in offers:
        if offer.files == named.names if named else offer.candidate.quant == quant.upper():
            return offer
    shown = shown_name(named.names[0]) if named else _shown_file(hub_models, quant)
    for left in hub_models.contents.left_out:
        if left.name == shown:
            raise UsageError(f"{printable(repo.name)}: {left.name} cannot be used: {left.reason}.")
    have = ", ".join(
        f"{printable(o.candidate.quant)} ({format_bytes(o.candidate.size_bytes)})" for o in offers
    )
    raise NoSuchQuant(
        f"{printable(repo.name)} has no {printable(quant)[:80]}."
        f" It has: {have or 'nothing usable'}."
    )


def _shown_file(hub_models: HubModels, name: str) -> str | None:
    """Find a listed file of this name that holds no model, as it is shown."""
    listed = (f.name for f in hub_models.files if name in (f.name, f.name.rpartition("/")[2]))
    return next(map(shown_name, listed), None)


def _file_called(repo: HubRepo, files: Sequence[ModelFile], quant: str | None) -> ModelFile | None:
    """Find the one file that a quant's name means; None when no file's name says it."""
    named = files_named(files, quant) if quant is not None else ()
    if len(named) > 1:
        names = ", ".join(printable(each.names[0]) for each in named)
        raise UsageError(
            f"{printable(repo.name)} has {len(named)} files of {printable(quant or '')[:80]}:"
            f" {names}. Name the file with --quant FILE."
        )
    return named[0] if named else None
