"""The batches of the API: run one after another beside the other requests, from the disk on.

A line of a batch is a request to the same routes that answer everybody, with what the key that has
made the batch may do now, and a priority after everything that somebody waits for.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import ASGIApp, Message, Scope

from localllm.errors import LocalLLMError, NotFound, StoreError, UsageError
from localllm.server.batch.input_file import BatchInput, scan
from localllm.server.batch.journal import Journal, partial_file
from localllm.server.batch.lines import BatchLine, body_bytes
from localllm.server.batch.runner import BatchProgress, HttpAnswer, run_batch
from localllm.server.batch.store import (
    BatchStore,
    LineError,
    StoredBatch,
    StoredFile,
    is_success,
    store_errors,
)
from localllm.server.request_record import Caller, RequestRecord, use_record

logger = logging.getLogger("localllm.batch")

RETRY_S = 60.0
"""After a full disk; whoever makes room needs not start the server again."""

MAX_ERRORS = 20
"""Lines of an input that are named; OpenAI stops at one thousand."""

CallAsgi = Callable[[BatchLine, Caller], Awaitable[HttpAnswer]]

CallerOf = Callable[[str], Caller | None]
"""Tells what the key of a `Caller.identity` may do; None: it was revoked or has expired."""


class _KeyGone(Exception):
    """The key that has made a batch is not valid any more."""


def call_app(app: ASGIApp) -> CallAsgi:
    """Make what sends a line to the routes of `app`, as a caller that was checked before."""

    async def call(line: BatchLine, caller: Caller) -> HttpAnswer:
        body = body_bytes(line)
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": line.url,
            "raw_path": line.url.encode(),
            "query_string": b"",
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ],
            "client": None,
            "server": None,
        }
        sent = False
        never = asyncio.Event()
        status, headers, parts = 500, {}, []

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await never.wait()  # this client never leaves
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in message["headers"]
                }
            else:
                parts.append(message.get("body", b""))

        record = RequestRecord(request_id=f"req_{secrets.token_hex(12)}", caller=caller)

        async def run() -> None:
            use_record(record)
            await app(scope, receive, send)

        await asyncio.create_task(run())  # a task of its own: the record is its own, too
        headers.setdefault("x-request-id", record.request_id)
        return HttpAnswer(status=status, headers=headers, body=b"".join(parts))

    return call


class BatchService:
    """Batches that were created, by the API or before this process began: one runs, in the order
    in which they were made."""

    def __init__(
        self,
        store: BatchStore,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.store = store
        self._sleep = sleep
        self._connected: tuple[CallAsgi, CallerOf] | None = None
        self._running: tuple[str, asyncio.Task[None]] | None = None
        self._worker: asyncio.Task[None] | None = None

    def connect(self, call: CallAsgi, caller_of: CallerOf) -> None:
        """Say how lines are sent. To be called before a batch can run."""
        self._connected = call, caller_of

    def start(self) -> None:
        """Go on with what has not ended. To be called when requests can be answered."""
        with contextlib.suppress(StoreError):
            self.store.delete_expired()
        self._wake()

    async def close(self) -> None:
        """Stop where it is; the next start goes on."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait((worker,))

    def create(self, batch: StoredBatch) -> StoredBatch:
        """Keep a new batch, and begin it when those before it have ended. Raises StoreError."""
        self.store.put_batch(batch)
        self._wake()
        return batch

    def cancel(self, batch: StoredBatch) -> StoredBatch:
        """End a batch early; the results that are there become its files. Raises StoreError."""
        if batch.ended or batch.status in {"cancelling", "finalizing"}:
            return batch
        batch = self._update(batch.id, status="cancelling", cancelling_at=self._now())
        if self._running is not None and self._running[0] == batch.id:
            self._running[1].cancel()
        else:
            self._wake()
        return batch

    # --- inside ---

    def _now(self) -> int:
        return int(self.store.clock())

    def _update(self, batch_id: str, *, keep: bool = True, **changes: object) -> StoredBatch:
        batch = self.store.batch_of_any(batch_id)
        return self.store.put_batch(msgspec.structs.replace(batch, **changes), keep=keep)

    def _wake(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while waiting := [each for each in self.store.batches() if not each.ended]:
            batch = waiting[-1]
            task = asyncio.create_task(self._run(batch))
            self._running = batch.id, task
            try:
                await asyncio.wait((task,))
            finally:
                self._running = None
                if not task.done():  # this worker is cancelled, not the batch
                    task.cancel()
                    await asyncio.wait((task,))
            error = None if task.cancelled() else task.exception()
            if isinstance(error, StoreError):
                logger.warning("A batch waits for %.0f s: %s", RETRY_S, error)
                await self._sleep(RETRY_S)
            elif error is not None:
                self._fail(batch.id, error)

    def _fail(self, batch_id: str, error: BaseException) -> None:
        if not isinstance(error, LocalLLMError):
            logger.error("A batch has failed: a fault of this program.", exc_info=error)
        message = str(error) if isinstance(error, LocalLLMError) else "The server has a fault."
        errors = (LineError(line=0, message=message),)
        failed = self._update(
            batch_id, keep=False, status="failed", failed_at=self._now(), errors=errors
        )
        try:
            self.store.put_batch(failed)
        except StoreError as full:  # the next start tries it again
            logger.warning("%s", full)

    async def _run(self, batch: StoredBatch) -> None:
        """Bring a batch to its end, from wherever it is."""
        out = self.store.results(batch)
        if out.exists() and not partial_file(out).exists():
            await asyncio.to_thread(self._complete, batch.id)
            return
        try:
            file = self.store.file(batch.input_file_id, batch.owner)
            found = await asyncio.to_thread(scan, self.store.content(file), endpoint=batch.endpoint)
        except (NotFound, UsageError) as error:
            raise UsageError(f"The input file cannot be used: {error}") from error
        if found.invalid:
            errors = tuple(
                LineError(line=number, message=result.error or "")
                for number, result in found.invalid[:MAX_ERRORS]
            )
            self._update(batch.id, status="failed", failed_at=self._now(), errors=errors)
            return
        journal = await asyncio.to_thread(Journal.open, out, found)
        try:
            if batch.cancelling_at is None:
                began = batch.in_progress_at or self._now()
                self._update(
                    batch.id, status="in_progress", in_progress_at=began, total=found.total
                )
                try:
                    await self._run_lines(batch, found, journal)
                except _KeyGone:
                    gone = LineError(line=0, message="Its key was revoked or has expired.")
                    self._update(batch.id, cancelling_at=self._now(), errors=(gone,))
            self._finalize(batch.id)
            await asyncio.to_thread(journal.finish, found, in_order=True)
        finally:
            journal.close()
        await asyncio.to_thread(self._complete, batch.id)

    def _finalize(self, batch_id: str) -> None:
        """From here on there is nothing to cancel; one that was has the time of it."""
        self._update(batch_id, status="finalizing", finalizing_at=self._now())

    async def _run_lines(self, batch: StoredBatch, found: BatchInput, journal: Journal) -> None:
        assert self._connected is not None
        call, caller_of = self._connected

        def note(progress: BatchProgress) -> None:
            completed = progress.done - progress.failed
            self._update(batch.id, keep=False, completed=completed, failed=progress.failed)

        async def send(line: BatchLine) -> HttpAnswer:
            if (caller := caller_of(batch.owner)) is None:
                raise _KeyGone
            return await call(line, caller)

        await run_batch(found, journal, send, on_progress=note, sleep=self._sleep)

    def _complete(self, batch_id: str) -> None:
        """Make the files of the results, and the last state. Raises StoreError, without files."""
        batch = self.store.batch_of_any(batch_id)
        files: dict[bool, StoredFile | None] = {}
        counts = {True: 0, False: 0}
        try:
            for success, name in ((True, "output"), (False, "error")):
                files[success], counts[success] = self._result_file(batch, name, success=success)
            output, error = files[True], files[False]
            cancelled = batch.cancelling_at is not None
            self._update(
                batch_id,
                status="cancelled" if cancelled else "completed",
                output_file_id=None if output is None else output.id,
                error_file_id=None if error is None else error.id,
                completed=counts[True],
                failed=counts[False],
                cancelled_at=self._now() if cancelled else None,
                completed_at=None if cancelled else self._now(),
            )
        except StoreError:
            for file in files.values():
                if file is not None:
                    self.store.delete_file(file)
            raise
        with contextlib.suppress(OSError):
            self.store.results(batch).unlink(missing_ok=True)

    def _result_file(
        self, batch: StoredBatch, name: str, *, success: bool
    ) -> tuple[StoredFile | None, int]:
        """Make a file of the answers, or of the errors, and count them; None of none."""
        count = 0
        with store_errors(), self.store.results(batch).open("rb") as results:
            lines = (raw for raw in results if is_success(raw) is success)
            first = next(lines, None)
            if first is None:
                return None, 0
            with self.store.new_file(
                owner=batch.owner, filename=f"{batch.id}_{name}.jsonl", purpose="batch_output"
            ) as new:
                if batch.output_expires_s is not None:
                    new.expires_at = self._now() + batch.output_expires_s
                for raw in itertools.chain((first,), lines):
                    new.file.write(raw)
                    count += 1
        return self.store.file(new.id, batch.owner), count
