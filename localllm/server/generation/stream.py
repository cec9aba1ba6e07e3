"""The half of a streamed answer that every dialect shares: the loop around its events.

A dialect writes the events, in its own framing (`data:` lines, `event:` lines, JSON lines); when a
stream starts, how errors reach it and when its sources are closed is decided here.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Protocol

from localllm.engine.messages import GenerateEvent
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

    def keep_alive(self) -> bytes:
        """Write a piece that means nothing, for a time in which there is no other."""


def stream_response(
    encoder: StreamEncoder, choices: Choices, streams: Sequence[Events]
) -> StreamResponse:
    """Answer with the events of the prompts' streams while they come."""
    choices.describe_waits(streams)
    return StreamResponse(
        encode_stream(encoder, choices, streams),
        encoder.media_type,
        warning_headers(choices.warnings),
        encode_error=lambda error: encoder.encode_error(api_error(error)),
        keep_alive=encoder.keep_alive,
    )


async def encode_stream(
    encoder: StreamEncoder, choices: Choices, streams: Sequence[Events]
) -> AsyncGenerator[bytes, None]:
    """Write the events of the prompts' streams while they come. Raises what they raise.

    The first piece comes when every prompt has been accepted, or refused, by the engine, and holds
    what there is until then; it may be empty. The streams are closed in any case.
    """
    unknown, held = set(range(len(streams))), b""
    async with aclosing(merge_streams(streams)) as events:
        async for prompt, event in events:
            pieces = encoder.encode(event, choices.assign(prompt, event))
            if not unknown:
                for piece in pieces:
                    yield piece
                continue
            held += b"".join(pieces)
            unknown.discard(prompt)
            if not unknown:
                yield held
        choices.finish()
