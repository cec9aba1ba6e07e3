"""The test of a GPU with the model that it is about to run: its logits against the processor's.

Drivers and kernels that compute garbage are a standing fault of GPUs (llama.cpp issues 17056, 24560
and 28648). The processor computes the text first, in a model of its own that is gone before the
load: it maps the file without a second copy of any weight, so it needs little beside page cache.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from localllm.core.hardware import TEXT_TOKENS, WORST_KL, DeviceTest
from localllm.core.sizing.load import LoadSettings, Speculate
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.heartbeat import HeartbeatState
from localllm.engine.worker.llama.model import BatchToken, CacheFull, Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.errors import LoadFailed

Row = npt.NDArray[np.float32]
"""Logits of one position: float32 [vocabulary size]."""
Rows = Mapping[int, Row]
"""By position."""

TEXT = (
    "The library opens at nine. On Monday, 14 people came: some read newspapers, others asked "
    "where the maps are kept. def add(a, b): return a + b. Water boils at 100 degrees, and ice "
    "melts at 0. She said that he would come back tomorrow, because the train was late again."
)
"""Prose, figures and code: more tokens than are taken, in any vocabulary."""

_BATCH_TOKENS = TEXT_TOKENS // 2
"""Read as one batch; the rest follows one by one. Prompts and answers have other kernels."""


class Reference:
    """The tokens of the text in a model's vocabulary, and the processor's logits of each."""

    def __init__(self, tokens: list[int], rows: Rows) -> None:
        self.tokens = tokens
        self.rows = rows


def compute_reference(
    path: str, settings: LoadSettings, *, log: NativeLog, heartbeat: HeartbeatState
) -> Reference:
    """Compute the text on the processor, with a model that is freed again. Raises LoadFailed."""
    try:
        model = Model(
            path,
            _on_processor(settings),
            log=log,
            on_progress=lambda _: heartbeat.beat(),
            heartbeat=heartbeat,
            repack=False,
        )
        try:
            tokens = _text_tokens(model)
            model.decode([BatchToken(t, i, 0, True) for i, t in enumerate(tokens)])
            return Reference(tokens, {i: _row(model, i) for i in range(len(tokens))})
        finally:
            model.close()
    except (LoadFailed, CacheFull, RuntimeError) as error:
        raise LoadFailed(
            f"The GPU cannot be compared with the CPU, which does not run this model: {error} "
            "--trust-gpu loads it without the comparison."
        ) from error


def check_devices(model: Model, reference: Reference) -> DeviceTest:
    """Compute the text with a loaded model and compare; the cache is empty again afterwards.

    A decode that llama.cpp refuses is the worst result. (A process that ends is the parent's to
    notice.)
    """
    found: dict[int, Row] = {}
    try:
        found.update(_rows(model, reference.tokens))
    except (CacheFull, RuntimeError):
        return DeviceTest(rows=len(reference.tokens), mean_kl=WORST_KL, agreement=0.0)
    finally:
        model.remove_cells(0)
    return compare(reference.rows, found)


def compare(reference: Rows, found: Rows) -> DeviceTest:
    """Compare the positions that were `found` with the same ones of the `reference`."""
    pairs = [(reference[position], row) for position, row in found.items()]
    divergences = [divergence(right, row) for right, row in pairs]
    agreeing = sum(
        each < WORST_KL and int(right.argmax()) == int(row.argmax())
        for each, (right, row) in zip(divergences, pairs, strict=True)
    )
    return DeviceTest(
        rows=len(pairs),
        mean_kl=float(np.mean(divergences)),
        agreement=agreeing / len(pairs),
    )


def divergence(reference: Row, found: Row) -> float:
    """Return the Kullback-Leibler divergence of two rows of logits, in nats: from 0 to WORST_KL,
    which it also is for a row that holds what is no number."""
    if np.isnan(found).any() or not np.isfinite(found.max()):
        return WORST_KL
    right, other = _log_softmax(reference), _log_softmax(found)
    possible = np.isfinite(right)  # a masked token has the probability 0
    terms = np.exp(right[possible]) * (right[possible] - other[possible])
    return float(min(max(terms.sum(), 0.0), WORST_KL))


def _log_softmax(row: Row) -> npt.NDArray[np.float64]:
    shifted = row.astype(np.float64) - float(row.max())
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def _on_processor(settings: LoadSettings) -> LoadSettings:
    """Derive a load of the same model, cache types and adapters that computes the text at once, on
    the processor alone."""
    return replace(
        settings,
        context=2 * TEXT_TOKENS,
        parallel=1,
        batch=TEXT_TOKENS,
        ubatch=TEXT_TOKENS,
        gpu_layers=0,
        cpu_moe=0,
        devices=(),
        tensor_split=(),
        mmap=True,
        speculate=Speculate.NGRAM,  # a row of logits for each drafted token
        draft=None,
        draft_max=TEXT_TOKENS - 1,
        mmproj=None,
        chat_template=None,
    )


def _text_tokens(model: Model) -> list[int]:
    tokens = model.vocab.tokenize(TEXT, special=False)[:TEXT_TOKENS]
    missing = TEXT_TOKENS - len(tokens)  # a vocabulary that has no text
    return tokens + [i % model.vocab.size for i in range(missing)]


def _rows(model: Model, tokens: list[int]) -> Iterator[tuple[int, Row]]:
    """Compute the text as `_BATCH_TOKENS` says; yield the logits that the load has room for."""
    first = max(0, _BATCH_TOKENS - model.max_outputs)
    step = model.max_batch_tokens
    for start in range(0, _BATCH_TOKENS, step):
        positions = range(start, min(start + step, _BATCH_TOKENS))
        model.decode([BatchToken(tokens[i], i, 0, i >= first) for i in positions])
        yield from ((i, _row(model, i - start)) for i in positions if i >= first)
    for i in range(_BATCH_TOKENS, len(tokens)):
        model.decode([BatchToken(tokens[i], i, 0, True)])
        yield i, _row(model, 0)


def _row(model: Model, row: int) -> Row:
    found = llama.llama_get_logits_ith(model.handle, row)
    return np.ctypeslib.as_array(found, (model.vocab.size,)).copy()
