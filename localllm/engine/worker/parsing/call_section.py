"""A section of an answer in which tool calls are written, parsed character by character. Pure.

The parser of a syntax is a generator (`syntax.py`) that takes one character at every `yield` and
reports to its section what it has found, so that no syntax has to know where tokens end.

    OPEN      a call may begin: `next_call`, `begin_call`, `add_arguments`*, `end_call`, and again
    COMPLETE  the generator has returned: what follows is no part of the section
    FAILED    it raised `MalformedCall`, the tool is unknown, or the arguments are no JSON object:
              `raw` is text after all, and so is what follows

Under a grammar (`constrained`) a call leaves piece by piece. Without one it is held back until
`end_call` has found its arguments to be JSON, so that no event has to be taken back.
"""

import json
from collections.abc import Callable, Generator, Mapping
from enum import Enum, auto

from localllm.engine.worker.parsing.event_buffer import EventBuffer

Schema = dict[str, object]
"""A JSON Schema."""

Characters = Generator[None, str, None]
"""Take one character at every `yield`, return at the section's end, or raise MalformedCall."""


class MalformedCall(Exception):
    """The section is no tool call after all."""


class SectionState(Enum):
    OPEN = auto()
    COMPLETE = auto()
    FAILED = auto()


class CallSection:
    """Parses one section, and writes the events of its calls to a buffer."""

    def __init__(
        self,
        parse: "SyntaxParser",
        events: EventBuffer,
        tools: Mapping[str, Schema],
        *,
        raw: str,
        constrained: bool,
    ) -> None:
        """`raw` is the text that has announced the section; `tools`: their parameters by name."""
        self.tools = tools
        self.raw = raw
        """Text that is in no event yet."""
        self.state = SectionState.OPEN
        self.complete_calls = 0
        self.in_call = False
        """True from a call's name to the end of its arguments."""
        self._events = events
        self._constrained = constrained
        self._after_call = False
        self._pending_name: str | None = None
        self._pending_arguments: list[str] = []
        self._unchecked: list[str] = []
        """The arguments of this call, as far as no grammar has checked them."""
        self._characters = parse(self)
        next(self._characters)

    # Called by the answer's parser.

    def feed(self, text: str) -> int:
        """Parse until the section is complete or has failed; return how many characters that
        took."""
        for taken, character in enumerate(text, start=1):
            self.raw += character
            try:
                self._characters.send(character)
            except StopIteration:
                self.state = SectionState.COMPLETE
                return taken
            except MalformedCall:
                self.state = SectionState.FAILED
                return taken
        return len(text)

    def constrain(self, constrained: bool) -> None:
        """Set whether a grammar guarantees what comes from here on."""
        self._constrained = constrained
        if constrained:
            self._release()

    def finish(self) -> None:
        """End with the answer: an incomplete call is text, the syntax after a complete one is
        nothing."""
        self._characters.close()
        if not self._after_call:
            self._events.text(self.raw)

    # Called by the syntax's parser.

    def next_call(self) -> None:
        """Expect a call: what is read belongs to it, not to the syntax after the one before."""
        self._after_call = False

    def begin_call(self, name: str) -> None:
        """Begin a call of this tool. Raises MalformedCall when there is none of that name."""
        if self.in_call or name not in self.tools:
            raise MalformedCall
        self.in_call = True
        self._unchecked.clear()
        self._pending_name = name
        if self._constrained:
            self._release()

    def add_arguments(self, text: str) -> None:
        """Add a piece of the arguments, as JSON text."""
        if self._constrained:
            self._events.call_arguments(text)
            self.raw = ""
        else:
            self._pending_arguments.append(text)
            self._unchecked.append(text)

    def end_call(self) -> None:
        """End the call. Raises MalformedCall when its arguments are no JSON object."""
        if not self.in_call:
            raise MalformedCall
        if not self._constrained and not _is_object("".join(self._unchecked)):
            raise MalformedCall
        self.in_call = False
        self._after_call = True
        self.complete_calls += 1
        self._release()
        self.raw = ""

    def _release(self) -> None:
        """Write what is held back."""
        if self._pending_name is None and not self._pending_arguments:
            return
        if self._pending_name is not None:
            self._events.call_began(self._pending_name)
            self._pending_name = None
        self._events.call_arguments("".join(self._pending_arguments))
        self._pending_arguments.clear()
        self.raw = ""


SyntaxParser = Callable[[CallSection], Characters]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
