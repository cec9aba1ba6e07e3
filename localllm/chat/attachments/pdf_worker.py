"""The program that reads one PDF file, in a process of its own: `python -m` this module.

A PDF comes from outside and may be made to loop, or to unpack to gigabytes; the process that reads
it can be ended at any time, and where the system can limit its memory, it is limited. The first
line of its input is the task; each line of its output is one value of JSON, page after page, so
that what was read stays when it is ended.
"""

import json
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from localllm.translation import N_

if TYPE_CHECKING:
    from pypdf import PageObject

MAX_PAGE_CHARS = 500_000
"""Of one page: a table of a thousand lines has a tenth of it."""

_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\xad": ""}
)
"""One character each in the fonts of PDF files; nobody searches for them, and models split them."""

Value: TypeAlias = str | int


def main() -> int:
    """Read the task from stdin and write what the file holds."""
    task = json.loads(sys.stdin.readline())
    _limit_memory(task["memory_bytes"])
    logging.disable(logging.CRITICAL)  # pypdf says much of damaged files, on stderr
    try:
        for value in _read(task["path"], task["max_pages"]):
            _write(value)
    except MemoryError:
        _write({"error": "memory"})
    except RecursionError:
        _write({"error": "broken", "reason": N_("it is nested too deep")})
    except Exception as error:  # noqa: BLE001  # pypdf raises whatever a damaged file leads to
        _write({"error": "broken", "reason": f"{type(error).__name__}: {error}"[:200]})
    return 0


def _read(path: str, max_pages: int) -> Iterator[dict[str, Value]]:
    from pypdf import PasswordType, PdfReader

    with open(path, "rb") as file:  # noqa: PTH123
        reader = PdfReader(file)
        if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
            yield {"error": "encrypted"}
            return
        yield {"pages": len(reader.pages)}
        for number, page in enumerate(reader.pages[:max_pages], 1):
            text = _text_of(page)
            yield {"page": number, "text": text or "", "failed": int(text is None)}
        yield {"end": 1}


def _text_of(page: "PageObject") -> str | None:
    """Return the text of a page; None for one that is damaged."""
    try:
        text = page.extract_text()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # one damaged page does not cost the others
        return None
    cleaned = text[:MAX_PAGE_CHARS].translate(_LIGATURES).replace("\0", "")
    return cleaned.encode("utf-8", "replace").decode()


def _limit_memory(size_bytes: int) -> None:
    if sys.platform == "win32":
        return  # the parent's limit of time is all there is
    import resource

    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        try:
            _, hard = resource.getrlimit(limit)
            lowest = size_bytes if hard == resource.RLIM_INFINITY else min(size_bytes, hard)
            resource.setrlimit(limit, (lowest, hard))
        except (ValueError, OSError):
            continue  # macOS takes no limit of the address space


def _write(value: dict[str, Value]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
