"""One model and its context in llama.cpp: load, tokenize, decode, and the cells of its cache.

A thin layer of nouns over the C functions: everything that may abort the process is called from
here, and nothing here knows of requests.
"""

import ctypes
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import llama_cpp.llama_cpp as llama
import psutil

from localllm.core.sizing.load import Allocation, BufferKind, LoadSettings
from localllm.engine.worker.llama.abort import abort_flag
from localllm.engine.worker.llama.allocations import allocations, with_all_outputs
from localllm.engine.worker.llama.heartbeat import Vitals
from localllm.engine.worker.llama.lora import Adapters, Space
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.llama.params import context_params, model_params
from localllm.errors import LoadFailed

_QUICK_ROWS = 64
_WORTHWHILE_ROWS = 64
"""Measured with SmolLM2-135M Q4_1 on two cores: a row of 64 takes 1.04 to 1.06 times what one of
512 does (AVX2, b11434)."""
_DECODED, _NO_ROOM, _ABORTED = 0, 1, 2  # llama_decode's return values (llama.h, b11434)


class Aborted(Exception):
    """The abort flag was raised while the batch was computed; its tokens are not in the cache."""


class NoRoom(Exception):
    """The KV cache has no cells for this batch."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token of a batch: `position` within the sequence of `slot`; `output` asks for logits."""

    token: int
    position: int
    slot: int
    output: bool


def raise_for(status: int) -> None:
    """Raise Aborted, NoRoom, or RuntimeError for what `llama_decode` and the like return."""
    if status == _NO_ROOM:
        raise NoRoom
    if status == _ABORTED:
        raise Aborted
    if status != _DECODED:
        raise RuntimeError(f"llama_decode returned {status}")


