"""A chat in plain lines: read from stdin, written to stdout or stderr, and never drawn again.

A screen reader reads what is new on a terminal, so nothing here moves the cursor, changes a colour
or replaces a line; an answer comes in whole sentences, and each change of state is one line. The
same works through a pipe.
"""

import io
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from getpass import getpass
from typing import TextIO

from localllm.cli.chat.answer import AnswerOutput, AnswerWriter
from localllm.cli.chat.sentences import SentenceWriter
from localllm.core.text import strip_controls
from localllm.translation import _

BLOCK_MARK = '"""'
"""A line of this alone begins a question of several lines, and ends it; as in Ollama."""
PASTE_WAIT_S = 0.05
"""Nobody types a line so soon after another one: it was pasted."""
_LONGEST_LINE = {"linux": 4095, "darwin": 1023}
"""Bytes of a line that the system lets a terminal edit (N_TTY_BUF_SIZE of Linux, MAX_CANON of
macOS, both with the line's end): it drops what is beyond."""


class LineTerminal:
    """Lines in, lines out: answers go to `answers`, everything else to `talk`.

    `whole_sentences`: answers are written as a screen reader likes them; else as they come.
    """

    def __init__(
        self,
        *,
        source: TextIO | None = None,
        answers: TextIO | None = None,
        talk: TextIO | None = None,
        whole_sentences: bool = True,
    ) -> None:
        self._source = source or sys.stdin
        self._answers = answers or sys.stdout
        self._talk = talk or self._answers
        self._whole_sentences = whole_sentences
        for stream in (self._source, self._answers, self._talk):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")

    async def read(self, *, default: str = "") -> str | None:
        """Read a question. Lines that stand ready when the prompt comes are questions of their own;
        several that come at once while it waits are one question: they were pasted."""
        if default:
            self.show(_("Prepared: {text}").format(text=default))
            self.show(_("Press Enter to send it as it is, or write it anew."))
        text = self.ask_line(_("You:"))
        if text is not None and text.startswith(BLOCK_MARK):
            text = self._block(text.removeprefix(BLOCK_MARK))
        return default if text is not None and default and not text.strip() else text

    async def ask(self, prompt: str, *, default: str = "") -> str | None:
        shown = _("{prompt} (Enter: {default})").format(prompt=prompt, default=default)
        answer = self.ask_line(shown if default else prompt)
        return answer if answer is None else answer or default

    async def ask_secret(self, prompt: str) -> str:
        return self.secret(prompt)

    def secret(self, prompt: str) -> str:
        """Read what is not shown while it is typed; "": nothing."""
        if not self._source.isatty():
            return self.ask_line(prompt) or ""
        with _interruptible():
            try:
                return getpass(f"{prompt} ", self._talk)
            except (EOFError, KeyboardInterrupt):
                self._write("\n")
                return ""

    def ask_line(self, prompt: str) -> str | None:
        """Read what is typed behind this prompt; None at the end of the input and after Ctrl+C."""
        with _interruptible():
            try:
                was_ready = self._has_more(0)
                self._write(f"{prompt} ")
                text = self._source.readline()
                if text and not was_ready:
                    text = self._with_pasted(text)
            except KeyboardInterrupt:
                text = ""
        if not text:
            self._write("\n")
            return None
        if not self._source.isatty():
            self._write("\n")  # no key has ended the line
        return text.rstrip("\r\n")

    def _with_pasted(self, first: str) -> str:
        lines = [first]
        while self._has_more(PASTE_WAIT_S) and (more := self._source.readline()):
            lines.append(more)
        if self._source.isatty() and any(map(_is_cut, lines)):
            self.show_error(
                _(
                    "A line was longer than this terminal takes, and its end was lost: nothing was"
                    " sent. Write the text into a file and attach it with /file."
                )
            )
            return "\n"
        if len(lines) > 1:
            self.show(
                _("{count} lines were pasted: they are one question.").format(count=len(lines))
            )
        return "".join(lines)

    def _has_more(self, wait_s: float) -> bool:
        """Tell whether another line stands ready; never known of a pipe, nor on Windows."""
        if sys.platform == "win32" or not self._source.isatty():
            return False
        return bool(select.select([self._source], [], [], wait_s)[0])

    def _block(self, first: str) -> str:
        """Read the lines up to the next mark."""
        lines = [first] if first.strip() else []
        while not (lines and lines[-1].rstrip().endswith(BLOCK_MARK)):
            with _interruptible():
                try:
                    line = self._source.readline()
                except KeyboardInterrupt:
                    return ""
            if not line:
                break
            lines.append(line.rstrip("\r\n"))
        return "\n".join(lines).rstrip().removesuffix(BLOCK_MARK).rstrip("\n")

    def choose(self, heading: str, choices: Sequence[str], prompt: str) -> int | None:
        """Let the person choose by number; None: nothing, or the end of the input."""
        self.show(heading)
        for number, choice in enumerate(choices, 1):
            self.show(f"{number}. {choice}")
        while answer := (self.ask_line(prompt) or "").strip().rstrip("."):
            if answer.isdecimal() and 1 <= int(answer[:9]) <= len(choices):
                return int(answer) - 1
            self.show_error(
                _("Type a number from 1 to {count}, or press Enter.").format(count=len(choices))
            )
        return None

    def confirm(self, question: str) -> bool:
        """Ask a question that is answered with yes or no; anything else is no."""
        words = _("yes or no:")
        answer = (self.ask_line(f"{question} {words}") or "").strip().casefold()
        return answer in {"y", "yes", _("yes"), _("yes")[:1]}

    def show(self, text: str) -> None:
        self._write(strip_controls(text).rstrip("\n") + "\n")

    def show_error(self, text: str) -> None:
        self.show(_("Error: {reason}").format(reason=text))

    @property
    def can_copy(self) -> bool:
        return False

    def copy(self, text: str) -> None:
        """Do nothing: no control sequence is written here."""

    def answering(self) -> AbstractContextManager[None]:
        return nullcontext()

    def answer_output(self, name: str) -> AnswerOutput:
        if not self._whole_sentences:
            return AnswerWriter()
        return SentenceWriter(self._answers, name=name)

    def _write(self, text: str) -> None:
        self._talk.write(text)
        self._talk.flush()


def _is_cut(line: str) -> bool:
    limit = _LONGEST_LINE.get(sys.platform)
    return limit is not None and len(line.encode()) >= limit


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl+C raise KeyboardInterrupt here, also where an event loop would have it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
