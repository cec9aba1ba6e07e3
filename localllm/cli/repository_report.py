"""`localllm show ORG/REPO`: the models of a repository of the Hub, each judged on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from localllm.cli.hub_client import open_hub
from localllm.cli.output import literal, print_json, stdout, warn
from localllm.core.recommend import FitPlan, Preferences, evaluate
from localllm.core.recommend.repository import Offer
from localllm.core.recommend.repository_files import model_files
from localllm.core.units import format_bytes
from localllm.errors import AccessDenied, GgufError, UsageError
from localllm.library.files import settings
from localllm.library.files.references import read_reference
from localllm.library.hub.hub import HubRepo
from localllm.runtime.hub_models import HubModels, hub_models_of, repo_files
from localllm.runtime.load_policy import context_or_default
from localllm.runtime.local_machine import likely_graphs, this_machine
from localllm.runtime.pull import best_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file (or the parts of one) that can be fetched, and how it would do here.

    `verdict` is None when no header could be read; `pick` marks what `pull` takes when no quant is
    named.
    """

    quant: str | None
    files: tuple[str, ...]
    size_bytes: int
    verdict: str | None = None
    decode_tps: float | None = None
    pick: bool = False
    note: str | None = None
    mmproj: str | None = None


def show_repository(model: str, revision: str | None, *, offline: bool, as_json: bool) -> None:
    """Print what a repository holds. Raises what the Hub raises, UsageError for a quant."""
    named = read_reference(model)
    if named.quant is not None and not named.is_link:
        raise UsageError(f"`show` lists every quant: give {named.name} alone.")
    hub_models, closed = None, None
    with open_hub(offline=offline) as hub:
        repo = hub.repo(named.name, revision or named.revision)
        try:
            hub_models = hub_models_of(hub, repo)
        except (AccessDenied, GgufError) as error:
            closed = str(error)
    rows = tuple(_rows(hub_models)) if hub_models else tuple(_bare_rows(repo))
    if as_json:
        print_json(document(repo, hub_models, rows))
    else:
        stdout().print(_repo_facts(repo))
        stdout().print(_repo_table(rows))
        for left in hub_models.contents.left_out if hub_models else ():
            stdout().print(literal(f"Left out: {left.name}: {left.reason}", style="dim"))
    if closed is not None:
        warn(f"No header could be read, so nothing is known of what fits here. {closed}")


def _rows(hub_models: HubModels) -> Iterator[Row]:
    """Judge each offer on this machine as `suggest` would."""
    user = settings.load()
    machine = this_machine(user.reserve_bytes)[0]
    preferences = Preferences(context=context_or_default(None, user), graphs=likely_graphs())
    try:
        pick = best_plan(hub_models, machine, preferences)
        plans: list[FitPlan | None] = [
            evaluate(offer.candidate, preferences, machine) for offer in hub_models.contents.offers
        ]
    except GgufError as error:  # a kind of model whose memory nobody can work out yet
        warn(f"What fits here is not known: {error}.")
        pick, plans = None, [None for _ in hub_models.contents.offers]
    for offer, plan in zip(hub_models.contents.offers, plans, strict=True):
        yield _row(hub_models, offer, plan, pick)


def _row(hub_models: HubModels, offer: Offer, plan: FitPlan | None, pick: FitPlan | None) -> Row:
    mmproj = hub_models.mmproj(offer)
    return Row(
        quant=offer.candidate.quant,
        files=offer.files,
        size_bytes=offer.candidate.size_bytes,
        verdict=plan.verdict.value if plan else None,
        decode_tps=plan.decode.likely if plan else None,
        pick=pick is not None and pick.candidate.file == offer.candidate.file,
        note=offer.note,
        mmproj=mmproj.name if mmproj else None,
    )


def _bare_rows(repo: HubRepo) -> Iterator[Row]:
    """Make rows of what the list of files alone says."""
    for file in sorted(model_files(repo_files(repo)), key=lambda each: -each.size_bytes):
        yield Row(quant=file.label, files=file.names, size_bytes=file.size_bytes)


def document(
    repo: HubRepo, hub_models: HubModels | None, rows: tuple[Row, ...]
) -> dict[str, object]:
    """Return what `show ORG/REPO --json` prints."""
    return {
        "repository": repo.name,
        "commit": repo.commit,
        "license": repo.license,
        "gated": repo.gated,
        "downloads": repo.downloads,
        "updated": repo.updated,
        "endpoint": repo.endpoint,
        "tags": list(repo.tags),
        "parameters": hub_models.header.parameters if hub_models else None,
        "architecture": hub_models.header.architecture if hub_models else None,
        "offers": list(rows),
        "left_out": list(hub_models.contents.left_out) if hub_models else [],
    }


def _repo_facts(repo: HubRepo) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, value in (
        ("Repository", repo.name),
        ("Commit", repo.commit),
        ("License", repo.license),
        ("Access", "gated: its terms must be accepted" if repo.gated else "open"),
        ("Downloads", None if repo.downloads is None else f"{repo.downloads:,}"),
        ("Updated", repo.updated),
        ("Asked", repo.endpoint),
    ):
        facts.add_row(label, literal("unknown" if value is None else value))
    return facts


def _repo_table(rows: tuple[Row, ...]) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column("QUANT", no_wrap=True)
    drawn.add_column("SIZE", justify="right", no_wrap=True)
    drawn.add_column("HERE", no_wrap=True)
    drawn.add_column("TOK/S", justify="right", no_wrap=True)
    drawn.add_column("FILE", overflow="fold")
    for row in rows:
        parts = f" and {len(row.files) - 1} more parts" if len(row.files) > 1 else ""
        mmproj = f" with {row.mmproj}" if row.mmproj else ""
        good = row.verdict == "good"
        drawn.add_row(
            literal(row.quant or "unknown"),
            format_bytes(row.size_bytes),
            literal((row.verdict or "unknown") + (" (pull takes it)" if row.pick else "")),
            "-" if row.decode_tps is None else f"{row.decode_tps:.0f}",
            literal(f"{row.files[0]}{parts}{mmproj}"),
            style="bold" if row.pick else "" if good else "dim",
        )
    return drawn
