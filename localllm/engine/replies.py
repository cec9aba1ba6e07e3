"""Who waits for what the engine says: questions in their order, answers by their request's id."""

import asyncio
from collections import deque

from localllm.engine.events import (
    Described,
    Embedded,
    Event,
    Finished,
    GenerateEvent,
    Loaded,
    LoadProgress,
    LoadRefused,
    Probed,
    PromptProgress,
    Reasoning,
    Refused,
    Reranked,
    StateRefused,
    StateRestored,
    StateSaved,
    Token,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.engine.failures import refusal
from localllm.engine.wire import WireError
from localllm.errors import BadRequest, LocalLLMError

ControlEvent = (
    Described
    | LoadProgress
    | Loaded
    | Probed
    | LoadRefused
    | StateSaved
    | StateRestored
    | StateRefused
)
OneAnswer = Embedded | Reranked
Answers = asyncio.Queue[ControlEvent | LocalLLMError]
"""What comes to one question; the last of it is no LoadProgress."""


class Stream:
    """What comes to one request, until the worker has said the last word."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[GenerateEvent | LocalLLMError] = asyncio.Queue()
        self.ended = False
        """Whether the last word has been taken."""

    async def take(self) -> GenerateEvent:
        """The next event. Raises what ended the request instead of `Finished`."""
        event = await self._events.get()
        self.ended = not isinstance(event, PromptProgress | Token)
        if isinstance(event, LocalLLMError):
            raise event
        return event

    def put(self, event: GenerateEvent | LocalLLMError) -> None:
        self._events.put_nowait(event)


class Replies:
    """Brings each event to whoever waits for it."""

    def __init__(self) -> None:
        self._asked: deque[Answers] = deque()
        """Whoever waits for a Described, Loaded, StateSaved ..., in the order of their commands,
        which is that of the worker's answers. Who has given up stays until the answer has come."""
        self._streams: dict[str, Stream] = {}
        """By request id, until the worker has said the last word: an id is not free earlier."""
        self._single: dict[str, asyncio.Future[OneAnswer]] = {}
        """The same of requests whose first word is the last."""

    def ask(self) -> Answers:
        """Wait for the answer to the question that is sent next."""
        answers: Answers = asyncio.Queue()
        self._asked.append(answers)
        return answers

    def open(self, request_id: str) -> Stream:
        """Wait for what comes to this request. Raises BadRequest when its id is taken."""
        self._check_free(request_id)
        stream = self._streams[request_id] = Stream()
        return stream

    def expect(self, request_id: str) -> "asyncio.Future[OneAnswer]":
        """Wait for the one answer to this request. Raises BadRequest when its id is taken."""
        self._check_free(request_id)
        answer = self._single[request_id] = asyncio.get_running_loop().create_future()
        return answer

    def _check_free(self, request_id: str) -> None:
        if request_id in self._streams or request_id in self._single:
            raise BadRequest(f"A request with the id {request_id!r} is running already.")

    def deliver(self, event: Event) -> None:
        """Give an event to whoever waits for it; what comes to a request that has ended goes to
        nobody. Raises WireError for an answer to a question that was not asked."""
        match event:
            case PromptProgress() | Token() | Reasoning() | ToolCallBegan() | ToolCallArguments():
                if (stream := self._streams.get(event.request_id)) is not None:
                    stream.put(event)
            case Refused() if (answer := self._single.pop(event.request_id, None)) is not None:
                if not answer.done():
                    answer.set_exception(refusal(event))
            case Finished() | Refused():
                if (stream := self._streams.pop(event.request_id, None)) is not None:
                    stream.put(refusal(event) if isinstance(event, Refused) else event)
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
