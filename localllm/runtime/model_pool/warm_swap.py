"""The conversations of models that were unloaded: kept for their next load, which goes on with them
without reading them again.

Kept cells are the first to go: they count as free memory when a load is planned, and are dropped as
far as the load needs them. Nothing here is worth a failure: whatever cannot be kept, or taken back,
is read again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.core.sizing.fit import Fit
from localllm.core.sizing.placement import budget_of
from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.engine.client.client import Engine
from localllm.engine.messages import ExportState, ImportState
from localllm.errors import LocalLLMError, StateFailed
from localllm.runtime.memory_outlook import MemoryOutlook
from localllm.runtime.model_pool import swap_places
from localllm.runtime.model_pool.swap_places import SwapPlace
from localllm.runtime.runtime import Runtime

logger = logging.getLogger("localllm.pool")

AUTO_SHARE = 4
"""Of the memory that stays free, this part (1/4) is used where nobody has said how much."""

MAX_COPY_S = 2.0
"""Copying goes on no longer than so many seconds: another model waits to be loaded."""

_HANGS_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapLimits:
    """Bytes that may be kept in memory (None: a part of what stays free) and on the disk."""

    ram_bytes: int | None = None
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapRoom:
    """Memory of the host for kept cells. `stays_bytes` are free, or kept already, when the swap is
    done; `now_bytes` are free before it, while the model that gives way still has its own."""

    stays_bytes: int
    now_bytes: int

    @classmethod
    def beside(cls, outlook: MemoryOutlook, fit: Fit, gone: Collection[str]) -> "SwapRoom":
        """Work out what a load leaves when the models called `gone` are not there."""
        draft = fit.draft.total_bytes if fit.draft is not None else 0
        taken = fit.placement.devices[-1].total_bytes + draft
        return cls._of(outlook, gone, host_bytes=taken, total_bytes=fit.with_draft_bytes)

    @classmethod
    def without(cls, outlook: MemoryOutlook, name: str) -> "SwapRoom":
        """Work out what is free when a model is unloaded and none is loaded."""
        return cls._of(outlook, (name,))

    @classmethod
    def _of(
        cls,
        outlook: MemoryOutlook,
        gone: Collection[str],
        *,
        host_bytes: int = 0,
        total_bytes: int = 0,
    ) -> "SwapRoom":
        stays = outlook.free_host_bytes(gone) - host_bytes
        if outlook.max_memory_bytes is not None:
            stays = min(stays, outlook.max_memory_bytes - outlook.beside_bytes(gone) - total_bytes)
        now = budget_of(outlook.hardware, reserve_bytes=outlook.reserve_bytes).host_bytes
        return cls(stays_bytes=stays, now_bytes=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptConversations:
    """How many conversations of an unloaded model are kept, and in how many bytes."""

    conversations: int
    ram_bytes: int
    disk_bytes: int

    @property
    def sentence(self) -> str:
        """Say so: "3 conversations, 41 MiB"."""
        plural = "" if self.conversations == 1 else "s"
        sizes = [format_bytes(self.ram_bytes)] if self.ram_bytes or not self.disk_bytes else []
        if self.disk_bytes:
            sizes.append(f"{format_bytes(self.disk_bytes)} on the disk (encrypted)")
        return f"{self.conversations} conversation{plural}, {' and '.join(sizes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptState:
    """One conversation of a model. `copy_s`: the time that the copy took, and its way back will."""

    model: str
    place: SwapPlace
    tokens: int
    size_bytes: int
    copy_s: float


def worth_taking_back(states: Sequence[KeptState], tokens_per_s: float | None) -> list[KeptState]:
    """Choose which conversations a model gets back: from the one used last on, as long as copying
    them takes less time than reading that one would, and never a copy that takes longer than
    reading. `tokens_per_s` is the rate of reading; None: not known."""
    chosen: list[KeptState] = []
    spent, limit = 0.0, MAX_COPY_S
    for state in states:
        if tokens_per_s is not None:
            read_s = state.tokens / tokens_per_s
            if state.copy_s >= read_s:
                continue
            if not chosen:
                limit = min(limit, read_s)
        if chosen and spent + state.copy_s > limit:
            break
        spent += state.copy_s
        chosen.append(state)
    return chosen


class WarmSwap:
    """Keeps the conversations of models, within limits, while the models are not in memory.

    Files lie in `directory`. What was kept last is of most worth: the oldest goes first.
    """

    def __init__(
        self,
        runtime: Runtime,
        limits: SwapLimits,
        directory: Path,
        *,
        timer: Callable[[], float] = time.monotonic,
        has_memory: bool | None = None,
    ) -> None:
        self._runtime = runtime
        self._limits = limits
        self._directory = directory
        self._timer = timer
        self._has_memory = swap_places.has_memory() if has_memory is None else has_memory
        self._kept: list[KeptState] = []
        """The oldest first; of one model, that used last comes last."""
        if limits.disk_bytes:
            swap_places.delete_leftovers(directory)
        runtime.releasable_bytes = lambda: self.ram_bytes

    @property
    def ram_bytes(self) -> int:
        """Memory that is held, and can be given back at once."""
        return _bytes(self._kept, on_disk=False)

    @property
    def disk_bytes(self) -> int:
        """Bytes of files."""
        return _bytes(self._kept, on_disk=True)

    def kept(self, name: str) -> KeptConversations | None:
        """Say what is kept of the model called `name`; None: nothing."""
        own = [each for each in self._kept if each.model == name]
        if not own:
            return None
        return KeptConversations(
            conversations=len(own),
            ram_bytes=_bytes(own, on_disk=False),
            disk_bytes=_bytes(own, on_disk=True),
        )

    # --- out ---

    async def keep(self, name: str, room: SwapRoom, loading: str | None = None) -> None:
        """Copy the conversations of a model out of its engine, which is about to end. `loading`
        will have its own back in a moment: they stay."""
        self.drop(name)
        engine = self._runtime.running_engine(name)
        if engine is None or not (self._ram_limit(room) or self._limits.disk_bytes):
            return
        try:
            async with asyncio.timeout(_HANGS_S):
                await self._copy_all(name, engine, room, loading)
        except (LocalLLMError, TimeoutError) as error:  # the engine crashed, or it is no chat model
            logger.info("%s: conversations are not kept: %s", single_line(name), error)
        if (kept := self.kept(name)) is not None:
            logger.info("%s: kept: %s.", single_line(name), kept.sentence)

    async def _copy_all(
        self, name: str, engine: Engine, room: SwapRoom, loading: str | None
    ) -> None:
        began, copied = self._timer(), list[KeptState]()
        try:
            for index in range(len(await engine.list_states())):
                if self._timer() - began > MAX_COPY_S:
                    break
                state = await self._copy(name, engine, index, room, loading, copied)
                if state is not None:
                    copied.append(state)
        finally:
            self._kept += reversed(copied)  # it lists that used last first

    async def _copy(
        self,
        name: str,
        engine: Engine,
        index: int,
        room: SwapRoom,
        loading: str | None,
        copied: Sequence[KeptState],
    ) -> KeptState | None:
        """Copy one conversation into memory, or else onto the disk; None where neither has room.
        Older ones of other models give way."""
        reason: Exception | None = None
        for on_disk in (False, True):
            limit = self._limits.disk_bytes if on_disk else self._ram_limit(room)
            fixed = _bytes(copied, on_disk) + _bytes(
                (each for each in self._kept if each.model == loading), on_disk
            )
            # The model's engine still has all that is its own, and what gives way is still there.
            left = min(limit - fixed, room.now_bytes // 2 - _bytes(copied, on_disk=False))
            if left <= 0:
                continue
            began = self._timer()
            try:
                place, tokens, size_bytes = await self._export(engine, index, on_disk, left)
            except (StateFailed, OSError) as error:
                reason = error
                continue
            copy_s = self._timer() - began
            taken = _bytes(copied, on_disk) + size_bytes
            while _bytes(self._kept, on_disk) + taken > limit:
                if not self._drop_oldest(on_disk, except_for=loading):
                    break
            return KeptState(
                model=name, place=place, tokens=tokens, size_bytes=size_bytes, copy_s=copy_s
            )
        if reason is not None:
            logger.debug("%s: a conversation is not kept: %s", single_line(name), reason)
        return None

    async def _export(
        self, engine: Engine, index: int, on_disk: bool, max_bytes: int
    ) -> tuple[SwapPlace, int, int]:
        if on_disk:
            place = await asyncio.to_thread(swap_places.disk_place, self._directory)
        else:
            place = swap_places.memory_place()
        try:
            saved = await engine.export_state(
                ExportState(
                    index=index, path=place.path, key=place.key, max_bytes=max(0, max_bytes)
                )
            )
            place.seal()
        except BaseException:
            place.close()
            raise
        return place, saved.tokens, saved.size_bytes

    def _ram_limit(self, room: SwapRoom) -> int:
        if not self._has_memory:
            return 0
        limit = self._limits.ram_bytes
        stays = max(0, room.stays_bytes)
        return stays // AUTO_SHARE if limit is None else min(limit, stays)

    # --- back ---

    async def give_back(self, name: str) -> None:
        """Let a model that was just loaded have its conversations again."""
        own = [each for each in self._kept if each.model == name]
        if not own:
            return
        began, tokens, count = self._timer(), 0, 0
        try:
            engine = self._runtime.running_engine(name)
            chosen = worth_taking_back(own[::-1], self._runtime.reading_rate(name))
            for state in reversed(chosen):  # that used last is the last here too
                if engine is None:
                    break
                place = state.place
                request = ImportState(path=place.path, key=place.key)
                try:
                    async with asyncio.timeout(_HANGS_S):
                        tokens += (await engine.import_state(request)).tokens
                    count += 1
                except StateFailed as error:
                    logger.info("%s: a conversation is read again: %s", single_line(name), error)
        except (LocalLLMError, TimeoutError) as error:  # its next request says what happened to it
            logger.warning("%s: conversations are read again: %s", single_line(name), error)
        finally:
            self.drop(name)
        if count:
            logger.info(
                "%s goes on with %d of %d conversations (%d tokens), in %s.",
                single_line(name),
                count,
                len(own),
                tokens,
                format_duration(self._timer() - began),
            )

    # --- away ---

    def make_room(self, room: SwapRoom, loading: str) -> None:
        """Drop what has no room beside the model that is being loaded, its own last."""
        while self.ram_bytes > max(0, room.stays_bytes):
            if not self._drop_oldest(False, except_for=loading) and not self._drop_oldest(False):
                return

    def drop(self, name: str) -> None:
        """Drop all that is kept of a model."""
        self._close(each for each in self._kept if each.model == name)

    def close(self) -> None:
        """Drop everything."""
        self._close(self._kept)

    def _drop_oldest(self, on_disk: bool, *, except_for: str | None = None) -> bool:
        oldest = next(
            (
                each
                for each in self._kept
                if each.place.on_disk == on_disk and each.model != except_for
            ),
            None,
        )
        if oldest is None:
            return False
        self._close((oldest,))
        return True

    def _close(self, states: Iterable[KeptState]) -> None:
        gone = list(states)
        self._kept = [each for each in self._kept if each not in gone]
        for each in gone:
            each.place.close()


def _bytes(states: Iterable[KeptState], on_disk: bool) -> int:
    return sum(each.size_bytes for each in states if each.place.on_disk == on_disk)
