"""Change one value in settings.toml and leave the rest of the file, comments included, as it is."""

import io
import json
import re
import tomllib
from pathlib import Path

from localllm.errors import UsageError
from localllm.library.files import atomic_write, paths
from localllm.library.files.file_lock import locked
from localllm.library.files.settings import parse

SettingValue = str | bool | int | tuple[str, ...]
"""What can be written: each has one line in TOML. Tables are for a person to write."""

_STRING = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_PLAIN_LINE = (
    rf"\s*{{key}}\s*=\s*(?:{_STRING}|true|false|[+-]?\d[\d_]*"
    rf"|\[\s*(?:{_STRING}\s*,?\s*)*\])(?P<rest>\s*(?:#.*)?)$"
)
_HEADER = r"\s*\[\s*{table}\s*\]\s*(?:#.*)?$"


def change(key: str, value: SettingValue | None, path: Path | None = None) -> Path:
    """Set a value, or take it out (None); `key` is `name` or `table.name`. Returns the file.

    Raises UsageError, and leaves the file as it is, when it cannot be read or written, is not
    valid, has the key written in a way that only a person can change, or the value is not allowed.
    """
    path = path or paths.settings_file()
    target = path.resolve()  # of a link: the file, not the link
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_suffix(".lock")):
            text = target.read_bytes().decode("utf-8") if target.exists() else ""
            changed = with_value(text, key, value, origin=str(path))
            if changed != text:
                private = target.exists() and not target.stat().st_mode & 0o077
                atomic_write.write_atomically(target, changed.encode("utf-8"), private=private)
    except (OSError, UnicodeError, TimeoutError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{path} cannot be changed: {reason}.") from error
    return path


def with_value(
    text: str, key: str, value: SettingValue | None, *, origin: str = "settings.toml"
) -> str:
    """Return the text of settings.toml with another value. Raises as `change` does."""
    parse(text, origin=origin)  # what is wrong in it is for a person to mend
    table, _, name = key.rpartition(".")
    lines = io.StringIO(text, newline="\n").readlines()  # splitlines knows ends that TOML has not
    end = "\r\n" if "\r\n" in text else "\n"
    new = "" if value is None else f"{name} = {_literal(value)}"
    start, stop = _part(lines, table)
    line = re.compile(_PLAIN_LINE.format(key=re.escape(name)))
    found = [i for i in range(start, stop) if line.match(lines[i].rstrip("\r\n"))]
    if found:
        match = line.match(lines[found[0]].rstrip("\r\n"))
        assert match is not None
        lines[found[0]] = "" if value is None else f"{new}{match['rest']}{end}"
    elif value is not None:
        if start > len(lines):  # the table is not there yet
            new, start, stop = f"{end if lines else ''}[{table}]{end}{new}", len(lines), len(lines)
        inner = range(start, stop)
        at = start if table else next((i for i in inner if not _is_comment(lines[i])), stop)
        if at and not lines[at - 1].endswith("\n"):
            lines[at - 1] += end
        lines.insert(at, f"{new}{end}")
    changed = "".join(lines)
    if _values(changed) != _expected(text, table, name, value):
        raise UsageError(
            f"{key} cannot be changed in {origin}: it is written there in an unusual way. "
            f"Change it by hand: {new.splitlines()[-1] if new else f'delete {key}'}"
        )
    parse(changed, origin=origin)
    return changed


def _literal(value: SettingValue) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _part(lines: list[str], table: str) -> tuple[int, int]:
    """Return the lines that belong to a table, "" for the first level: behind the end when there
    is no such table."""
    start = 0
    if table:
        header = re.compile(_HEADER.format(table=re.escape(table)))
        found = (i for i, each in enumerate(lines) if header.match(each.rstrip("\r\n")))
        start = next(found, len(lines)) + 1
    headers = (i for i in range(start, len(lines)) if lines[i].lstrip().startswith("["))
    return start, next(headers, len(lines))


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _values(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _expected(text: str, table: str, name: str, value: SettingValue | None) -> dict[str, object]:
    """Return the values that the changed file has to have."""
    document: dict[str, object] = tomllib.loads(text)
    within = document
    if table:
        inner = document.get(table)
        if not isinstance(inner, dict):
            if value is None:
                return document
            inner = document[table] = {}
        within = inner
    if value is None:
        within.pop(name, None)
    else:
        within[name] = list(value) if isinstance(value, tuple) else value
    return document
