"""The tools that there are, and those of one conversation.

None of them needs the network, and each costs little. What reads files asks before each call.
"""

import asyncio
import datetime
import json
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from localllm.chat.tools.arithmetic import calculate
from localllm.chat.tools.tool import Arguments, LocalTool, text_argument, whole_argument
from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.translation import N_

MAX_FILE_CHARS = 16_000
DocumentSearch = Callable[[str, int], Awaitable[str]]
"""Search the collections of the conversation for a text; the result has that many passages."""


def _schema(properties: dict[str, object], required: Sequence[str]) -> str:
    return json.dumps({"type": "object", "properties": properties, "required": list(required)})


def _text(description: str) -> dict[str, object]:
    return {"type": "string", "description": description}


async def _calculator(arguments: Arguments) -> str:
    return calculate(text_argument(arguments, "expression"))


CALCULATOR: Final = LocalTool(
    name="calculator",
    summary=N_("calculates exactly: 12.5 % 3, sqrt(2), 2^64"),
    description="Calculate an arithmetic expression exactly. Use it for any calculation.",
    parameters=_schema(
        {"expression": _text("such as (17.5 * 3 + 2) / 7, sqrt(2) or 2^64")}, ["expression"]
    ),
    run=_calculator,
)


def clock_tool(now: Callable[[], datetime.datetime]) -> LocalTool:
    """Make the tool that knows the date; `now` is the local time with its zone."""

    async def run(arguments: Arguments) -> str:
        start = text_argument(arguments, "date", "")
        day = now() if not start else _date(start, now())
        days = whole_argument(arguments, "add_days", 0)
        try:
            day += datetime.timedelta(days=days)
        except OverflowError:
            raise UsageError("That day is outside of the calendar.") from None
        text = day.strftime("%A, %Y-%m-%d" if start or days else "%A, %Y-%m-%d %H:%M %Z").strip()
        text += f", week {day.isocalendar().week}"
        if until := text_argument(arguments, "until", ""):
            difference = _date(until, now()).date() - day.date()
            text += f"; {difference.days} days until {until}"
        return text

    return LocalTool(
        name="date_time",
        summary=N_("knows the date and the time, and counts days"),
        description="Return the current local date and time. With `date`, the weekday of that "
        "day; with `add_days`, a day later or earlier; with `until`, the days to another day.",
        parameters=_schema(
            {
                "date": _text("YYYY-MM-DD; today if it is left out"),
                "add_days": {"type": "integer", "description": "days to add, may be negative"},
                "until": _text("YYYY-MM-DD"),
            },
            [],
        ),
        run=run,
    )


def _date(text: str, today: datetime.datetime) -> datetime.datetime:
    if text.strip().lower() in ("today", "now"):
        return today
    try:
        day = datetime.date.fromisoformat(text.strip()[:10])
    except ValueError:
        raise UsageError(f"{text[:40]!r} is no date: write YYYY-MM-DD.") from None
    return datetime.datetime.combine(day, datetime.time(), today.tzinfo)


async def _count_text(arguments: Arguments) -> str:
    text = text_argument(arguments, "text")
    lines = len(text.splitlines())
    result = f"{len(text)} characters, {len(text.split())} words, {lines} lines"
    if wanted := text_argument(arguments, "find", ""):
        count = text.lower().count(wanted.lower())
        result += f"; {wanted!r} occurs {count} times"
    return result


COUNT_TEXT: Final = LocalTool(
    name="count_text",
    summary=N_("counts characters, words, lines, and how often something occurs"),
    description="Count the characters, words and lines of a text, and how often `find` occurs in "
    "it (upper and lower case are the same). Use it to count letters.",
    parameters=_schema(
        {"text": _text("the text"), "find": _text("a letter, word or phrase to count")}, ["text"]
    ),
    run=_count_text,
)


async def _sort_lines(arguments: Arguments) -> str:
    lines = text_argument(arguments, "text").splitlines()
    order = text_argument(arguments, "order", "alphabetical")
    if text_argument(arguments, "unique", "").lower() in ("true", "yes", "1"):
        lines = list(dict.fromkeys(lines))
    match order:
        case "alphabetical":
            lines.sort(key=str.casefold)
        case "reverse":
            lines.sort(key=str.casefold, reverse=True)
        case "length":
            lines.sort(key=len)
        case _:
            raise UsageError("`order` is alphabetical, reverse or length.")
    return "\n".join(lines)


SORT_LINES: Final = LocalTool(
    name="sort_lines",
    summary=N_("sorts lines, and leaves out those that repeat"),
    description="Sort the lines of a text.",
    parameters=_schema(
        {
            "text": _text("one item on each line"),
            "order": {"type": "string", "enum": ["alphabetical", "reverse", "length"]},
            "unique": {"type": "string", "enum": ["true", "false"]},
        },
        ["text"],
    ),
    run=_sort_lines,
)


async def _read_file(arguments: Arguments) -> str:
    path = paths.absolute(Path(text_argument(arguments, "path")))
    return await asyncio.to_thread(_file_text, path, whole_argument(arguments, "from_line", 1))


READ_FILE: Final = LocalTool(
    name="read_file",
    summary=N_("reads a text file of yours; asks each time"),
    description="Read a text file of the user, who is asked first.",
    parameters=_schema(
        {
            "path": _text("the path of the file"),
            "from_line": {"type": "integer", "description": "the first line to read, from 1"},
        },
        ["path"],
    ),
    run=_read_file,
    asks=True,
)


def _file_text(path: Path, from_line: int) -> str:
    try:
        # Opened without waiting: a named pipe would hang here for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError("That is no file with a text.")
            data = file.read(8 * 2**20)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The file cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None
    if b"\0" in data[:8192]:
        raise UsageError("The file is no text.")
    lines = data.decode("utf-8-sig", "replace").splitlines(keepends=True)
    text = "".join(lines[max(from_line, 1) - 1 :])
    if len(text) <= MAX_FILE_CHARS:
        return text
    kept = text[:MAX_FILE_CHARS]
    line = max(from_line, 1) + kept.count("\n")
    return f"{kept}\n[cut here, in line {line} of {len(lines)}; read on with from_line]"


def search_tool(search: DocumentSearch) -> LocalTool:
    """Make the tool that searches the collections of the conversation."""

    async def run(arguments: Arguments) -> str:
        count = min(max(whole_argument(arguments, "passages", 5), 1), 10)
        return await search(text_argument(arguments, "query"), count)

    return LocalTool(
        name="search_documents",
        summary=N_("searches your collections of documents; asks each time"),
        description="Search the user's own documents for passages about something.",
        parameters=_schema(
            {
                "query": _text("what to look for"),
                "passages": {"type": "integer", "description": "how many, 1 to 10"},
            },
            ["query"],
        ),
        run=run,
        asks=True,
    )


def local_now() -> datetime.datetime:
    """Return the local time with its zone."""
    return datetime.datetime.now().astimezone()


def local_tools(
    *,
    now: Callable[[], datetime.datetime] = local_now,
    search: DocumentSearch | None = None,
) -> tuple[LocalTool, ...]:
    """Return every tool that there is; `search` None: there are no collections to search."""
    tools = (CALCULATOR, clock_tool(now), COUNT_TEXT, SORT_LINES, READ_FILE)
    return tools if search is None else (*tools, search_tool(search))


def chosen_tools(names: Sequence[str], tools: Sequence[LocalTool]) -> tuple[LocalTool, ...]:
    """Return the tools of these names; names of tools that are not there any more are left out."""
    return tuple(each for each in tools if each.name in names)
