"""`localllm import --scan`: adopt what other programs on this machine have."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from localllm.cli import choose
from localllm.cli.output import outside, print_json, stderr, stdout
from localllm.core.units import format_bytes
from localllm.library.scan.places import Place, places
from localllm.library.scan.sweep import Fate, Outcome, sweep

_RUNNERS = "the Hugging Face cache, LM Studio, Ollama and llama.cpp"


def run(*, link: bool, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Scan, and say what was found, adopted, there already, and skipped with the reason."""
    there = places(os.environ, Path.home())
    outcomes: list[Outcome] = []
    talk = stderr()
    talk.quiet = quiet
    with talk.status("Looking ...") as status:
        for outcome in sweep(choose.library(), there, link=link, dry_run=dry_run):
            outcomes.append(outcome)
            status.update(outside(f"{outcome.place.runner}: {outcome.path.name}"))
    if as_json:
        print_json(_document(there, outcomes, dry_run=dry_run))
        return
    if found := [each for each in outcomes if each.model is not None]:
        stdout().print(_table(found, dry_run=dry_run))
    for outcome in outcomes:
        if outcome.reason is not None:
            choose.warn(f"{outcome.place.runner}: {outcome.path}: {outcome.reason}.")
    talk.print(outside(_summary(there, outcomes, dry_run=dry_run)), soft_wrap=True)


def _summary(there: Sequence[Place], outcomes: Sequence[Outcome], *, dry_run: bool) -> str:
    if not there:
        return f"None of {_RUNNERS} has a folder here."
    count = Counter(outcome.fate for outcome in outcomes)
    looked = ", ".join(f"{place.runner} ({place.path})" for place in there)
    adopted = "would be adopted" if dry_run else "adopted, none copied"
    return (
        f"Looked at {looked}: {count[Fate.ADOPTED]} {adopted}; {count[Fate.KNOWN]} there already;"
        f" {count[Fate.SKIPPED]} skipped."
    )


def _document(
    there: Sequence[Place], outcomes: Sequence[Outcome], *, dry_run: bool
) -> dict[str, object]:
    models: dict[Fate, list[object]] = {fate: [] for fate in Fate}
    for each in outcomes:
        if each.model is not None:
            row = choose.row(each.model) | {"runner": each.place.runner, "note": each.reason}
            models[each.fate].append(row)
    return {
        "dry_run": dry_run,
        "places": [{"runner": place.runner, "path": place.path} for place in there],
        "models": models[Fate.ADOPTED],
        "known": models[Fate.KNOWN],
        "skipped": [
            {"runner": each.place.runner, "path": str(each.path), "reason": each.reason}
            for each in outcomes
            if each.fate is Fate.SKIPPED
        ],
    }


def _table(found: Sequence[Outcome], *, dry_run: bool) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column("NAME", no_wrap=True)
    drawn.add_column("QUANT", no_wrap=True)
    drawn.add_column("SIZE", justify="right", no_wrap=True)
    drawn.add_column("FOUND IN", no_wrap=True)
    drawn.add_column("RESULT", no_wrap=True)
    words = {
        Fate.ADOPTED: "would be adopted" if dry_run else "adopted",
        Fate.KNOWN: "there already",
    }
    for each in found:
        assert each.model is not None
        drawn.add_row(
            outside(each.model.name),
            outside(each.model.quant or "unknown"),
            format_bytes(each.model.size_bytes),
            outside(each.place.runner),
            outside(words[each.fate]),
        )
    return drawn
