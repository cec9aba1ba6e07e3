"""What every verb prints with: data to stdout, talk to stderr, nothing from outside as markup.

Rich is imported where something is drawn: a verb that prints JSON answers sooner without it.
"""

import dataclasses
import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, TextIO

import click

from localllm.core.text import single_line, strip_controls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_PIPE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, which has no width of its own."""


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document on stdout, in ASCII, so that any pipe and terminal carries it.

    Dataclasses and paths may be in it. Raises ValueError for a number that JSON does not have
    (NaN, infinity): unknown is None.
    """
    text = json.dumps(document, indent=2, allow_nan=False, default=_plain)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def stdout() -> "Console":
    """Make a console for data: colour on a terminal only, and never with NO_COLOR."""
    return _console(sys.stdout)


def stderr() -> "Console":
    """Make a console for talk (progress, warnings, notes), coloured by the same rule."""
    return _console(sys.stderr)


def literal(text: str, style: str = "") -> "Text":
    """Make one line of text that others wrote (a name, a path): no markup, escapes or controls."""
    from rich.text import Text

    return Text(single_line(text), style=style)


def say(text: str, *, bold: bool = False, dim: bool = False, err: bool = False) -> None:
    """Print a line without Rich, whose import takes a tenth of `suggest`: wrapped at the
    terminal's width, styled by the same rule as a console, and safe with text of others."""
    stream = sys.stderr if err else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    text = strip_controls(text).replace("\n", " ")
    width = shutil.get_terminal_size().columns
    if stream.isatty() and len(text) > width:
        indent = " " * (len(text) - len(text.lstrip()))
        text = textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False)
    if bold or dim:
        text = click.style(text, bold=bold or None, dim=dim or None)
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)


def columns(rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Align rows of cells, the first `left` columns to the left and the others to the right."""
    rows = [[single_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # what it cannot show is a "?", not a crash
    console = Console(file=stream, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _plain(value: object) -> object:
    """Give json what it does not know by itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
