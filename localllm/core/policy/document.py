"""Read the text of a policy, and name the line of each mistake in it.

`[enforced]` and `[recommended]` hold the same keys. Nothing is repaired or passed over: with a key
that is not known, or a value that is not allowed, the administrator's intent is not known either.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from localllm.core.policy.keys import KEYS, PolicyValue
from localllm.core.text import single_line

SCHEMA = 1
TABLES = ("enforced", "recommended")
MAX_BYTES = 2**20
"""More is no policy: a hundred thousand SHA-256 sums have less than 7 MB, a few are usual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """Something in a policy that is not allowed. `line` counts from 1; None: it cannot be said."""

    message: str
    line: int | None = None

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The keys of one table of one file. `place` is the file; `lines` say where each key stands."""

    values: Mapping[str, PolicyValue] = field(default_factory=dict)
    place: str = "the policy"
    lines: Mapping[str, int] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Name the file and the line of a key."""
        line = self.lines.get(key)
        return self.place if line is None else f"{self.place} line {line}"

    def is_on(self, key: str) -> bool:
        """Tell whether a switch is set to true."""
        return self.values.get(key) is True

    def is_off(self, key: str) -> bool:
        """Tell whether a switch is set to false."""
        return self.values.get(key) is False

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list, None for one that is not set."""
        value = self.values.get(key)
        return value if isinstance(value, tuple) else None

    def text(self, key: str) -> str | None:
        """Return a text, None for one that is not set."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """Return a number, None for one that is not set."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocument:
    """A policy file as it was read; with `mistakes` nothing of it may be used."""

    enforced: Rules
    recommended: Rules
    mistakes: tuple[Mistake, ...] = ()


def parse(text: str, *, place: str = "policy.toml") -> PolicyDocument:
    """Read the text of a policy; what is wrong in it stands in `mistakes`, by line."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return _with(place, [_syntax_mistake(str(error))])
    lines = key_lines(text)
    mistakes = list(_schema_mistakes(document, lines))
    tables: dict[str, Rules] = {}
    for name in TABLES:
        table = document.get(name, {})
        if not isinstance(table, dict):
            mistakes.append(Mistake(message=f"{name} must be a table", line=lines.get((name,))))
            continue
        values: dict[str, PolicyValue] = {}
        at: dict[str, int] = {}
        for path, value in _leaves(table):
            line, dotted = _line_of(lines, (name, *path)), ".".join(path)
            if (message := _problem(dotted, value)) is not None:
                mistakes.append(Mistake(message=f"[{name}] {message}", line=line))
                continue
            values[dotted] = KEYS[dotted].value_of(value)
            if line is not None:
                at[dotted] = line
        tables[name] = Rules(values=values, place=place, lines=at)
    if mistakes:
        return _with(place, sorted(mistakes, key=lambda each: each.line or 0))
    return PolicyDocument(enforced=tables["enforced"], recommended=tables["recommended"])


def _with(place: str, mistakes: list[Mistake]) -> PolicyDocument:
    nothing = Rules(place=place)
    return PolicyDocument(enforced=nothing, recommended=nothing, mistakes=tuple(mistakes))


def _syntax_mistake(reason: str) -> Mistake:
    """Make tomllib's message a mistake with its line."""
    found = re.search(r" \(at line (\d+), column \d+\)", reason)
    text = reason if found is None else reason.replace(found[0], "")
    return Mistake(
        message=f"this is not valid TOML: {single_line(text)[:200]}",
        line=None if found is None else int(found[1]),
    )


def _schema_mistakes(
    document: Mapping[str, object], lines: Mapping[tuple[str, ...], int]
) -> Iterator[Mistake]:
    schema = document.get("schema")
    if schema is None:
        yield Mistake(message=f"schema is missing: write schema = {SCHEMA}", line=1)
    elif type(schema) is not int or schema != SCHEMA:
        yield Mistake(
            message=f"schema must be {SCHEMA}: this version of localllm knows no other",
            line=lines.get(("schema",)),
        )
    for name in document:
        if name not in ("schema", *TABLES):
            yield Mistake(
                message=f"{_shown(name)} is neither schema nor one of the tables [enforced] and"
                " [recommended]",
                line=_line_of(lines, (name,)),
            )


def _problem(key: str, value: object) -> str | None:
    """Say what is wrong with a key and its value; None: nothing."""
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KEYS)}"
        return f"{_shown(key)} is no key of a policy: {hint}"
    problem = KEYS[key].problem(value)
    return None if problem is None else f"{key} {problem}"


_PREFIXES = {key.partition(".")[0] for key in KEYS if "." in key}


def _leaves(
    table: Mapping[str, object], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every value with its path; tables are looked into where a key begins so."""
    for name, value in table.items():
        path = (*above, name)
        if isinstance(value, dict) and name in _PREFIXES and not above:
            yield from _leaves(value, path)
        else:
            yield path, value


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Map every key and table that is written plainly to its line: tomllib does not tell."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"\s*\[+\s*([^\]#=]+?)\s*\]+\s*(#.*)?$", line):
            table = _parts(header[1])
            lines.setdefault(table, number)
        elif "=" in line and not line.lstrip().startswith("#"):
            lines.setdefault(table + _parts(line.partition("=")[0]), number)
    return lines


def _line_of(lines: Mapping[tuple[str, ...], int], path: tuple[str, ...]) -> int | None:
    """Return the line of a key, else that of the innermost table around it."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _shown(key: str) -> str:
    return repr(single_line(key)[:80])
