"""Print for every verb: data to stdout, messages to stderr, nothing of others as markup.

All of stderr goes through here: `info`, `warn` and `error` for sentences, `write_stderr` for a
stream, `stderr` for what moves (bars). Rich is imported where something is drawn: a verb that
prints JSON answers sooner without it.
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

from localllm.cli.accessibility import chosen_by_variable
from localllm.core.text import single_line, strip_controls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_PIPE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, which has no width of its own."""


def print_json(document: Mapping[str, object], *, indent: int | None = 2) -> None:
    """Print one JSON document on stdout, in ASCII, so that any pipe and terminal carries it.

    Dataclasses and paths may be in it; without an indent it is one line. Raises ValueError for a
    number that JSON does not have (NaN, infinity): unknown is None.
    """
    text = json.dumps(document, indent=indent, allow_nan=False, default=_plain)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def stdout() -> "Console":
    """Make a console for data: colour on a terminal only, and never with NO_COLOR."""
    return _console(sys.stdout)


def stderr() -> "Console":
    """Make a console for bars and spinners, coloured by the same rule."""
    return _console(sys.stderr)


def literal(text: str, style: str = "") -> "Text":
    """Make one line of text that others wrote (a name, a path): no markup, escapes or controls."""
    from rich.text import Text

    return Text(single_line(text), style=style)


def print_line(text: str = "", *, bold: bool = False, dim: bool = False, wrap: bool = True) -> None:
    """Print a line of data without Rich, whose import takes a tenth of `suggest`; wrapped on a
    terminal at its width, unless a command in it is to be copied in one piece."""
    text = _one_line(text)
    _echo(_wrapped(text, sys.stdout) if wrap else text, bold=bold, dim=dim)


def info(
    text: str = "", *, bold: bool = False, dim: bool = False, fg: str | None = None,
    wrap: bool = False,
) -> None:  # fmt: skip
    """Print a message on stderr, on one line so that a command in it can be copied in one piece.

    A sentence without a command may be wrapped.
    """
    text = _one_line(text)
    _echo(_wrapped(text, sys.stderr) if wrap else text, err=True, bold=bold, dim=dim, fg=fg)


def warn(text: str) -> None:
    """Print on stderr that something needs attention."""
    _echo(_styled("Warning: ", bold=True, fg="yellow") + _one_line(text), err=True)


def error(text: str) -> None:
    """Print on stderr why the verb failed."""
    _echo(f"localllm: {strip_controls(text)}", err=True)


def write_stderr(text: str, *, dim: bool = False, end: str = "") -> None:
    """Write a piece of a stream on stderr; what a model wrote has passed a `ControlFilter`."""
    _echo(text, err=True, dim=dim, end=end)


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


def _one_line(text: str) -> str:
    """Outside text on one line with its blanks, which align the columns of a table."""
    return strip_controls(text).replace("\n", " ")


def _wrapped(text: str, stream: TextIO) -> str:
    width = shutil.get_terminal_size().columns
    if not stream.isatty() or len(text) <= width:
        return text
    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False)


def _styled(text: str, *, bold: bool = False, dim: bool = False, fg: str | None = None) -> str:
    if not (text and (bold or dim or fg)):
        return text
    return click.style(text, bold=bold or None, dim=dim or None, fg=fg)


def _echo(
    text: str, *, err: bool = False, bold: bool = False, dim: bool = False, fg: str | None = None,
    end: str = "\n",
) -> None:  # fmt: skip
    """Write text of ours or text that was made safe; colour by the rule of a console."""
    stream = sys.stderr if err else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # what it cannot show is a "?", not a crash
    color = False if os.environ.get("NO_COLOR") or chosen_by_variable() else None
    click.echo(_styled(text, bold=bold, dim=dim, fg=fg) + end, err=err, nl=False, color=color)


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # what it cannot show is a "?", not a crash
    # Where a screen reader reads, nothing moves and nothing is coloured, as in a pipe.
    plain = False if chosen_by_variable() else None
    console = Console(file=stream, markup=False, emoji=False, highlight=False, force_terminal=plain)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _plain(value: object) -> object:
    """Return json a form of what it does not know by itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
