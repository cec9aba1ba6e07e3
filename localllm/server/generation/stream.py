"""The half of a streamed answer that every dialect shares: the loop around its events.

A dialect writes the events, in its own framing (`data:` lines, `event:` lines, JSON lines); when a
stream starts, how errors reach it and when its sources are closed is decided here.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Protocol

from localllm.engine.messages import GenerateEvent
from localllm.errors import LocalLLMError
from localllm.server.errors import ApiError, api_error
from localllm.server.generation.choices import Choice, Choices, Events
from localllm.server.schema import warning_headers
from localllm.server.streaming import StreamResponse, merge_streams


class StreamEncoder(Protocol):
    """Writes one streamed answer in a dialect; it may hold what it has written so far."""

    @property
    def media_type(self) -> str: ...

    def encode(self, event: GenerateEvent, choices: Sequence[Choice]) -> Iterable[bytes]:
        """Write an event, and what has to stand before and after it, as pieces of the stream.

        `choices` are those that it belongs to, their ends noted: several for an echoed token,
        none for the progress of the prompt.
        """

    def encode_error(self, error: ApiError) -> bytes:
        """Write an error that comes after the first piece, and ends the stream."""


def stream_response(
    encoder: StreamEncoder, choices: Choices, streams: Sequence[Events]
) -> StreamResponse:
    """Answer with the events of the prompts' streams while they come."""
    return StreamResponse(
        encode_stream(encoder, choices, streams),
        encoder.media_type,
        warning_headers(choices.warnings),
    )


async def encode_stream(
    encoder: StreamEncoder, choices: Choices, streams: Sequence[Events]
) -> AsyncGenerator[bytes, None]:
    """Write the events of the prompts' streams while they come.

    An error before the first piece is raised, since it can still be an HTTP status; a later one
    becomes the last piece. The streams are closed in any case.
    """
    started = False
    async with aclosing(merge_streams(streams)) as events:
        try:
            async for prompt, event in events:
                for piece in encoder.encode(event, choices.assign(prompt, event)):
                    started = True
                    yield piece
            choices.finish()
        except LocalLLMError as error:
            if not started:
                raise
            yield encoder.encode_error(api_error(error))
