"""Messages of the lower rooms, as the app shows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.tui.app_words import app_words


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "x has no chat template: it continues text. If it is made for chat, give its template "
            "with --chat-template FILE.",
            "x has no chat template: it continues text.",
        ),
        ("x.gguf is gone. If it was moved: localllm import NEWPATH.", "x.gguf is gone."),
        ("Qwen3-0.6B-Q8_0.gguf is no GGUF file.", "Qwen3-0.6B-Q8_0.gguf is no GGUF file."),
        ("Try --ctx 4096.", "Try --ctx 4096."),  # there is nothing else
        (
            "localllm keeps it. It is well-kept -- here.",
            "localllm keeps it. It is well-kept -- here.",
        ),
    ],
)
def test_sentences_about_the_command_line_are_left_out(message: str, shown: str) -> None:
    assert app_words(message) == shown


@given(st.text())
def test_every_message_leaves_something(message: str) -> None:
    shown = app_words(message)
    assert bool(shown.strip()) == bool(message.strip())
