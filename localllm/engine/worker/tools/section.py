"""One stretch of an answer in which calls are written, read character by character.

How a family writes calls is a generator (`syntax.py`): it takes a character at every `yield`
and tells the section what it has understood. So no syntax has to think of where the model's
tokens end. Pure.
"""

import json
from collections.abc import Callable, Generator, Mapping

from localllm.engine.worker.tools.parts import CallArguments, CallBegan, CallEnded, Part, Text

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
