"""A scheduler and its model in this process, driven step by step, its books checked after each."""

import time
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as llama
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
from localllm.engine.worker.llama.model import Model, Row
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.scheduling.scheduler import Scheduler
from localllm.engine.worker.speculative.acceptance import Drafter
from tests.engine.answers import GREEDY

NEAR_TIE = 2e-3
"""Logits this close may change places: batches of other sizes sum in another order. Measured:
differences up to 2e-4 at logits of about 3."""

_log: list[NativeLog] = []


def settings(*, parallel: int = 3, context: int = 256, kv_unified: bool = False) -> LoadSettings:
    """Small batches, and arithmetic as exact as there is: two roads to an answer must agree."""
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
    """The one log of this process."""
    if not _log:
        llama.llama_backend_init()
        _log.append(NativeLog())
    return _log[0]


class Driven:
    """One model; `submit`, `step` and `check` as a test likes."""

    def __init__(
        self,
        path: Path,
        load: LoadSettings,
        clock: Callable[[], float] = time.monotonic,
        drafter: Drafter | None = None,
    ) -> None:
        self.model = Model(str(path), load, log=log(), on_progress=lambda _: None)
        self.events: list[Event] = []
        self.scheduler = Scheduler(self.model, self.events.append, clock, drafter)

    def submit(
        self,
        request_id: str,
        prompt: str,
        *,
        max_tokens: int = 20,
        loras: tuple[LoraScale, ...] | None = None,
    ) -> None:
        request = GenerateRequest(
            request_id=request_id,
            prompt=prompt,
            sampling=GREEDY,
            max_tokens=max_tokens,
            loras=loras,
        )
        self.scheduler.submit(request, self.model.tokenize(prompt, special=False), 0.0)

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
        """One answer, alone."""
        start = len(self.events)
        self.submit(f"ask{start}", prompt, max_tokens=max_tokens)
        self.run()
        return "".join(e.text for e in self.events[start:] if isinstance(e, Token))

    def text(self, request_id: str) -> str:
        return "".join(
            e.text for e in self.events if isinstance(e, Token) and e.request_id == request_id
        )

    def end(self, request_id: str) -> Finished | RequestError:
        """How this request ended; it ended once."""
        (end,) = (
            e
            for e in self.events
            if isinstance(e, Finished | RequestError) and e.request_id == request_id
        )
        return end

    def finished(self, request_id: str) -> Finished:
        """How this request ended, which was not with an error."""
        end = self.end(request_id)
        assert isinstance(end, Finished)
        return end

    def running(self) -> dict[str, int]:
        """The slots of the requests that run."""
        return {each.id: slot for slot, each in self.scheduler._running.items()}

    def slot_of(self, text: str) -> int:
        """The slot that remembers what begins like this."""
        tokens = self.model.tokenize(text, special=False)
        held = self.scheduler.cells.held
        return next(slot for slot, has in held.items() if list(has[: len(tokens)]) == tokens)

    def check(self) -> None:
        """What the scheduler believes of each slot is what llama.cpp holds there."""
        running, cells = self.scheduler._running, self.scheduler._cells
        memory = llama.llama_get_memory(self.model.handle)
        assert sorted([*running, *cells.idle]) == list(range(self.model.settings.parallel))
        for slot, held in cells.held.items():
            newest = llama.llama_memory_seq_pos_max(memory, slot)
            ends_with_picture = bool(held) and held[-1] < 0  # its cells may all be at its start
            assert newest == len(held) - 1 or (ends_with_picture and newest < len(held))
        for slot, sequence in running.items():
            assert sequence.slot == slot
            read = cells.count(slot) >= len(sequence.prompt)
            assert read == (sequence.next_token is not None)

    def logits(self, text: str) -> np.ndarray:
        """What the model says after this text, read in an empty slot 0. Nothing may be running."""
        tokens, chunk = self.model.tokenize(text, special=False), self.model.chunk
        self.scheduler._cells.forget(0)
        for start in range(0, len(tokens), chunk):
            part = tokens[start : start + chunk]
            rows = [
                Row(token, start + i, 0, start + i == len(tokens) - 1)
                for i, token in enumerate(part)
            ]
            self.model.decode(rows)
        found = llama.llama_get_logits_ith(self.model.handle, len(part) - 1)
        values = np.ctypeslib.as_array(found, (self.model.vocabulary,)).copy()
        self.scheduler._cells.forget(0)
        return values

    def close(self) -> None:
        self.model.close()


class Reference:
    """The same model with one slot that starts empty: what an answer is when nothing is reused."""

    def __init__(self, path: Path, load: LoadSettings) -> None:
        self._alone = Driven(path, load)

    def agrees(self, prompt: str, answer: str, *, max_tokens: int, whole: bool) -> bool:
        """Whether `answer` (when `whole` is False: the beginning of one) is the answer to
        `prompt`. Two that part at a near tie agree."""
        self._alone.scheduler._cells.forget(0)
        expected = self._alone.ask(prompt, max_tokens=max_tokens)
        if answer == expected or (not whole and expected.startswith(answer)):
            return True
        same = next(i for i, (a, b) in enumerate(zip(answer, expected, strict=False)) if a != b)
        logits = self._alone.logits(prompt + answer[:same])
        tokens = [self._alone.model.tokenize(t[same], special=False)[0] for t in (answer, expected)]
        return bool(abs(logits[tokens[0]] - logits[tokens[1]]) < NEAR_TIE)

    def close(self) -> None:
        self._alone.close()
