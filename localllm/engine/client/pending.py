"""Who waits for what the engine says: questions in their order, answers by their request's id."""

import asyncio
from collections import deque

from localllm.engine.client.failures import refusal
from localllm.engine.messages import (
    BuildInfo,
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
    Token,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.engine.messages.codec import WireError
from localllm.errors import BadRequest, GenerationFailed, LocalLLMError, QueueFull

MAX_OPEN = 1024
"""Requests of one engine that may be open at the same time: it decodes at most 256 at once and
lets as many wait (worker/scheduler.py)."""

MAX_UNREAD_EVENTS = 10_000
"""How far the reader of a stream may be behind. The engine has one pipe for everybody, so it
cannot wait for one reader; and what nobody reads must not fill the memory."""

ControlEvent = (
    BuildInfo | LoadProgress | Loaded | Probed | LoadError | StateSaved | StateRestored | StateError
)
OneAnswer = Embedded | Reranked
Answers = asyncio.Queue[ControlEvent | LocalLLMError]
"""What comes to one question; the last of it is no LoadProgress."""


def _is_last(event: GenerateEvent | LocalLLMError) -> bool:
    """Whether nothing comes to this request any more: of `n` answers the last has ended."""
    if isinstance(event, Finished):
        return event.remaining == 0
    return isinstance(event, LocalLLMError)


class Stream:
    """What comes to one request, until the worker has said the last word."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[GenerateEvent | LocalLLMError] = asyncio.Queue()
        self._abandoned = False
        self.ended = False
        """Whether the last word has been taken."""

    async def take(self) -> GenerateEvent:
        """The next event. Raises what ended the request instead of `Finished`."""
        event = await self._events.get()
        self.ended = _is_last(event)
        if isinstance(event, LocalLLMError):
            raise event
        return event

    def put(self, event: GenerateEvent | LocalLLMError) -> bool:
        """Keep an event for the reader; false when that is one too many, which ends the stream."""
        if self._abandoned:
            return True
        self._abandoned = self._events.qsize() >= MAX_UNREAD_EVENTS and not _is_last(event)
        if self._abandoned:
            event = GenerationFailed(
                f"The answer was ended: {MAX_UNREAD_EVENTS} parts of it are waiting to be read. "
                "Read a stream as it comes, or ask for fewer tokens."
            )
        self._events.put_nowait(event)
        return not self._abandoned


class Replies:
    """Brings each event to whoever waits for it."""

    def __init__(self) -> None:
        self._asked: deque[Answers] = deque()
        """Whoever waits for a BuildInfo, Loaded, StateSaved ..., in the order of their commands,
        which is that of the worker's answers. Who has given up stays until the answer has come."""
        self._streams: dict[str, Stream] = {}
        """By request id, until the worker has said the last word: an id is not free earlier."""
        self._single: dict[str, asyncio.Future[OneAnswer]] = {}
        """The same of requests whose first word is the last."""
        self.wanted = asyncio.Event()
        """Set while anybody waits for anything."""

    @property
    def questions(self) -> int:
        """Questions that are not answered yet."""
        return len(self._asked)

    def ask(self) -> Answers:
        """Wait for the answer to the question that is sent next."""
        answers: Answers = asyncio.Queue()
        self._asked.append(answers)
        self.wanted.set()
        return answers

    def open(self, request_id: str) -> Stream:
        """Wait for what comes to this request. Raises BadRequest (its id is taken), QueueFull."""
        self._check_free(request_id)
        stream = self._streams[request_id] = Stream()
        self.wanted.set()
        return stream

    def expect(self, request_id: str) -> "asyncio.Future[OneAnswer]":
        """Wait for the one answer to this request. Raises BadRequest (its id is taken),
        QueueFull."""
        self._check_free(request_id)
        answer = self._single[request_id] = asyncio.get_running_loop().create_future()
        self.wanted.set()
        return answer

    def _check_free(self, request_id: str) -> None:
        if request_id in self._streams or request_id in self._single:
            raise BadRequest(f"A request with the id {request_id!r} is running already.")
        if (open_now := len(self._streams) + len(self._single)) >= MAX_OPEN:
            raise QueueFull(f"{open_now} requests are open already. Try again later.")

    def deliver(self, event: Event) -> str | None:
        """Give an event to whoever waits for it; what comes to a request that has ended goes to
        nobody. Returns the id of a request that must be cancelled because its reader is too far
        behind. Raises WireError for an answer to a question that was not asked."""
        unread = None
        match event:
            case Heartbeat():
                pass
            case PromptProgress() | Token() | Reasoning() | ToolCallBegan() | ToolCallArguments():
                stream = self._streams.get(event.request_id)
                if stream is not None and not stream.put(event):
                    unread = event.request_id
            case RequestError() if (answer := self._single.pop(event.request_id, None)) is not None:
                if not answer.done():
                    answer.set_exception(refusal(event))
            case Finished() | RequestError():
                if (stream := self._streams.get(event.request_id)) is not None:
                    word = refusal(event) if isinstance(event, RequestError) else event
                    if _is_last(word):
                        del self._streams[event.request_id]
                    if not stream.put(word):
                        unread = event.request_id
            case Embedded() | Reranked():
                one = self._single.pop(event.request_id, None)
                if one is not None and not one.done():
                    one.set_result(event)
            case _ if not self._asked:
                raise WireError(f"{type(event).__name__}, which nobody has asked for")
            case LoadProgress():
                self._asked[0].put_nowait(event)
            case _:
                self._asked.popleft().put_nowait(event)
        self._note_wanted()
        return unread

    def end(self, error: LocalLLMError) -> None:
        """Give everybody who waits this error, as the last word."""
        for answers in self._asked:
            answers.put_nowait(error)
        for stream in self._streams.values():
            stream.put(error)
        for answer in self._single.values():
            if not answer.done():  # whoever waited may have given up
                answer.set_exception(error)
        self._asked.clear()
        self._streams.clear()
        self._single.clear()
        self._note_wanted()

    def _note_wanted(self) -> None:
        if not self._asked and not self._streams and not self._single:
            self.wanted.clear()
