"""Commands and events as lines of JSON on a pipe: `["Token",{...}]` and a newline.

Both directions use it: the parent encodes commands and decodes events, the worker the reverse.
The class name picks the class from a closed union and msgspec checks every field's type, so a
malformed line is an error here and never a half-built value further in.
"""

from typing import TypeVar, get_args

import msgspec

from localllm.engine.messages import Command, Event

_encoder = msgspec.json.Encoder()
_envelope = msgspec.json.Decoder(tuple[str, msgspec.Raw])
_commands: "dict[str, msgspec.json.Decoder[Command]]" = {
    message.__name__: msgspec.json.Decoder(message) for message in get_args(Command)
}
_events: "dict[str, msgspec.json.Decoder[Event]]" = {
    message.__name__: msgspec.json.Decoder(message) for message in get_args(Event)
}

# Deep nesting ends msgspec with a RecursionError.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

M = TypeVar("M")


UNAVAILABLE_STATUS = 86
"""Exit status of a worker that cannot load llama.cpp."""

BAD_INPUT_STATUS = 87
"""Exit status of a worker that received a line which is no command."""


class WireError(ValueError):
    """A line that is no message. `request_id` is that of the request it tried to be."""

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class _RequestId(msgspec.Struct):
    """The one field that is read of a message whose others are wrong."""

    request_id: str


_request_id = msgspec.json.Decoder(_RequestId)


def encode(message: Command | Event) -> bytes:
    """Encode a message as a line, newline included. Raises WireError for what JSON cannot hold."""
    try:
        return _encoder.encode((type(message).__name__, message)) + b"\n"
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise WireError(f"{type(message).__name__} cannot be sent: {error}") from None


def decode_command(line: bytes) -> Command:
    """Decode a line as a command. Raises WireError."""
    return _decode(line, _commands)


def decode_event(line: bytes) -> Event:
    """Decode a line as an event. Raises WireError."""
    return _decode(line, _events)


def _decode(line: bytes, decoders: dict[str, "msgspec.json.Decoder[M]"]) -> M:
    body = None
    try:
        name, body = _envelope.decode(line)
        return decoders[name].decode(body)
    except KeyError:
        raise WireError(f"unknown message {name!r}") from None
    except _DECODE_ERRORS as error:
        if body is not None and (request_id := _request_id_of(body)) is not None:
            raise WireError(str(error), request_id=request_id) from None
        raise WireError(f"not a message: {line[:80]!r} ({error})") from None


def _request_id_of(body: msgspec.Raw) -> str | None:
    try:
        return _request_id.decode(body).request_id
    except _DECODE_ERRORS:
        return None
