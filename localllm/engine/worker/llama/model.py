"""One model and its context in llama.cpp: load, decode, and the cells of its cache.

A thin layer of nouns over the C functions. Everything that may abort the process is called from
here, and nothing here knows of requests. What a cache can do is decided in kv_cache/memory_kind.py.
"""

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from localllm.core.hardware import Cpu
from localllm.core.sizing.load import Allocation, BufferKind, LoadSettings
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.abort import abort_flag
from localllm.engine.worker.llama.allocations import allocations, with_all_outputs
from localllm.engine.worker.llama.heartbeat import HeartbeatState
from localllm.engine.worker.llama.lora import LoraAdapters, LoraKey
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.llama.params import context_params, model_params, snapshots_of
from localllm.engine.worker.llama.vocabulary import Vocabulary
from localllm.errors import LoadFailed

_QUICK_TOKENS = 64
"""A warm GPU computes a batch of so many tokens too fast to need counted nodes as progress."""

_EFFICIENT_TOKENS = 64
"""Measured with SmolLM2-135M Q4_1 on two cores: a token of a batch of 64 takes 1.04 to 1.06 times
what one of 512 does (AVX2, b11434)."""

_FIXED_CHUNK_TOKENS = 128
"""On a processor: the chunk that a cached prompt ends in is computed again, so it is no larger than
an efficient batch needs to be (docs/determinism.md)."""

_ALIKE_TOKENS, _ALIKE_CELLS = 63, 256
"""Up to so many tokens of a sequence in a batch, and cells of its own stream, llama.cpp's CPU
backend gives each token the bits that it gets alone. From 64 tokens on (GGML_FA_TILE_Q) flash
attention sums in tiles; from 512 cells on, to which 257 are padded, the threads share the cells of
a token that is alone. Measured with SmolLM2-135M as Q4_0, Q4_1, Q8_0, Q4_K_M and Q6_K (AVX2, two
threads, b11434): of 2 to 63 tokens every bit of the last one's logits is the same, of 64 they
differ by up to 0.7."""

_PARTIAL = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY

_DECODED, _CACHE_FULL, _ABORTED = 0, 1, 2  # llama_decode's return values (llama.h, b11434)


class Aborted(Exception):
    """The abort flag was raised while the batch was computed; its tokens are not in the cache."""


class CacheFull(Exception):
    """The KV cache has no cells for this batch."""


@dataclass(frozen=True, slots=True)
class BatchToken:
    """One token of a batch: `position` within the sequence of `slot`; `output` asks for logits."""

    token: int
    position: int
    slot: int
    output: bool