class Model:
    """A loaded model with a KV cache for `settings.parallel` slots."""

    def __init__(
        self,
        path: str,
        settings: LoadSettings,
        *,
        log: NativeLog,
        on_progress: Callable[[float], None],
        vitals: Vitals | None = None,
    ) -> None:
        """Load weights, then make the context. Raises LoadFailed with llama.cpp's own reason."""
        started = time.monotonic()
        log.take()
        self.settings = settings
        self.abort = abort_flag()
        self.vitals = vitals or Vitals()
        self.vitals.watch(self.abort.nodes)
        self._model = _load_weights(path, settings, log, on_progress)
        try:
            self.loras = Adapters(self._model, settings.loras, log)
        except LoadFailed:
            llama.llama_model_free(self._model)
            raise
        params = context_params(settings, settings.threads or usable_cores())
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            llama.llama_model_free(self._model)
            raise LoadFailed(f"llama.cpp could not make a context: {log.last_error()}")
        llama.llama_set_abort_callback(self._context, self.abort.callback, self.abort.address)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._memory = llama.llama_get_memory(self._context)
        self.remembers = bool(self._memory)
        """Whether there is a cache to go on from; encoders have none."""
        self.chunk = min(settings.batch, settings.ubatch)
        """Tokens of one physical batch: `decode` takes no more."""
        self.outputs: int = params.n_outputs_max
        """Rows of logits that one batch may ask for."""
        self._batch = llama.llama_batch_init(self.chunk, 0, 1)
        self._on_cpu = not llama.llama_supports_gpu_offload()
        self.worthwhile_rows = min(self.chunk, _WORTHWHILE_ROWS) if self._on_cpu else self.chunk
        """Rows that take little more time each than those of a larger batch."""
        self._warm = False
        self._pieces: dict[int, bytes] = {}
        self.vocabulary: int = llama.llama_vocab_n_tokens(self._vocab)
        self.window: int = llama.llama_model_n_swa(self._model)
        self.recurrent = bool(
            llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model)
        )
        self.pooled = settings.kv_unified or settings.parallel == 1
        """Whether all slots have their cells in one pool; each has cells of its own otherwise."""
        # A cell that has left a window is used again only if it is of one sequence alone
        # (llama_kv_cache::find_slot): a common beginning would stay in a pool, and be in the way.
        self.shares = not self.recurrent and not (self.window and self.pooled)
        """Whether a slot can be given what another one has computed."""
        self.plain = self.pooled and self.shares
        """Whether a cell stays until its last sequence drops it, in one pool for all."""
        self._copied_to: set[int] = set()
        """Slots that get their cells with the next batch."""
        self._reserve()
        self.load_s = time.monotonic() - started
        self.allocations: tuple[Allocation, ...] = self._with_rows(allocations(log.take()))

    @property
    def context(self) -> int:
        """Tokens one conversation can hold."""
        return min(self.settings.context, int(llama.llama_n_ctx(self._context)))

    @property
    def cells(self) -> int:
        """Of the whole cache."""
        return int(llama.llama_n_ctx(self._context))

    @property
    def sequences(self) -> int:
        """Sequence ids that can hold cells; the first `parallel` of them can be in a batch.

        The others cost nothing in a plain cache: `llama_kv_cache::seq_to_stream` has LLAMA_MAX_SEQ
        entries, whatever `n_seq_max` is. Only the batch and a written state
        (`llama_kv_cache::state_write_meta`) know no more than `n_seq_max`.
        """
        return llama.llama_max_parallel_sequences() if self.plain else self.settings.parallel

    @property
    def cells_each(self) -> int:
        """Cells that llama.cpp reckons with for one sequence, padding included."""
        return int(llama.llama_n_ctx_seq(self._context))

    @property
    def chat_template(self) -> str | None:
        raw = llama.llama_model_chat_template(self._model, None)
        return raw.decode("utf-8", "replace") if raw else None

    @property
    def handle(self) -> int:
        """llama.cpp's context, for the sampler."""
        return int(self._context)

    @property
    def vocab(self) -> int:
        """llama.cpp's vocabulary object, for the sampler."""
        return int(self._vocab)

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """Every token that ends an answer. Looks at the whole vocabulary, once."""
        return frozenset(filter(self.is_end, range(self.vocabulary)))

    def token_text(self, token: int) -> str:
        """A token's text as the vocabulary writes it ("<s>"); "" for none."""
        if token < 0:
            return ""
        return (llama.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    @property
    def bos_token(self) -> int:
        """The token that begins a text; below 0 for none."""
        return int(llama.llama_vocab_bos(self._vocab))

    @property
    def bos(self) -> str:
        return self.token_text(self.bos_token)

    @property
    def eos(self) -> str:
        return self.token_text(llama.llama_vocab_eos(self._vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(llama.llama_vocab_get_add_bos(self._vocab))

    def tokenize(self, text: str, *, special: bool, ends: bool = True) -> list[int]:
        """Tokens of `text`; with the vocabulary's own BOS and EOS rules applied when `ends`;
        control tokens written in the text are recognised when `special`."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8  # a token is at least one byte; BOS, EOS
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, room, ends, special)
        if count < 0:  # the tokenizer wants more room than bytes (prefix spaces)
            tokens = (llama.llama_token * -count)()
            count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, -count, ends, special)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes this token adds to the text; control tokens add none."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def _read_piece(self, token: int) -> bytes:
        room = 128
        buffer = ctypes.create_string_buffer(room)
        size = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama.llama_token_to_piece(self._vocab, token, buffer, -size, 0, False)
        return buffer.raw[: max(size, 0)]

    def is_end(self, token: int) -> bool:
        """Whether this token ends an answer (EOS, EOT, ...)."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    def decode(self, rows: Sequence[Row]) -> None:
        """Compute one batch, `len(rows)` at most `chunk`; afterwards row i's logits can
        be sampled. Raises Aborted, NoRoom, or RuntimeError (llama.cpp's error code)."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, row in enumerate(rows):
            batch.token[i] = row.token
            batch.pos[i] = row.position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = row.slot
            batch.logits[i] = row.output
        status = self._compute(batch)
        self._copied_to.clear()
        raise_for(status)
        self.vitals.beat()

    def _compute(self, batch: llama.llama_batch) -> int:
        if self._shows_life(batch.n_tokens):
            return int(llama.llama_decode(self._context, batch))
        with self.vitals.long_call():
            status = int(llama.llama_decode(self._context, batch))
        self._warm = True
        return status

    def _shows_life(self, rows: int) -> bool:
        """Whether a batch of so many rows is done soon, or its nodes can be counted. A GPU's nodes
        cannot, it compiles its kernels for the first batch, and a small one needs long for many
        rows."""
        if self.abort.nodes() is None:
            return False
        return self._on_cpu or (self._warm and rows <= _QUICK_ROWS)

    def use(self, space: Space) -> None:
        """Compute the next batches with these adapters."""
        self.loras.use(self.handle, space)

    def _reserve(self) -> None:
        """Compute one token with the adapters that answers usually have: llama.cpp makes room for
        them with the first batch, and what it takes belongs to the load."""
        if usual := self.loras.space(None):
            self.use(usual)
            try:
                self.decode([Row(token=0, position=0, slot=0, output=True)])
            except (NoRoom, RuntimeError) as error:
                self.close()
                raise LoadFailed(
                    f"llama.cpp cannot compute with the adapters: {error or 'no room'}"
                ) from error
            self.keep(0, 0)

    def _with_rows(self, found: tuple[Allocation, ...]) -> tuple[Allocation, ...]:
        """For embeddings llama.cpp has rows for a token of each sequence at first, and with the
        first whole batch, without a word, those of all its tokens (`output_reserve`)."""
        if not self.settings.embeddings:
            return with_all_outputs(found, self.settings)
        width = self.vocabulary + int(llama.llama_model_n_embd_out(self._model))
        rows_bytes = 4 * width * self.outputs
        return tuple(
            replace(each, size_bytes=rows_bytes) if each.kind is BufferKind.OUTPUT else each
            for each in found
        )

    def keep(self, slot: int, tokens: int) -> bool:
        """Drop the cells of `slot` after its first `tokens`. False (and an empty slot) when this
        kind of cache cannot be cut there: recurrent state, or a window that has moved on."""
        continues = tokens > 0 and self.can_continue_at(slot, tokens)
        if continues and llama.llama_memory_seq_rm(self._memory, slot, tokens, -1):
            return True
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return tokens == 0

    def share(self, source: int, slot: int, tokens: int) -> bool:
        """Give `slot` the first `tokens` cells of `source`: in a pool nothing is copied. False (and
        an empty slot) when they are not all there any more."""
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        if not self.shares or not self.can_continue_at(source, tokens):
            return False
        if self.pooled:
            llama.llama_memory_seq_cp(self._memory, source, slot, 0, tokens)
            return True
        # All of a slot's cells or none, with the next batch (llama_kv_cache::seq_cp, update).
        llama.llama_memory_seq_cp(self._memory, source, slot, -1, -1)
        llama.llama_memory_seq_rm(self._memory, slot, tokens, -1)
        self._copied_to.add(slot)
        return True

    def replace(self, slot: int, source: int, start: int, end: int) -> None:
        """Let `slot` have `source`'s cells for these positions, and give its own back."""
        llama.llama_memory_seq_rm(self._memory, slot, start, end)
        llama.llama_memory_seq_cp(self._memory, source, slot, start, end)

    def can_continue_at(self, slot: int, tokens: int) -> bool:
        """Whether every cell that position `tokens` attends to is still in the cache.

        A sequence has every position from its oldest to its newest (llama_kv_cache::apply_ubatch
        sees to that), and position p attends to p - window + 1 and later ones.
        """
        oldest = llama.llama_memory_seq_pos_min(self._memory, slot)
        newest = llama.llama_memory_seq_pos_max(self._memory, slot)
        if self.recurrent:  # its state is that of the newest position and of no other
            return bool(newest == tokens - 1)
        needed = max(0, tokens - self.window + 1) if self.window else 0
        return bool(0 <= oldest <= needed and newest >= tokens - 1)

    def state_bytes(self, slot: int) -> int:
        """How much `write_state` is about to write."""
        return int(llama.llama_state_seq_get_size(self._context, slot))

    def write_state(self, slot: int, tokens: Sequence[int], path: str) -> int:
        """Write the cells of `slot`, layer by layer, to a file in llama.cpp's own format, after
        `tokens`. How many bytes that were; 0 when it failed."""
        if slot in self._copied_to:
            return 0
        given = (llama.llama_token * len(tokens))(*tokens)
        return int(
            llama.llama_state_seq_save_file(self._context, path.encode(), slot, given, len(tokens))
        )

    def read_state(self, slot: int, tokens: int, path: str) -> bool:
        """Replace the cells of `slot` by those of a file that `write_state` wrote. llama.cpp
        trusts it: it must have been checked. False, and an empty slot, when it does not take it."""
        if slot in self._copied_to:
            return False
        read = (llama.llama_token * tokens)()
        count = ctypes.c_size_t()
        took = llama.llama_state_seq_load_file(
            self._context, path.encode(), slot, read, tokens, ctypes.byref(count)
        )
        newest = llama.llama_memory_seq_pos_max(self._memory, slot)
        if took and newest == tokens - 1:
            return True
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def about(self, key: str) -> str:
        """What the header says of a key; "" for one it has not, or has as a list."""
        room = ctypes.create_string_buffer(256)
        size = llama.llama_model_meta_val_str(self._model, key.encode(), room, len(room))
        return room.value.decode("utf-8", "replace") if size >= 0 else ""

    def close(self) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)


def usable_cores() -> int:
    """Physical cores, at most as many as this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, allowed or 1))


def _load_weights(
    path: str, settings: LoadSettings, log: NativeLog, on_progress: Callable[[float], None]
) -> int:
    reported = -1

    def report(fraction: float, _user_data: ctypes.c_void_p) -> bool:
        nonlocal reported
        if int(fraction * 100) > reported:  # llama.cpp reports every tensor
            reported = int(fraction * 100)
            on_progress(fraction)
        return True

    params = model_params(settings)
    params.progress_callback = llama.llama_progress_callback(report)
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise LoadFailed(f"llama.cpp refused the model: {log.last_error()}")
    return int(model)
