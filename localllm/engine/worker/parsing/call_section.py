"""One stretch of an answer in which tool calls are written, read character by character. Pure.

A family's syntax is a generator (`syntax.py`): it takes a character at every `yield` and reports
to the section what it has parsed, so no syntax has to think of where the model's tokens end.
"""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of what is said to the person."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning before it."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A call of the tool `name`; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the arguments' JSON text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The arguments are complete."""


Part = Text | Thought | CallBegan | CallArguments | CallEnded


def joined(parts: list[Part]) -> list[Part]:
    """The same with neighbours of one kind as one piece, empty ones left out."""
    whole: list[Part] = []
    for part in parts:
        last = whole[-1] if whole else None
        match last, part:
            case Text(before), Text(text):
                whole[-1] = Text(before + text)
            case Thought(before), Thought(text):
                whole[-1] = Thought(before + text)
            case CallArguments(before), CallArguments(text):
                whole[-1] = CallArguments(before + text)
            case _, Text("") | Thought("") | CallArguments(""):
                pass
            case _:
                whole.append(part)
    return whole


Schema = dict[str, object]
Characters = Generator[None, str, None]
"""Takes one character at every `yield`; returns when its stretch is over; raises Malformed."""


class Malformed(Exception):
    """This is no call after all."""


class Section:
    """Understands a stretch of text as calls; what it cannot understand stays text.

    A grammar can guarantee that what comes is well formed (`trusted`): then every piece goes out
    at once. Without that nothing of a call goes out until the call is complete and its
    arguments are JSON, so that nothing has to be taken back.
    """

    def __init__(
        self,
        syntax: "Callable[[Section], Characters]",
        tools: Mapping[str, Schema],
        *,
        raw: str,
        trusted: bool,
    ) -> None:
        """`raw` is the text that has announced the section, `tools` the schemas by name."""
        self.tools = tools
        self.trusted = trusted
        self.raw = raw
        """Text that is in nothing that went out."""
        self.calls = 0
        self.begun = False
        """Whether a call's name is known and the call is not over."""
        self.over = False
        """Whether the section's end was read."""
        self.failed = False
        """Whether it turned out to be none: `raw` is text, and what follows too."""
        self._between = False
        self._out: list[Part] = []
        self._held: list[Part] = []
        self._arguments: list[str] = []
        self._characters = syntax(self)
        next(self._characters)

    # --- the reader's side ---

    def feed(self, text: str) -> int:
        """Take characters until the section is over or has failed; say how many."""
        for taken, character in enumerate(text, start=1):
            self.raw += character
            try:
                self._characters.send(character)
            except StopIteration:
                self.over = True
                return taken
            except Malformed:
                self.failed = True
                return taken
        return len(text)

    def take(self) -> list[Part]:
        """What is certain by now."""
        out, self._out = self._out, []
        return out

    def trust(self) -> None:
        """From here on what comes is well formed."""
        self.trusted = True
        self._release()

    def distrust(self) -> None:
        self.trusted = False

    def finish(self) -> list[Part]:
        """The answer has ended: what is no complete call is text, but for the syntax after one."""
        self._characters.close()
        if not self._between and self.raw:
            self._out.append(Text(self.raw))
        return self.take()

    # --- the syntax's side ---

    def another(self) -> None:
        """The next call is being read."""
        self._between = False

    def began(self, name: str) -> None:
        if self.begun or name not in self.tools:
            raise Malformed
        self.begun = True
        self._arguments.clear()
        self._put(CallBegan(name))

    def argue(self, text: str) -> None:
        """A piece of the arguments, as JSON text."""
        if not self.trusted:
            self._arguments.append(text)
        self._put(CallArguments(text))

    def ended(self) -> None:
        """The call is complete; what follows is syntax until `another`."""
        if not self.begun or not (self.trusted or _is_object("".join(self._arguments))):
            raise Malformed
        self.begun = False
        self._between = True
        self.calls += 1
        self._held.append(CallEnded())
        self._release()

    def _put(self, part: Part) -> None:
        self._held.append(part)
        if self.trusted:
            self._release()

    def _release(self) -> None:
        if self._held:
            self._out += self._held
            self._held.clear()
            self.raw = ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
