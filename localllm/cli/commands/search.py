"""`localllm search`: GGUF repositories on the Hub."""

import click
from rich.table import Table

from localllm.cli import options
from localllm.cli.hub_client import open_hub
from localllm.cli.output import info, literal, print_json, stdout
from localllm.errors import ExitCode, UsageError
from localllm.library.hub.hub import SearchHit

MAX_FOUND = 100
_LONGEST = 200


@click.command(name="search")
@click.argument("text", nargs=-1, required=True, metavar="TEXT...")
@click.option("--limit", type=click.IntRange(1, MAX_FOUND), default=20, help="Rows (default 20).")
@options.OFFLINE
@options.JSON
@options.QUIET
def command(text: tuple[str, ...], limit: int, offline: bool, as_json: bool, quiet: bool) -> int:
    """GGUF repositories on the Hub, the most downloaded first.

    `localllm show ORG/REPO` lists what one holds, `localllm pull ORG/REPO` downloads from it.
    """
    words = " ".join(text).strip()
    if not words or len(words) > _LONGEST:
        raise UsageError(f"Search for 1 to {_LONGEST} characters; {len(words)} were given.")
    with open_hub(offline=offline, quiet=quiet) as hub:
        found = hub.search(words, limit=limit)
    if as_json:
        print_json({"repositories": list(found)})
    elif found:
        stdout().print(table(found))
    else:
        info(f"No GGUF repository matches {words!r}. Try fewer or other words.")
    return ExitCode.OK


def table(found: tuple[SearchHit, ...]) -> Table:
    """Draw repositories as rows."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column("REPOSITORY", overflow="fold")
    for title in ("DOWNLOADS", "LIKES", "UPDATED"):
        drawn.add_column(title, justify="right", no_wrap=True)
    drawn.add_column("ACCESS", no_wrap=True)
    for each in found:
        drawn.add_row(
            literal(each.name),
            count(each.downloads),
            count(each.likes),
            literal((each.updated or "unknown")[:10]),
            "gated" if each.gated else "open",
        )
    return drawn


def count(number: int | None) -> str:
    """Write a number with its thousands apart; "unknown" for None."""
    return "unknown" if number is None else f"{number:,}"
