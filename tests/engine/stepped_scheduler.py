"""A scheduler and its model in this process, run step by step, its books checked after each."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from localllm.core.sizing.load import FlashAttention, KvType, LoadSettings
from localllm.engine.messages import (
    Event,
    Finished,
    GenerateRequest,
    LoraScale,
    RequestError,
    Token,
)
from localllm.engine.worker.binding import llama
from localllm.engine.worker.kv_cache.host_cache import HostCache
from localllm.engine.worker.kv_cache.memory_kind import MemoryKind
from localllm.engine.worker.llama.model import BatchToken, Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.prompt.boundaries import Boundary, Section
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.scheduling.scheduler import Scheduler
from localllm.engine.worker.sequences.sequence import DECODE, Sequence
from localllm.engine.worker.speculative.speculator import Drafter
from tests.engine.answers import GREEDY

NEAR_TIE = 2e-3
"""Logits this close may change places: batches of other sizes sum in another order. Measured:
differences up to 2e-4 at logits of about 3."""

_log: list[NativeLog] = []


def settings(*, parallel: int = 3, context: int = 256, kv_unified: bool = False) -> LoadSettings:
    """Small batches, and arithmetic as exact as there is: two ways to an answer must agree."""
    return LoadSettings(
        context=context,
        parallel=parallel,
        batch=32,
        ubatch=32,
        threads=1,
        kv_type_k=KvType.F32,
        kv_type_v=KvType.F32,
        flash_attention=FlashAttention.OFF,
        kv_unified=kv_unified,
    )


def log() -> NativeLog:
    """Return the only log of this process."""
    if not _log:
        llama.llama_backend_init()
        _log.append(NativeLog())
    return _log[0]


class _NeverIdle(Scheduler):
    def _has_company(self, sequence: Sequence) -> bool:
        return True


class SteppedScheduler:
    """One model; `submit`, `step` and `check` as a test likes."""

    def __init__(
        self,
        path: Path,
        load: LoadSettings,
        clock: Callable[[], float] = time.monotonic,
        drafter: Drafter | None = None,
        *,
        in_company: bool = False,
        host: HostCache | None = None,
    ) -> None:
        """`in_company`: no request finds the engine idle: a seed alone promises nothing then."""
        self.model = Model(str(path), load, log=log(), on_progress=lambda _: None)
        self.events: list[Event] = []
        kind = _NeverIdle if in_company else Scheduler
        self.scheduler = kind(self.model, self.events.append, clock, drafter, host)

    @property
    def memory(self) -> MemoryKind:
        return self.scheduler.kv_cache.memory

    @property
    def running(self) -> dict[str, Sequence]:
        """The sequences that have a slot, by request."""
        return {each.id: each for each in self.scheduler._running.values()}

    def submit(
        self,
        request_id: str,
        prompt: str,
        *,
        max_tokens: int = 20,
        loras: tuple[LoraScale, ...] | None = None,
    ) -> None:
        self.submit_request(
            GenerateRequest(
                request_id=request_id,
                prompt=prompt,
                sampling=GREEDY,
                max_tokens=max_tokens,
                loras=loras,
            )
        )

    def submit_request(self, request: GenerateRequest, *, arrived: float = 0.0) -> None:
        """Submit a request that has a `prompt`."""
        assert request.prompt is not None
        tokens = self.model.vocab.tokenize(request.prompt, special=False)
        self.scheduler.submit(request, Prompt(tokens=tokens), arrived)

    def submit_sections(
        self, request_id: str, sections: list[tuple[Section, str]], *, max_tokens: int = 20
    ) -> None:
        """Submit a conversation whose sections are known."""
        boundaries, text = [], ""
        for section, part in sections:
            boundaries.append(Boundary(position=len(text), section=section))
            text += part
        tokens = self.model.vocab.tokenize(text, special=False)
        assert len(tokens) == len(text)
        request = GenerateRequest(
            request_id=request_id, prompt=text, sampling=GREEDY, max_tokens=max_tokens
        )
        self.scheduler.submit(request, Prompt(tokens=tokens, boundaries=tuple(boundaries)), 0.0)

    def step(self, *, aborted: bool = False) -> None:
        if aborted:
            self.model.abort.raise_()
        self.scheduler.step()
        self.model.abort.lower()
        self.check()

    def run(self) -> None:
        while self.scheduler.busy:
            self.step()

    def ask(self, prompt: str, *, max_tokens: int = 20) -> str:
        """Return one answer, computed alone."""
        start = len(self.events)
        self.submit(f"ask{start}", prompt, max_tokens=max_tokens)
        self.run()
        return "".join(e.text for e in self.events[start:] if isinstance(e, Token))

    def lose_cells(self, request_id: str) -> None:
        """Clear a running sequence's slot, so that it has to compute everything again."""
        sequence = self.running[request_id]
        tokens = list(self.scheduler.kv_cache.tokens[sequence.slot])
        self.scheduler.kv_cache.clear(sequence.slot)
        sequence.recompute(tokens)

    def text(self, request_id: str) -> str:
        return "".join(
            e.text for e in self.events if isinstance(e, Token) and e.request_id == request_id
        )

    def end(self, request_id: str) -> Finished | RequestError:
        """Return the last event of this request, of which there must be one."""
        (end,) = (
            e
            for e in self.events
            if isinstance(e, Finished | RequestError) and e.request_id == request_id
        )
        return end

    def finished(self, request_id: str) -> Finished:
        """Return the last event of this request, which must not be an error."""
        end = self.end(request_id)
        assert isinstance(end, Finished)
        return end

    def slot_of(self, text: str) -> int:
        """Return the slot whose cells begin with this text."""
        tokens = self.model.vocab.tokenize(text, special=False)
        cached = self.scheduler.kv_cache.tokens
        return next(slot for slot, has in cached.items() if list(has[: len(tokens)]) == tokens)

    def check(self) -> None:
        """Compare the books of each slot with what llama.cpp has there."""
        running, kv_cache = self.scheduler._running, self.scheduler.kv_cache
        memory = llama.llama_get_memory(self.model.handle)
        assert sorted([*running, *kv_cache.idle]) == list(range(self.model.settings.parallel))
        for slot, tokens in kv_cache.tokens.items():
            newest = llama.llama_memory_seq_pos_max(memory, slot)
            ends_with_image = bool(tokens) and tokens[-1] < 0  # its cells may all be at its start
            assert newest == len(tokens) - 1 or (ends_with_image and newest < len(tokens))
        for slot, sequence in running.items():
            assert sequence.slot == slot
            computed = kv_cache.length(slot) >= len(sequence.prompt.tokens)
            assert computed == (sequence.status is DECODE)
            assert (sequence.output.next_token is not None) == (sequence.status is DECODE)

    def logits(self, text: str) -> np.ndarray:
        """Return the logits after this text, computed in slot 0. Nothing may be running."""
        tokens, most = (
            self.model.vocab.tokenize(text, special=False),
            self.model.max_batch_tokens,
        )
        self.scheduler.kv_cache.clear(0)
        for start in range(0, len(tokens), most):
            part = tokens[start : start + most]
            batch = [
                BatchToken(token, start + i, 0, start + i == len(tokens) - 1)
                for i, token in enumerate(part)
            ]
            self.model.decode(batch)
        found = llama.llama_get_logits_ith(self.model.handle, len(part) - 1)
        values = np.ctypeslib.as_array(found, (self.model.vocab.size,)).copy()
        self.scheduler.kv_cache.clear(0)
        return values

    def close(self) -> None:
        self.scheduler.close()
        self.model.close()


class Reference:
    """The same model with one slot that starts empty: its answers reuse nothing."""

    def __init__(self, path: Path, load: LoadSettings) -> None:
        self._alone = SteppedScheduler(path, load)

    def agrees(self, prompt: str, answer: str, *, max_tokens: int, whole: bool) -> bool:
        """Return True when `answer` (or when `whole` is False: the beginning of one) is the answer
        to `prompt`. Two that part at a near tie agree."""
        self._alone.scheduler.kv_cache.clear(0)
        expected = self._alone.ask(prompt, max_tokens=max_tokens)
        if answer == expected or (not whole and expected.startswith(answer)):
            return True
        same = next(i for i, (a, b) in enumerate(zip(answer, expected, strict=False)) if a != b)
        logits = self._alone.logits(prompt + answer[:same])
        tokens = [
            self._alone.model.vocab.tokenize(t[same], special=False)[0] for t in (answer, expected)
        ]
        return bool(abs(logits[tokens[0]] - logits[tokens[1]]) < NEAR_TIE)

    def close(self) -> None:
        self._alone.close()
