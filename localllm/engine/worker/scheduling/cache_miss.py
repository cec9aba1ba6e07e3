"""What broke a prompt that should have been cached. Pure: two prompts in, an explanation out.

The prompt is compared with one that was answered before and is clearly the same but for a part:
up to where they differ, and from there on run by run, for what follows a changed part is known and
must be computed all the same.
"""

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.engine.messages import CacheMiss, MissReason
from localllm.engine.worker.llama.lora import LoraKey
from localllm.engine.worker.prompt.outline import (
    Difference,
    PromptOutline,
    first_difference,
    same_conversation,
)

MIN_LOST_TOKENS = 32
"""Fewer tokens that are computed again are not worth a word."""

_RUN_TOKENS = 8
"""Shorter runs in common are chance, or what templates write around every message."""
_MOST_PLACES = 32
"""At which a run is looked for, of those where it begins: more are repetitions of each other."""
_WINDOW_TOKENS = 16
"""Before and after the first difference, in which a date or a time is looked for."""
_OF_MESSAGES = (MissReason.MESSAGE_EDITED, MissReason.MESSAGES_REMOVED)
_ANSWER_SLACK = 16
"""Tokens before an answer that the template writes with it: the header, the tag of reasoning."""

_MONTH = (
    "(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz|apr(?:il)?|ma[yi]|jun[ei]?|jul[yi]?"
    "|aug(?:ust)?|sep(?:t|tember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_TIMES = re.compile(
    r"""
    \d{4}-\d{1,2}-\d{1,2}(?:[T\ ]\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?)?  # 2026-12-01T02:20:36.5
    | \d{1,2}[./]\d{1,2}[./]\d{2,4}                                      # 1.12.2026, 12/1/26
    | \d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\ ?[ap]\.?m)?               # 02:20:36, 2:20 pm
    | \b(?:\d{10}|\d{13})(?:\.\d+)?\b                                    # Unix time
    | \b(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b
    | \b(?:mon|diens|donners|frei|sams|sonn)tag\b | \bmittwoch\b
    | \d{1,2}(?:st|nd|rd|th|\.)?,?\ MONTH\b\.?(?:,?\ \d{4})?             # 1 December 2026
    | \bMONTH\.?\ \d{1,4}(?:st|nd|rd|th)?\b(?:,?\ \d{4})?               # December 1, 2026
    """.replace("MONTH", _MONTH),
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPrompt:
    """A prompt that was answered. `tokens` are those of it, `prompt_tokens` many, and of the answer
    to it, of which `reasoning_tokens` were reasoning. `outline` None: it was no conversation."""

    tokens: "array[int]"
    prompt_tokens: int
    reasoning_tokens: int = 0
    outline: PromptOutline | None = None
    lora_key: LoraKey = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A prompt and the known one that is most like it, with which it begins for `common` tokens.

    `obstacle`: why these could not all be used although nothing in them has changed. None: they are
    there, and in this kind of memory what comes after them cannot be taken back. `least`: so many
    of them would have been used.
    """

    tokens: "array[int]"
    outline: PromptOutline | None
    known: KnownPrompt
    common: int
    obstacle: MissReason | None = None
    least: int = MIN_LOST_TOKENS


def explain(lookup: Lookup, reused: int, written: Callable[[int], bytes]) -> CacheMiss | None:
    """Explain why no more than `reused` tokens of a prompt came from the cache. None: no more were
    known that are worth a word. `written` gives the text of a token."""
    unused = max(0, lookup.common - reused)
    if unused < lookup.least:
        unused = 0
    runs = common_runs(
        lookup.known.tokens, lookup.tokens, lookup.common, max(lookup.common, reused)
    )
    repeated = sum(run.length for run in runs)
    if unused and lookup.obstacle is not None and unused >= repeated:
        return CacheMiss(reason=lookup.obstacle, position=reused, lost_tokens=unused)
    if unused + repeated < MIN_LOST_TOKENS:
        return None
    changed = _change(lookup, runs, repeated)
    if changed is None:
        if not unused:
            return None
        reason = lookup.obstacle or MissReason.NO_CHECKPOINT
        return CacheMiss(reason=reason, position=reused, lost_tokens=unused)
    dropped = None
    if changed.reason is MissReason.REASONING_DROPPED:
        dropped = _dropped(lookup, runs)
    return CacheMiss(
        reason=changed.reason,
        position=lookup.common,
        lost_tokens=unused + repeated,
        message=changed.message,
        dropped_tokens=dropped,
        timestamp=dropped is None and _is_timestamp(lookup, written),
    )


# --- which part has changed ---


def _change(lookup: Lookup, runs: "Sequence[Run]", repeated: int) -> Difference | None:
    """Name the part that has changed. None: nothing has, or what the prompts have in common behind
    it does not make them the same conversation."""
    known, old, new = lookup.known, lookup.known.outline, lookup.outline
    if lookup.common >= min(len(known.tokens), len(lookup.tokens) - 1):
        return None
    alike = 2 * repeated >= len(lookup.tokens) - lookup.common
    if old is None or new is None:
        return Difference(reason=MissReason.PROMPT_CHANGED) if alike else None
    difference = first_difference(old, new)
    if difference is not None:
        is_message = difference.reason in _OF_MESSAGES
        same = same_conversation(old, new) or (alike and not is_message)
        return difference if same else None
    is_answer = lookup.common >= known.prompt_tokens - _ANSWER_SLACK
    has_reasoning = known.reasoning_tokens > 0 if is_answer else old.has_reasoning
    if has_reasoning and (not runs or runs[0].old - runs[0].new > 0):
        return Difference(reason=MissReason.REASONING_DROPPED)
    if len(new.messages) <= len(old.messages) and is_answer:
        return None  # the same prompt, and another end of what a template writes
    return Difference(
        reason=MissReason.ANSWER_CHANGED if is_answer else MissReason.TEMPLATE_CHANGED
    )


def _dropped(lookup: Lookup, runs: "Sequence[Run]") -> int:
    """Count the tokens that are missing in front of what follows the reasoning."""
    return runs[0].old - runs[0].new if runs else lookup.known.reasoning_tokens


def _is_timestamp(lookup: Lookup, written: Callable[[int], bytes]) -> bool:
    start = max(0, lookup.common - _WINDOW_TOKENS)
    end = lookup.common + _WINDOW_TOKENS
    old, new = (
        b"".join(written(token) for token in tokens[start:end] if token >= 0).decode(
            "utf-8", "replace"
        )
        for tokens in (lookup.known.tokens, lookup.tokens)
    )
    return is_timestamp(old, new)


def is_timestamp(old: str, new: str) -> bool:
    """Tell whether the first difference of two texts is in a date or a time of both."""
    shortest = min(len(old), len(new))
    at = next((i for i in range(shortest) if old[i] != new[i]), shortest)
    return all(
        any(found.start() <= at <= found.end() for found in _TIMES.finditer(text))
        for text in (old, new)
    )


# --- what is the same behind it ---


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that two prompts have in common: `length`, at `old` in one and at `new` in the
    other."""

    old: int
    new: int
    length: int


def common_runs(
    old: Sequence[int], new: Sequence[int], start_old: int, start_new: int
) -> list[Run]:
    """Find the runs of tokens that both have from these positions on, in the order of `new`, none
    over another there.

    Takes time linear in the number of tokens, but for texts that repeat themselves.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for i in range(start_old, len(old) - _RUN_TOKENS + 1):
        at = places.setdefault(tuple(old[i : i + _RUN_TOKENS]), [])
        if len(at) < _MOST_PLACES:
            at.append(i)
    runs: list[Run] = []
    at_new, last = start_new, len(new) - _RUN_TOKENS
    while at_new <= last:
        found = places.get(tuple(new[at_new : at_new + _RUN_TOKENS]))
        if found is None:
            at_new += 1
            continue
        length, place = max((_run_length(old, new, place, at_new), -place) for place in found)
        runs.append(Run(-place, at_new, length))
        at_new += length
    return runs


def _run_length(old: Sequence[int], new: Sequence[int], at_old: int, at_new: int) -> int:
    length, most = _RUN_TOKENS, min(len(old) - at_old, len(new) - at_new)
    while length < most and old[at_old + length] == new[at_new + length]:
        length += 1
    return length
