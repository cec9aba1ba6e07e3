"""The prompt that fills in the middle of a text, made of the tokens that a model has for it. Pure.

    [BOS] [REP]project [SEP]name text ... [SEP]file [PRE]prefix [SUF]suffix [MID]

The order is llama-server's (`format_prompt_infill`, server-common.cpp, b11434), with which models
were trained: Qwen2.5-Coder's file and repository levels (arXiv 2409.12186). Two things differ: BOS
stands before everything, and only whole files are taken, so that the prompt begins the same way
while somebody types, and the cache holds it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.engine.messages import SourceFile
from localllm.engine.worker.llama.vocabulary import InfillTokens

NO_INFILL = (
    "This model has no tokens to fill in the middle of a text with: it was not trained for it. "
    "Models that were are Qwen2.5-Coder, Qwen3-Coder, Granite Code, StarCoder2, DeepSeek-Coder, "
    "CodeGemma and Code Llama."
)

_SUFFIX_SHARE = 4
"""The suffix may have one part in so many of the window when both are too long, as in
llama-server."""

_FILES_SHARE = 4
"""Files may have at least one part in so many of the limit."""

_STEP = 64
"""Tokens by which a prefix that is too long is cut: the cut stays where it is for so many that are
typed."""

_CHARS_PER_TOKEN = 16
"""Of a text that may be taken: the rest is not tokenized, which takes time."""

_PROJECT, _FILE = "project\n", "file\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class InfillPrompt:
    """The tokens of the prompt. `warnings`: sentences about what did not fit."""

    tokens: list[int]
    warnings: tuple[str, ...] = ()


def infill_prompt(
    marks: InfillTokens,
    tokenize: Callable[[str], list[int]],
    *,
    prefix: str,
    suffix: str,
    files: Sequence[SourceFile] = (),
    bos: Sequence[int] = (),
    limit: int,
    batch: int,
) -> InfillPrompt:
    """Make a prompt of at most `limit` tokens, unless the marks alone are more.

    `tokenize` recognises no control tokens. Prefix and suffix get at most `batch` tokens, as in
    llama-server: a prompt that is read at once. Files get what is left, whatever these two take, so
    that the same ones stay.
    """
    most = min(batch, limit - limit // _FILES_SHARE if files else limit)
    window = max(0, most - len(bos) - 3)
    most_chars = _CHARS_PER_TOKEN * window
    before = tokenize(prefix[-most_chars:] if most_chars else "")
    after = tokenize(suffix[:most_chars])
    taken_after = min(len(after), max(window // _SUFFIX_SHARE, window - len(before)))
    cut = _cut(len(before), window - taken_after)
    head: list[int] = []
    left_out = 0
    if files:
        head, left_out = _files(marks, tokenize, files, limit - most)
    return InfillPrompt(
        tokens=[
            *bos,
            *head,
            *(marks.prefix, *before[cut:]),
            *(marks.suffix, *after[:taken_after]),
            marks.middle,
        ],
        warnings=_warnings(
            prefix=cut > 0 or len(prefix) > most_chars,
            suffix=taken_after < len(after) or len(suffix) > most_chars,
            files=left_out,
        ),
    )


def _cut(tokens: int, most: int) -> int:
    """Return how many tokens at the beginning are left out, for at most `most` to stay."""
    excess = max(0, tokens - most)
    return min(tokens, -(-excess // _STEP) * _STEP)


def _files(
    marks: InfillTokens,
    tokenize: Callable[[str], list[int]],
    files: Sequence[SourceFile],
    room: int,
) -> tuple[list[int], int]:
    """Return the tokens of the last files that fit, and the number of the others."""
    begin = [] if marks.repository is None else [marks.repository, *tokenize(_PROJECT)]
    end = [] if marks.file is None else [marks.file, *tokenize(_FILE)]
    room -= len(begin) + len(end)
    taken: list[list[int]] = []
    for file in reversed(files):
        if len(file.text) > _CHARS_PER_TOKEN * max(0, room):
            break
        if marks.file is None:
            tokens = tokenize(f"\n\n--- {file.name} ---\n\n{file.text}")
        else:
            tokens = [marks.file, *tokenize(f"{file.name}\n{file.text}")]
        if len(tokens) > room:
            break
        taken.append(tokens)
        room -= len(tokens)
    if not taken:
        return [], len(files)
    body = [token for tokens in reversed(taken) for token in tokens]
    return [*begin, *body, *end], len(files) - len(taken)


def _warnings(*, prefix: bool, suffix: bool, files: int) -> tuple[str, ...]:
    warnings = []
    if prefix:
        warnings.append("The beginning of the text before the gap was left out: it did not fit.")
    if suffix:
        warnings.append("The end of the text behind the gap was left out: it did not fit.")
    if files:
        warnings.append(f"{files} of the files beside it were left out: they did not fit.")
    return tuple(warnings)
