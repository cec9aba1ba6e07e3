"""Commands and events as lines of JSON: `["Token",{...}]` and a newline.

The name picks the class from a closed union; msgspec checks every field's type, so a garbage line
is an error here and never a half-built value further in.
"""

from typing import TypeVar, get_args

import msgspec

from localllm.engine.messages import Command, Event

_encoder = msgspec.json.Encoder()
_envelope = msgspec.json.Decoder(tuple[str, msgspec.Raw])
_commands: "dict[str, msgspec.json.Decoder[Command]]" = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in get_args(Command)
}
_events: "dict[str, msgspec.json.Decoder[Event]]" = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in get_args(Event)
}

_NOT_A_MESSAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

M = TypeVar("M")


UNAVAILABLE_STATUS = 86
"""Exit status of a child whose llama_cpp does not import."""

BAD_INPUT_STATUS = 87
"""Exit status of a child that was sent a line it does not understand."""


class WireError(ValueError):
    """A line that is not one of ours. `request_id` is that of the request it tried to be."""

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class _Named(msgspec.Struct):
    request_id: str


_named = msgspec.json.Decoder(_Named)


def encode(message: Command | Event) -> bytes:
    """One message as a line, newline included. Raises WireError for what JSON cannot carry."""
    try:
        return _encoder.encode((type(message).__name__, message)) + b"\n"
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise WireError(f"{type(message).__name__} cannot be sent: {error}") from None


def decode_command(line: bytes) -> Command:
    """The command on this line. Raises WireError."""
    return _decode(line, _commands)


def decode_event(line: bytes) -> Event:
    """The event on this line. Raises WireError."""
    return _decode(line, _events)


def _decode(line: bytes, decoders: dict[str, "msgspec.json.Decoder[M]"]) -> M:
    body = None
    try:
        name, body = _envelope.decode(line)
        return decoders[name].decode(body)
    except KeyError:
        raise WireError(f"unknown message {name!r}") from None
    except _NOT_A_MESSAGE as error:
        if body is not None and (request_id := _whose(body)) is not None:
            raise WireError(str(error), request_id=request_id) from None
        raise WireError(f"not a message: {line[:80]!r} ({error})") from None


def _whose(body: msgspec.Raw) -> str | None:
    try:
        return _named.decode(body).request_id
    except _NOT_A_MESSAGE:
        return None
