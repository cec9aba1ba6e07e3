"""Pending requests: who waits for which of the worker's events.

A request is one of three kinds, by the way in which it is answered:

    control  BuildInfoRequest, load, probe, state files: in the order of the commands. The last
             event is the first that is no LoadProgress.
    stream   generate: by its id, any number of events. The last is the Finished with none
             remaining, or a RequestError.
    single   embed, rerank, tokenize and the like: by its id, one event.

Each goes the same way:

    add_control, add_stream, add_single -> pending -> its last event -> gone, its id is free

- A consumer that gives up leaves its request pending until the worker has sent the last event:
  otherwise the next control request would get it, or another request of the same id.
- A stream that is not read fast enough overflows: its consumer gets an error, and the rest of its
  events is dropped. It is pending until its last event all the same; `dispatch` returns its id, so
  that it is cancelled.
- When the process ends, `fail_all` gives every pending request the error as its last event.
"""

import asyncio
from collections import deque

from localllm.engine.messages import (
    Architectures,
    BuildInfo,
    Detokenized,
    Embedded,
    Event,
    Finished,
    GenerateEvent,
    Heartbeat,
    Loaded,
    LoadError,
    LoadProgress,
    Probed,
    PromptProgress,
    Reasoning,
    RequestError,
    Reranked,
    StateError,
    StateRestored,
    StateSaved,
    StatesListed,
    TemplateApplied,
    Token,
    Tokenized,
    TokensCounted,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.engine.messages.codec import WireError
from localllm.errors import (
    BadRequest,
    ContextOverflow,
    DeadlineExceeded,
    GenerationFailed,
    LocalLLMError,
    QueueFull,
)

MAX_PENDING = 1024
"""Streams and singles of one engine at the same time: it decodes at most 256 at once and queues as
many (worker/scheduling/request_queue.py)."""

MAX_UNREAD_EVENTS = 10_000
"""Events that the consumer of a stream may be behind. The engine has one pipe for everybody, so it
cannot wait for one consumer; and events that nobody reads must not fill the memory."""

ControlEvent = (
    BuildInfo
    | LoadProgress
    | Loaded
    | Probed
    | Architectures
    | LoadError
    | StateSaved
    | StateRestored
    | StatesListed
    | StateError
)
SingleEvent = Embedded | Reranked | Tokenized | Detokenized | TemplateApplied | TokensCounted
ControlEvents = asyncio.Queue[ControlEvent | LocalLLMError]
"""The events of one control request; after the last one nothing comes."""

_ERRORS: dict[str, type[GenerationFailed]] = {
    kind.code: kind
    for kind in (GenerationFailed, BadRequest, ContextOverflow, QueueFull, DeadlineExceeded)
}


def error_of(event: RequestError) -> GenerationFailed:
    """Make the exception that the worker's error stands for."""
    return _ERRORS.get(event.code, GenerationFailed)(event.message)


def _is_last(event: GenerateEvent | LocalLLMError) -> bool:
    if isinstance(event, Finished):
        return event.remaining == 0
    return isinstance(event, LocalLLMError)


class EventStream:
    """The events of one generate request."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[GenerateEvent | LocalLLMError] = asyncio.Queue()
        self._overflown = False
        self.finished = False
        """True when the last event has been read."""

    async def get(self) -> GenerateEvent:
        """Wait for the next event. Raises the error that ends the request instead of `Finished`."""
        event = await self._events.get()
        self.finished = _is_last(event)
        if isinstance(event, LocalLLMError):
            raise event
        return event

    def put(self, event: GenerateEvent | LocalLLMError) -> bool:
        """Add an event for the consumer. Returns False when that makes the stream overflow."""
        if self._overflown:
            return True
        self._overflown = self._events.qsize() >= MAX_UNREAD_EVENTS and not _is_last(event)
        if self._overflown:
            event = GenerationFailed(
                f"The answer was ended: {MAX_UNREAD_EVENTS} parts of it are waiting to be read. "
                "Read a stream as it comes, or ask for fewer tokens."
            )
        self._events.put_nowait(event)
        return not self._overflown


class PendingRequests:
    """The pending requests of one engine's process."""

    def __init__(self) -> None:
        self._controls: deque[ControlEvents] = deque()
        self._streams: dict[str, EventStream] = {}
        self._singles: dict[str, asyncio.Future[SingleEvent]] = {}
        self.active = asyncio.Event()
        """Set while a request is pending."""

    @property
    def controls(self) -> int:
        """The number of pending control requests."""
        return len(self._controls)

    def add_control(self) -> ControlEvents:
        """Add the control request that is sent next."""
        events: ControlEvents = asyncio.Queue()
        self._controls.append(events)
        self.active.set()
        return events

    def add_stream(self, request_id: str) -> EventStream:
        """Add a generate request. Raises BadRequest (its id is taken), QueueFull."""
        self._check_free(request_id)
        stream = self._streams[request_id] = EventStream()
        self.active.set()
        return stream

    def add_single(self, request_id: str) -> "asyncio.Future[SingleEvent]":
        """Add a request that has one event. Raises BadRequest (its id is taken), QueueFull."""
        self._check_free(request_id)
        future = self._singles[request_id] = asyncio.get_running_loop().create_future()
        self.active.set()
        return future

    def _check_free(self, request_id: str) -> None:
        if request_id in self._streams or request_id in self._singles:
            raise BadRequest(f"A request with the id {request_id!r} is running already.")
        if (pending := len(self._streams) + len(self._singles)) >= MAX_PENDING:
            raise QueueFull(f"{pending} requests are open already. Try again later.")

    def dispatch(self, event: Event) -> str | None:
        """Give an event to the request that it belongs to; one of a request that is not pending any
        more is dropped. Returns the id of a request to cancel, because its stream overflows. Raises
        WireError for a control event without a request."""
        overflown = None
        match event:
            case Heartbeat():
                pass
            case PromptProgress() | Token() | Reasoning() | ToolCallBegan() | ToolCallArguments():
                stream = self._streams.get(event.request_id)
                if stream is not None and not stream.put(event):
                    overflown = event.request_id
            case RequestError() if event.request_id in self._singles:
                future = self._singles.pop(event.request_id)
                if not future.done():
                    future.set_exception(error_of(event))
            case Finished() | RequestError():
                if (stream := self._streams.get(event.request_id)) is not None:
                    end = error_of(event) if isinstance(event, RequestError) else event
                    if _is_last(end):
                        del self._streams[event.request_id]
                    if not stream.put(end):
                        overflown = event.request_id
            case (
                Embedded()
                | Reranked()
                | Tokenized()
                | Detokenized()
                | TemplateApplied()
                | TokensCounted()
            ):
                single = self._singles.pop(event.request_id, None)
                if single is not None and not single.done():
                    single.set_result(event)
            case _ if not self._controls:
                raise WireError(f"{type(event).__name__}, which nobody has asked for")
            case LoadProgress():
                self._controls[0].put_nowait(event)
            case _:
                self._controls.popleft().put_nowait(event)
        self._update_active()
        return overflown

    def fail_all(self, error: LocalLLMError) -> None:
        """Give every pending request this error as its last event."""
        for events in self._controls:
            events.put_nowait(error)
        for stream in self._streams.values():
            stream.put(error)
        for future in self._singles.values():
            if not future.done():  # done: its consumer has given up
                future.set_exception(error)
        self._controls.clear()
        self._streams.clear()
        self._singles.clear()
        self._update_active()

    def _update_active(self) -> None:
        if not self._controls and not self._streams and not self._singles:
            self.active.clear()
