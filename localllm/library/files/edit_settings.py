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

_PLAIN_LINE = r"""\s*{key}\s*=\s*("([^"\\\n]|\\.)*"|'[^'\n]*')(?P<rest>\s*(#.*)?)$"""


def change(key: str, value: str | None, path: Path | None = None) -> Path:
    """Set a text of the first level, or take it out (None). Returns the file.

    Raises UsageError, and leaves the file as it is, when it cannot be read or written, is not
    valid, or has the key written in a way that only a person can change.
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


def with_value(text: str, key: str, value: str | None, *, origin: str = "settings.toml") -> str:
    """Return the text of settings.toml with another value. Raises as `change` does."""
    parse(text, origin=origin)  # what is wrong in it is for a person to mend
    lines = io.StringIO(text, newline="\n").readlines()  # splitlines knows ends that TOML has not
    end = "\r\n" if "\r\n" in text else "\n"
    new = "" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"
    line = re.compile(_PLAIN_LINE.format(key=re.escape(key)))
    table = next((i for i, each in enumerate(lines) if each.lstrip().startswith("[")), len(lines))
    found = [i for i in range(table) if line.match(lines[i].rstrip("\r\n"))]
    if found:
        match = line.match(lines[found[0]].rstrip("\r\n"))
        assert match is not None
        lines[found[0]] = "" if value is None else f"{new}{match['rest']}{end}"
    elif value is not None:
        at = next((i for i, each in enumerate(lines) if not _is_comment(each)), len(lines))
        if at and not lines[at - 1].endswith("\n"):
            lines[at - 1] += end
        lines.insert(at, f"{new}{end}")
    changed = "".join(lines)
    if _values(changed) != {**_without(text, key), **({key: value} if value is not None else {})}:
        raise UsageError(
            f"{key} cannot be changed in {origin}: it is written there in an unusual way. "
            f"Change it by hand: {new or f'delete {key}'}"
        )
    return changed


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _values(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _without(text: str, key: str) -> dict[str, object]:
    return {name: value for name, value in tomllib.loads(text).items() if name != key}
