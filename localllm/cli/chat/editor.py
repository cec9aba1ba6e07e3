"""The line editor of a chat on a terminal: several lines, paste, history, completion.

prompt_toolkit takes a tenth of a second to import, so this module is imported where a person
converses on a terminal, and nowhere else. What is typed stays in memory: there is no history file,
and no editor with a temporary file.
"""

import base64
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer
from prompt_toolkit.completion import Completion as MenuItem
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from localllm.chat.commands.completion import (
    Completion,
    CompletionSources,
    complete,
    reference_completions,
)
from localllm.chat.commands.table import Command
from localllm.cli.chat.answer import AnswerOutput, AnswerWriter
from localllm.cli.output import error, info
from localllm.core.text import single_line, strip_controls

PROMPT = "> "
CONTINUATION = "  "
_MENU_ROWS = 8


class EditorTerminal:
    """Read with the line editor; answers go to stdout as they come, everything else to stderr.

    `questions` are the first of the history. Enter sends; Ctrl+J, Alt+Enter and a backslash at the
    end of a line go on in the next one.
    """

    def __init__(
        self,
        *,
        commands: Callable[[], Sequence[Command]],
        sources: CompletionSources,
        questions: Iterable[str] = (),
    ) -> None:
        self._output = create_output(always_prefer_tty=True)
        self._session = PromptSession[str](
            message=PROMPT,
            multiline=True,
            prompt_continuation=CONTINUATION,
            history=InMemoryHistory(list(questions)),
            completer=ChatCompleter(commands, sources),
            complete_in_thread=True,
            complete_while_typing=True,
            reserve_space_for_menu=_MENU_ROWS,
            enable_suspend=True,
            key_bindings=_key_bindings(),
            output=self._output,
        )

    async def read(self, *, default: str = "") -> str | None:
        try:
            text = await self._session.prompt_async(default=default)
        except EOFError:
            return None
        return text.encode("utf-8", "replace").decode("utf-8")

    async def ask(self, prompt: str, *, default: str = "") -> str | None:
        session = PromptSession[str](
            multiline=False, enable_suspend=True, interrupt_exception=EOFError, output=self._output
        )
        try:
            return await session.prompt_async(f"{single_line(prompt)} ", default=default)
        except EOFError:
            return None

    async def ask_secret(self, prompt: str) -> str:
        session = PromptSession[str](interrupt_exception=EOFError, output=self._output)
        try:
            return await session.prompt_async(f"{single_line(prompt)} ", is_password=True)
        except EOFError:
            return ""

    def show(self, text: str) -> None:
        for line in strip_controls(text).splitlines():
            info(line)

    def show_error(self, text: str) -> None:
        error(text)

    @property
    def can_copy(self) -> bool:
        return True

    def copy(self, text: str) -> None:
        """Hand the text to the terminal (OSC 52), which has the clipboard."""
        encoded = base64.b64encode(text.encode("utf-8", "replace")).decode()
        self._output.write_raw(f"\x1b]52;c;{encoded}\x07")
        self._output.flush()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Keep what is typed meanwhile out of the answer: it comes up in the next prompt."""
        if sys.platform == "win32" or not sys.stdin.isatty():
            yield
            return
        import termios

        before = termios.tcgetattr(sys.stdin)
        silent = [*before]
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
        try:
            yield
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)

    def answer_output(self, name: str) -> AnswerOutput:
        return AnswerWriter()


class ChatCompleter(Completer):
    """Offer commands and what stands behind them, and files behind @."""

    def __init__(
        self, commands: Callable[[], Sequence[Command]], sources: CompletionSources
    ) -> None:
        self._commands = commands
        self._sources = sources

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[MenuItem]:
        text = document.text_before_cursor
        found: Iterable[Completion] = complete(text, self._commands(), self._sources)
        line = document.current_line_before_cursor
        if found:
            yield from _menu_items(found, len(text))
        else:
            yield from _menu_items(reference_completions(line, Path.cwd()), len(line))


def _menu_items(found: Iterable[Completion], cursor: int) -> Iterator[MenuItem]:
    for each in found:
        yield MenuItem(
            each.text,
            start_position=each.start - cursor,
            display=single_line(each.text),
            display_meta=single_line(each.help),
        )


def _key_bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        state = buffer.complete_state
        if state is not None and state.current_completion is not None:
            buffer.complete_state = None  # what the menu has put there stays
        elif buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("c-j")
    @keys.add("escape", "enter")
    def _next_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    def _clear_or_leave(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.text:
            buffer.append_to_history()  # the arrow brings it back
            buffer.reset()
        else:
            event.app.exit(exception=EOFError)

    return keys
