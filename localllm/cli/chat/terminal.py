"""What a plain chat needs of a terminal.

There are two: the line editor (`editor.py`), and plain lines (`line_terminal.py`), which a screen
reader follows and a pipe carries. The chat itself is the same for both.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from localllm.cli.chat.answer import AnswerOutput


class ChatTerminal(Protocol):
    """A terminal on which a person types questions and commands.

    All texts are literal: what others wrote in them is made safe here.
    """

    async def read(self, *, default: str = "") -> str | None:
        """Read a question or a command, which begins as `default`; None: the person leaves."""

    async def ask(self, prompt: str, *, default: str = "") -> str | None:
        """Ask for a value that is no question to the model; None: the person gives up."""

    async def ask_secret(self, prompt: str) -> str:
        """Ask for what is not shown while it is typed; "": nothing was."""

    def show(self, text: str) -> None:
        """Show lines that are no part of the conversation."""

    def show_error(self, text: str) -> None:
        """Show why something cannot be done."""

    @property
    def can_copy(self) -> bool:
        """True where `copy` reaches a clipboard."""

    def copy(self, text: str) -> None:
        """Put a text on the clipboard of the terminal, also over ssh."""

    def answering(self) -> AbstractContextManager[None]:
        """Return what is entered while an answer comes."""

    def answer_output(self, name: str) -> AnswerOutput:
        """Return where the next answer of the model `name` goes."""
