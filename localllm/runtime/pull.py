"""Pull a model: choose the files of a repository for this machine, and fetch them.

The choice is `recommend.plans`' own, so that `pull` takes what `suggest` would. Only a list of
files and the header of one are read before it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core.model.architecture import Purpose
from localllm.core.model.foreign import is_image_model, remedy_for
from localllm.core.policy.policy import ModelFacts
from localllm.core.quality import quality
from localllm.core.recommend import Candidate, FitPlan, Machine, Preferences, load_of, plans
from localllm.core.recommend.repository import Offer
from localllm.core.recommend.repository_files import DRAFTER_REASON, LeftOut
from localllm.core.sizing.fit import Fit, fit_in
from localllm.core.sizing.placement import Budget
from localllm.errors import AccessDenied, DoesNotFit, GgufError, LocalLLMError, NotFound
from localllm.library.download.downloader import download
from localllm.library.download.progress import Progress
from localllm.library.download.target import DownloadedFile, DownloadTarget
from localllm.library.files.names import printable
from localllm.library.http.client import Access
from localllm.library.hub.file_list import HubFile
from localllm.library.hub.hub import Hub, HubRepo
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.policy.active import active_policy, require
from localllm.runtime.find_model import Published
from localllm.runtime.hub_models import (
    HubModels,
    NoSuchQuant,
    offer_of,
    read_repository,
    usual_offer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullPlan:
    """The files to fetch: `files` are the parts of one model in order, `mmproj` the one that goes
    with it. `reasons` say why this quant; `warning` what speaks against it here. `left_out` are
    files of the repository that look like models and cannot be taken."""

    repo: HubRepo
    quant: str
    files: tuple[HubFile, ...]
    mmproj: HubFile | None
    reasons: tuple[str, ...]
    warning: str | None = None
    left_out: tuple[LeftOut, ...] = ()
    architecture: str | None = None

    @property
    def all_files(self) -> tuple[HubFile, ...]:
        return (*self.files, *((self.mmproj,) if self.mmproj else ()))

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.all_files)

    @property
    def name(self) -> str:
        """The name that fetches it again."""
        return f"{self.repo.name}:{self.quant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """A model that is part of the library now, or was `already` with the same digests; `sha256` is
    that of its only file."""

    model: InstalledModel
    resumed_from: int
    transferred_bytes: int
    sha256: str | None
    commit: str
    already: bool = False


# --- choosing ---


def plan_pull(
    published: Published,
    *,
    revision: str | None,
    hub: Hub,
    machine: Machine | None,
    preferences: Preferences,
) -> PullPlan:
    """Decide which files of a published model to fetch, from the first repository that has them.

    Without a quant it is the one that `suggest` takes for this machine; without a machine the
    usual one. Raises NotFound, UsageError for a quant that is not there, DoesNotFit when no quant
    was named and none fits, GgufError for a header that cannot be used, and what the Hub raises.
    """
    errors: list[LocalLLMError] = []
    for repository in published.repositories:
        try:
            hub_models = read_repository(hub, repository, revision, quant=published.quant)
            return plan_from(hub_models, published.quant, machine, preferences)
        except (NotFound, AccessDenied, NoSuchQuant) as error:
            errors.append(error)
    # A repository that wants a token has the model; "not there" is what another one said.
    raise next((error for error in errors if isinstance(error, AccessDenied)), errors[-1])


def plan_from(
    hub_models: HubModels, quant: str | None, machine: Machine | None, preferences: Preferences
) -> PullPlan:
    """Decide among the offers of one repository; see `plan_pull`."""
    architecture = hub_models.header.architecture
    if is_image_model(architecture):
        raise GgufError(
            f"{printable(hub_models.repo.name)} holds no language model ({architecture}). "
            f"{remedy_for(architecture)}"
        )
    if quant is not None:
        offer = offer_of(hub_models, quant)
        return _plan_named(hub_models, offer, machine, preferences)
    default = usual_offer(hub_models)
    if machine is None:
        return _plan(hub_models, default, ("The usual quant.",))
    try:
        best = best_plan(hub_models, machine, preferences)
    except GgufError as error:
        raise GgufError(f"{error}. {_fetch_anyway(default.candidate)}") from error
    if best is None:
        raise DoesNotFit(nothing_fits(hub_models, machine.budget, preferences))
    offer = next(o for o in hub_models.contents.offers if o.candidate.file == best.candidate.file)
    return _plan(hub_models, offer, best.reasons)


def best_plan(hub_models: HubModels, machine: Machine, preferences: Preferences) -> FitPlan | None:
    """Take what `suggest` would of a repository; None when nothing is worth suggesting here."""
    found = plans(hub_models.contents.candidates, preferences, machine, limit=1).plans
    return found[0] if found else None


def _plan_named(
    hub_models: HubModels, offer: Offer, machine: Machine | None, preferences: Preferences
) -> PullPlan:
    """Take a quant that was named; what speaks against it is a warning."""
    candidate = offer.candidate
    reason = f"{printable(candidate.quant)} was asked for."
    warning: str | None = None
    if hub_models.header.arch.purpose is Purpose.DRAFT:  # rates and verdicts would be a model's
        reasons: tuple[str, ...] = ()
        warning = f"{printable(offer.files[0])} is {DRAFTER_REASON}: it cannot be run here."
    elif machine is None:
        reasons = candidate.caveats
    else:
        try:
            reasons, warning = _reasons_and_warning(candidate, machine, preferences)
        except GgufError as error:  # a kind of model whose memory nobody can work out yet
            reasons, warning = candidate.caveats, f"What it needs here is not known: {error}."
    # The other files are not what was asked for.
    plan = _plan(hub_models, offer, (reason, *reasons))
    return replace(plan, warning=warning, left_out=())


def _reasons_and_warning(
    candidate: Candidate, machine: Machine, preferences: Preferences
) -> tuple[tuple[str, ...], str | None]:
    """Return the reasons of a plan, or what speaks against it. Raises GgufError."""
    found = plans((candidate,), preferences, machine, limit=1).plans
    if found:
        return found[0].reasons, None
    fit = _fit(candidate, machine.budget, preferences)
    warning = _loss_sentence(candidate) if fit.fits else fit.message(_title(candidate))
    return candidate.caveats, warning


def _plan(hub_models: HubModels, offer: Offer, reasons: tuple[str, ...]) -> PullPlan:
    return PullPlan(
        repo=hub_models.repo,
        quant=offer.candidate.quant,
        files=hub_models.hub_files(offer.files),
        mmproj=hub_models.mmproj(offer),
        reasons=reasons,
        left_out=tuple(each for each in hub_models.contents.left_out if not each.companion),
        architecture=hub_models.header.architecture,
    )


# --- what does not fit ---


def nothing_fits(hub_models: HubModels, budget: Budget, preferences: Preferences) -> str:
    """Say why nothing of a repository is suggested here, and the smallest change that would
    help."""
    smallest = min(hub_models.contents.candidates, key=lambda each: each.size_bytes)
    fitting = [
        each for each in hub_models.contents.candidates if _fit(each, budget, preferences).fits
    ]
    name = printable(hub_models.repo.name)
    if fitting:
        best = max(fitting, key=lambda each: each.size_bytes)
        larger = f"A larger quant of {name} does not fit here."
        return f"{_loss_sentence(best)} {larger} {_fetch_anyway(best)}"
    fit = _fit(smallest, budget, preferences)
    if not (fit.advice or "").startswith("Try --ctx"):
        fit = replace(fit, advice="It is the smallest file there is: take a smaller model.")
    return f"{fit.message(_title(smallest))} {_fetch_anyway(smallest)}"


def _fit(candidate: Candidate, budget: Budget, preferences: Preferences) -> Fit:
    spec = candidate.spec()
    return fit_in(spec, load_of(spec, preferences, candidate.mmproj), budget)


def _loss_sentence(candidate: Candidate) -> str:
    lost = quality.of(candidate.quant, candidate.parameters, candidate.architecture)
    much = f" ({lost.value:+.1f} % perplexity)" if lost is not None else ""
    return f"{_title(candidate)} loses so much{much} that a smaller model does better."


def _fetch_anyway(candidate: Candidate) -> str:
    return (
        "`localllm suggest` lists what fits; to fetch this one all the same, name its quant:"
        f" {printable(candidate.model)}:{printable(candidate.quant)}"
    )


def _title(candidate: Candidate) -> str:
    return f"{printable(candidate.model)} {printable(candidate.quant)}"


# --- fetching ---


def pull(
    plan: PullPlan,
    *,
    access: Access,
    store: Store,
    dest: Path | None = None,
    name: str | None = None,
    connections: int = 1,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Pulled:
    """Fetch the files of a plan and make them part of the library. Blocks: call it in a thread.

    What is installed already with the same digests is not fetched again. Raises PolicyRefused
    before anything is fetched, what `download` and the library raise, and GgufError for a file that
    arrived whole and no model can be made of.
    """
    require(active_policy().allows_fetch(facts_of(plan)))
    if (model := already_installed(plan, store)) is not None:
        return replace(_pulled(plan, model, ()), already=True)
    done = download(
        download_targets(plan, store, dest),
        access,
        connections=connections,
        on_progress=on_progress,
        stop=stop,
    )
    return _pulled(plan, _add(plan, store, done, name), done)


def facts_of(plan: PullPlan) -> ModelFacts:
    """Return what the policy looks at of a model that is to be fetched, as its repository says."""
    return ModelFacts(
        name=printable(plan.name),
        source=plan.repo.name,
        size_bytes=sum(file.size_bytes for file in plan.files),
        license=plan.repo.license,
        sha256s=tuple(file.sha256 for file in plan.all_files),
    )


def download_targets(
    plan: PullPlan, store: Store, dest: Path | None = None
) -> tuple[DownloadTarget, ...]:
    """Return the files to fetch with their places. Raises StoreError for a hostile name."""
    repo, commit = plan.repo.name, plan.repo.commit
    return tuple(
        DownloadTarget(
            repo=repo,
            commit=commit,
            name=file.name,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            path=store.download_path(repo, commit, file.name, file.sha256, dest),
        )
        for file in plan.all_files
    )


def already_installed(plan: PullPlan, store: Store) -> InstalledModel | None:
    """Find the installed model with the same digests, its mmproj included, if its files are
    there."""
    digests = tuple(file.sha256 for file in plan.files)
    if None in digests:
        return None
    for model in store.installed():
        have = tuple(part.sha256 for part in model.files)
        complete = plan.mmproj is None or model.mmproj is not None
        if have == digests and complete and model.intact:
            return model
    return None


def _add(
    plan: PullPlan, store: Store, done: tuple[DownloadedFile, ...], name: str | None
) -> InstalledModel:
    files = tuple(each.path for each in done[: len(plan.files)])
    try:
        return store.add_download(
            files,
            repo=plan.repo.name,
            commit=plan.repo.commit,
            sha256s={each.path: each.sha256 for each in done},
            mmproj=done[-1].path if plan.mmproj is not None else None,
            license=plan.repo.license,
            name=name,
        )
    except GgufError as error:
        raise GgufError(
            f"{printable(plan.name)} arrived as it is published and cannot be used: {error} Its"
            f" files are kept in {printable(files[0].parent)} and are no part of the library."
        ) from error


def _pulled(plan: PullPlan, model: InstalledModel, done: tuple[DownloadedFile, ...]) -> Pulled:
    return Pulled(
        model=model,
        resumed_from=sum(each.resumed_from for each in done),
        transferred_bytes=sum(each.transferred_bytes for each in done),
        sha256=model.sha256,
        commit=plan.repo.commit,
    )
