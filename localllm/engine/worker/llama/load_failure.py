"""The reason why llama.cpp refused a file, from its log, and what a person can do about it.

llama.cpp returns a null pointer and nothing else. Its log ends with a line that says only that
loading failed; the exception's text stands before it ("error loading model: key not found in model:
llama.block_count"), and what a backend said of memory before that.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from localllm.core.model.foreign import UPGRADE, remedy_for
from localllm.core.text import single_line

_FUNCTION = re.compile(r"^(?:[A-Za-z]+_\w+|\w+(?:::~?\w+)+):\s+")
"""The function's name that begins most lines: one word with an underscore or a scope."""

_WRAPPING = re.compile(r"^(?:error loading model(?: \w+)?|failed to initialize the context):\s*")
_EMPTY = re.compile(
    r"failed to (load model|initialize the context|create context)\W*$"
    r"|failed to load model from file"
    r"|failed to load model '"
)
_SPECIFIC = "error loading model"
_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|(?:unable|failed) to allocate|bad_alloc|"
    r"not enough space|paging file|mlock",
    re.IGNORECASE,
)
_MAX_SHOWN = 300
_NO_REASON = "it gave no reason"

_OTHER_FILE = (
    "The file was made for another program or by an old converter. Take another file of the model, "
    "one that was converted for llama.cpp."
)
_OTHER_TENSORS = (
    "The file was made for another version of llama.cpp, for a fork of it or for another program. "
    f"Take another file of the model, or try a newer llama.cpp: {UPGRADE}"
)
_NEWER = (
    f"A newer llama.cpp may know it: {UPGRADE}. Otherwise take another file of the model, one that "
    "was converted for llama.cpp."
)
_ADVICE = (
    (re.compile(r"^unknown (?:pre-)?tokenizer"), _NEWER),
    (re.compile(r"^key .*not found|^key \S+ has wrong|^cannot find tokenizer"), _OTHER_FILE),
    (
        re.compile(r"^tensor |wrong number of tensors|wrong shape|missing tensor|^invalid |^unsup"),
        _OTHER_TENSORS,
    ),
    (
        re.compile(r"mmap failed|MapViewOfFile|CreateFileMapping"),
        "The file cannot be mapped. Try --no-mmap, which reads it instead.",
    ),
    (
        re.compile(r"read error|unexpectedly reached end of file|ReadFile"),
        "The file cannot be read to its end. `localllm verify` checks it against what was"
        " published; or copy it to a local disk.",
    ),
    (_MEMORY, "Free memory, or try a smaller --ctx or another quant."),
)
_UNKNOWN_ARCHITECTURE = re.compile(r"^(?:unknown|unsupported) model architecture: '(.*)'")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of llama.cpp's log; `error`: it was logged as one."""

    text: str
    error: bool


def failure_reason(lines: Iterable[LogLine]) -> str | None:
    """Find the line that says why the last call failed, without names of functions; None when none
    says anything.

    What an exception said goes before what was logged as an error, and that before a line that only
    sounds like one. A backend's word on memory, which comes earlier, is added.
    """
    cleaned = [(line, _cleaned(line.text)) for line in lines]
    useful = [(line, text) for line, text in cleaned if text and not _EMPTY.search(text)]
    errors = [text for line, text in useful if line.error]
    specific = [text for line, text in useful if line.error and _SPECIFIC in line.text]
    suspicious = [text for _, text in useful if "error" in text.lower() or "failed" in text.lower()]
    reason = next((found[-1] for found in (specific, errors, suspicious) if found), None)
    if reason is None or not _MEMORY.search(reason):
        return reason
    cause = next((text for text in errors if text != reason and _MEMORY.search(text)), None)
    return reason if cause is None else f"{reason} ({cause})"


def refusal(what: str, lines: Iterable[LogLine]) -> str:
    """Write the message of a LoadFailed: `what` was refused, why, and what to try."""
    reason = failure_reason(lines) or _NO_REASON
    hint = advice(reason)
    end = "" if reason.endswith((".", "!", "?")) else "."
    return f"llama.cpp refused {single_line(what)}: {reason}{end}{' ' if hint else ''}{hint}"


def advice(reason: str) -> str:
    """Say what helps against a reason of `failure_reason`; "" where nothing is known."""
    if architecture := _UNKNOWN_ARCHITECTURE.match(reason):
        return remedy_for(architecture[1])
    return next((text for pattern, text in _ADVICE if pattern.search(reason)), "")


def _cleaned(text: str) -> str:
    """Strip the function's name and the words that wrap another exception's text."""
    text = single_line(text)
    while match := _FUNCTION.match(text) or _WRAPPING.match(text):
        text = text[match.end() :]
    return text[:_MAX_SHOWN]