def raise_for_status(status: int) -> None:
    """Raise Aborted, CacheFull, or RuntimeError for what `llama_decode` and the like return."""
    if status == _CACHE_FULL:
        raise CacheFull
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
        heartbeat: HeartbeatState | None = None,
        repack: bool = True,
    ) -> None:
        """Load weights, then make the context. Without `repack` the processor computes with the
        weights as they are in the file. Raises LoadFailed with llama.cpp's own reason."""
        started = time.monotonic()
        log.take()
        self.settings = settings
        self.abort = abort_flag()
        self.heartbeat = heartbeat or HeartbeatState()
        self.heartbeat.count_nodes(self.abort.nodes)
        self._model = _load_weights(path, settings, log, on_progress, repack=repack)
        try:
            self.loras = LoraAdapters(self._model, settings.loras, log)
        except LoadFailed:
            llama.llama_model_free(self._model)
            raise
        self.threads = settings.threads or default_threads()
        self.prompt_threads = settings.threads_batch or self.threads
        kept = snapshots_of(self._model, settings)
        params = context_params(settings, self.threads, self.prompt_threads, snapshots=kept)
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            llama.llama_model_free(self._model)
            raise LoadFailed(log.refusal("a context with these settings"))
        llama.llama_set_abort_callback(self._context, self.abort.callback, self.abort.address)
        self.vocab = Vocabulary(self._model)
        self._memory = llama.llama_get_memory(self._context)
        self.max_batch_tokens = min(settings.batch, settings.ubatch)
        """Tokens of one physical batch: `decode` takes no more."""
        self.max_outputs: int = params.n_outputs_max
        """Rows of logits that one batch may ask for."""
        self._batch = llama.llama_batch_init(self.max_batch_tokens, 0, 1)
        self._on_cpu = not llama.llama_supports_gpu_offload()
        self.efficient_batch_tokens = (
            min(self.max_batch_tokens, _EFFICIENT_TOKENS) if self._on_cpu else self.max_batch_tokens
        )
        """Batch size from which on a token costs hardly more than in the largest batch."""
        self.fixed_chunk_tokens = (
            min(self.max_batch_tokens, _FIXED_CHUNK_TOKENS)
            if self._on_cpu
            else self.max_batch_tokens
        )
        """Chunks in which the prompt of a request that must give the same text is computed."""
        self._warm = False
        self._pending_copies: dict[int, int] = {}
        self._reserve()
        self.load_s = time.monotonic() - started
        self.allocations: tuple[Allocation, ...] = self._with_embedding_rows(
            allocations(log.take())
        )

    # --- what was loaded ---

    @property
    def context(self) -> int:
        """Tokens that one conversation can hold."""
        return min(self.settings.context, int(llama.llama_n_ctx(self._context)))

    @property
    def cells(self) -> int:
        """Cells of the whole cache."""
        return int(llama.llama_n_ctx(self._context))

    @property
    def cells_per_sequence(self) -> int:
        """Cells that llama.cpp reckons with for one sequence, padding included."""
        return int(llama.llama_n_ctx_seq(self._context))

    @property
    def handle(self) -> int:
        """llama.cpp's context, for the sampler."""
        return int(self._context)

    @property
    def chat_template(self) -> str | None:
        raw = llama.llama_model_chat_template(self._model, None)
        return raw.decode("utf-8", "replace") if raw else None

    def metadata(self, key: str) -> str:
        """Return what the header says of a key; "" for one it has not, or has as a list."""
        value = ctypes.create_string_buffer(256)
        size = llama.llama_model_meta_val_str(self._model, key.encode(), value, len(value))
        return value.value.decode("utf-8", "replace") if size >= 0 else ""

    @property
    def has_cache(self) -> bool:
        """False for an encoder, which keeps nothing to go on from."""
        return bool(self._memory)

    @property
    def unified_cache(self) -> bool:
        """True when all slots have their cells in one pool, False when each has its own stream."""
        return self.settings.kv_unified or self.settings.parallel == 1

    @property
    def window(self) -> int:
        """Tokens that a layer with a sliding window attends to; 0 when no layer has one."""
        return int(llama.llama_model_n_swa(self._model))

    @property
    def snapshots(self) -> int:
        """Earlier states that are kept beside each recurrent one; 0 where the architecture has no
        kernels for that (llama.cpp clamps what was asked for)."""
        return int(llama.llama_n_rs_seq(self._context))

    @property
    def is_recurrent(self) -> bool:
        """True when some layers have a state instead of cells (Mamba, RWKV; hybrid models too)."""
        return bool(
            llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model)
        )

    # --- computing ---

    def alike(self, cells: int) -> int:
        """Return how many tokens a sequence of so many cells can have in a batch, for each to get
        the bits that it gets alone. A GPU has other kernels for one token."""
        small = self._on_cpu and not self.unified_cache and cells <= _ALIKE_CELLS
        return _ALIKE_TOKENS if small else 1

    def decode(self, tokens: Sequence[BatchToken]) -> None:
        """Compute one batch of at most `max_batch_tokens`; afterwards the logits of token i can be
        sampled from row i. Raises Aborted, CacheFull, or RuntimeError (llama.cpp's error code)."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, each in enumerate(tokens):
            batch.token[i] = each.token
            batch.pos[i] = each.position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = each.slot
            batch.logits[i] = each.output
        status = self._compute(batch)
        self._pending_copies.clear()
        raise_for_status(status)
        self.heartbeat.beat()

    def _compute(self, batch: llama.llama_batch) -> int:
        if self._shows_progress(batch.n_tokens):
            return int(llama.llama_decode(self._context, batch))
        with self.heartbeat.long_call():
            status = int(llama.llama_decode(self._context, batch))
        self._warm = True
        return status

    def _shows_progress(self, tokens: int) -> bool:
        """Return True when such a batch is done soon, or its nodes can be counted. Those of a GPU
        cannot be; it compiles its kernels for the first batch, and a small one takes long for many
        tokens."""
        if self.abort.nodes() is None:
            return False
        return self._on_cpu or (self._warm and tokens <= _QUICK_TOKENS)

    def set_threads(self, threads: int, prompt_threads: int) -> None:
        """Compute from now on with so many threads: a single token, and a batch of several."""
        self.threads, self.prompt_threads = threads, prompt_threads
        llama.llama_set_n_threads(self._context, threads, prompt_threads)

    def apply_loras(self, key: LoraKey) -> None:
        """Compute the next batches with these adapters."""
        self.loras.apply(self.handle, key)

    def _reserve(self) -> None:
        """Compute one token with the adapters that requests usually have: llama.cpp allocates
        buffers for them with the first batch, and that belongs to the load."""
        if key := self.loras.default_key:
            self.apply_loras(key)
            try:
                self.decode([BatchToken(token=0, position=0, slot=0, output=True)])
            except (CacheFull, RuntimeError) as error:
                self.close()
                raise LoadFailed(
                    f"llama.cpp cannot compute with the adapters: {error or 'no room'}"
                ) from error
            self.remove_cells(0)

    def _with_embedding_rows(self, found: tuple[Allocation, ...]) -> tuple[Allocation, ...]:
        """Count the output buffer of embeddings as large as it will be: at first it has rows for a
        token of each sequence, and with the first whole batch, without a line in the log, those of
        all its tokens (`output_reserve`)."""
        if not self.settings.embeddings:
            return with_all_outputs(found, self.settings)
        width = self.vocab.size + int(llama.llama_model_n_embd_out(self._model))
        rows_bytes = 4 * width * self.max_outputs
        return tuple(
            replace(each, size_bytes=rows_bytes) if each.kind is BufferKind.OUTPUT else each
            for each in found
        )

    # --- the cells of the cache ---

    def remove_cells(self, slot: int, start: int = 0, end: int = -1) -> bool:
        """Remove the cells of `slot` from position `start` on, up to `end` (-1: all). Returns False
        when this memory cannot be cut there."""
        return bool(llama.llama_memory_seq_rm(self._memory, slot, start, end))

    def copy_cells(self, source: int, slot: int, start: int, end: int) -> None:
        """Let `slot` share cells of `source`, which is in the same stream: nothing is copied."""
        llama.llama_memory_seq_cp(self._memory, source, slot, start, end)

    def copy_stream(self, source: int, slot: int) -> None:
        """Copy all cells of `source` to `slot`, which is in another stream: that is done together
        with the next batch (llama_kv_cache::seq_cp, update)."""
        llama.llama_memory_seq_cp(self._memory, source, slot, -1, -1)
        self._pending_copies[slot] = source

    def has_pending_copy(self, slot: int) -> bool:
        """True when the next batch copies cells of this stream, or to it."""
        return slot in self._pending_copies or slot in self._pending_copies.values()

    def oldest_position(self, slot: int) -> int:
        """The lowest position that `slot` has a cell for; -1 for none."""
        return int(llama.llama_memory_seq_pos_min(self._memory, slot))

    def newest_position(self, slot: int) -> int:
        """The highest position that `slot` has a cell for; -1 for none."""
        return int(llama.llama_memory_seq_pos_max(self._memory, slot))

    # --- states ---

    def state_bytes(self, slot: int) -> int:
        """The size of what `write_state` is about to write."""
        return int(llama.llama_state_seq_get_size(self._context, slot))

    def write_state(self, slot: int, tokens: Sequence[int], path: str) -> int:
        """Write the cells of `slot`, layer by layer, to a file in llama.cpp's own format, after
        `tokens`. Returns its size in bytes; 0 when it failed."""
        if slot in self._pending_copies:
            return 0
        given = (llama.llama_token * len(tokens))(*tokens)
        return int(
            llama.llama_state_seq_save_file(self._context, path.encode(), slot, given, len(tokens))
        )

    def read_state(self, slot: int, tokens: int, path: str) -> bool:
        """Replace the cells of `slot` by those of a file that `write_state` wrote. llama.cpp trusts
        it: it must have been checked. Returns False, and leaves the slot empty, when it fails."""
        if self.has_pending_copy(slot):
            return False
        read = (llama.llama_token * tokens)()
        count = ctypes.c_size_t()
        took = llama.llama_state_seq_load_file(
            self._context, path.encode(), slot, read, tokens, ctypes.byref(count)
        )
        if took and self.newest_position(slot) == tokens - 1:
            return True
        self.remove_cells(slot)
        return False

    def copy_state(self, slot: int, cells: memoryview) -> bool:
        """Copy the cells of `slot` to `cells`, which has `state_bytes` of room. Returns False when
        that failed."""
        if slot in self._pending_copies:
            return False
        place = (ctypes.c_uint8 * len(cells)).from_buffer(cells)
        size = llama.llama_state_seq_get_data(self._context, place, len(cells), slot)
        return int(size) == len(cells)

    def put_state(self, slot: int, tokens: int, cells: memoryview) -> bool:
        """Replace the cells of `slot` by those of so many tokens that `copy_state` has copied.
        llama.cpp trusts them. Returns False, and leaves the slot empty, when it fails."""
        if self.has_pending_copy(slot):
            return False
        place = (ctypes.c_uint8 * len(cells)).from_buffer(cells)
        took = llama.llama_state_seq_set_data(self._context, place, len(cells), slot)
        if took == len(cells) and self.newest_position(slot) == tokens - 1:
            return True
        self.remove_cells(slot)
        return False

    # A partial state is what of a sequence does not outlast its next tokens: its recurrent state,
    # or the cells in the window of layers with a sliding one. All else is there until it is cut.

    def partial_state_bytes(self, slot: int) -> int:
        """The size of what `copy_partial_state` is about to copy."""
        return int(llama.llama_state_seq_get_size_ext(self._context, slot, _PARTIAL))

    def copy_partial_state(self, slot: int, state: memoryview) -> bool:
        """Copy the partial state of `slot` to `state`, which has `partial_state_bytes` of room.
        Returns False when that failed."""
        if slot in self._pending_copies:
            return False
        place = (ctypes.c_uint8 * len(state)).from_buffer(state)
        size = llama.llama_state_seq_get_data_ext(self._context, place, len(state), slot, _PARTIAL)
        return int(size) == len(state)

    def put_partial_state(self, slot: int, tokens: int, state: memoryview) -> bool:
        """Take `slot` back to its first `tokens`, with a partial state that was copied there: all
        other cells must still be there. Returns False, and leaves the slot empty,
        when it fails."""
        if self.has_pending_copy(slot):
            return False
        place = (ctypes.c_uint8 * len(state)).from_buffer(state)
        took = llama.llama_state_seq_set_data_ext(self._context, place, len(state), slot, _PARTIAL)
        if (
            took == len(state)
            and self.remove_cells(slot, tokens)
            and self.newest_position(slot) == tokens - 1
        ):
            return True
        self.remove_cells(slot)
        return False

    def close(self) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)


def default_threads() -> int:
    """Return the threads of a load that came without a number, which those of the runtime do not.

    The rule is `Cpu.threads`; the parent reads container limits, too.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False)
    return Cpu(name="", cores_physical=physical, cores_usable=allowed or 1).threads


def _load_weights(
    path: str,
    settings: LoadSettings,
    log: NativeLog,
    on_progress: Callable[[float], None],
    *,
    repack: bool,
) -> int:
    reported = -1

    def report(fraction: float, _user_data: ctypes.c_void_p) -> bool:
        nonlocal reported
        if int(fraction * 100) > reported:  # llama.cpp reports every tensor
            reported = int(fraction * 100)
            on_progress(fraction)
        return True

    params = model_params(settings)
    params.use_extra_bufts = repack
    params.progress_callback = llama.llama_progress_callback(report)
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise LoadFailed(log.refusal(Path(path).name))
    return int(model)
