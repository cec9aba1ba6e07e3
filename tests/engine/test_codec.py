"""Every message survives its line, and no other line becomes one."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import Command, Event
from localllm.engine.messages.codec import WireError, decode_command, decode_event, encode

commands = st.one_of([st.from_type(kind) for kind in get_args(Command)])
events = st.one_of([st.from_type(kind) for kind in get_args(Event)])


def writable(message: object) -> bool:
    """JSON has no lone surrogates, no NaN, and integers of 64 bits here."""
    text = repr(message)
    return "nan" not in text and "inf" not in text and "\\ud" not in text


@given(commands.filter(writable))
def test_a_command_survives_the_wire(command: Command) -> None:
    assert decode_command(encode(command)) == command


@given(events.filter(writable))
def test_an_event_survives_the_wire(event: Event) -> None:
    line = encode(event)
    assert decode_event(line) == event
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


@given(st.binary(max_size=200))
def test_garbage_is_a_wire_error_and_nothing_else(line: bytes) -> None:
    with pytest.raises(WireError):
        decode_event(line)


@pytest.mark.parametrize(
    "line",
    [
        b'["Token",{"request_id":1,"text":"x"}]',
        b'["Token",{"request_id":"a"}]',
        b'["NoSuchEvent",{}]',
        b'["Shutdown"]',
        b'{"Token":{}}',
        b'["Token",{"request_id":"a","text":"\xff"}]',
    ],
)
def test_a_line_that_is_almost_right_is_a_wire_error(line: bytes) -> None:
    with pytest.raises(WireError):
        decode_event(line)
