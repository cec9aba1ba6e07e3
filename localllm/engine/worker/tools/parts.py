"""What an answer is made of, once its text was read: the events of the parsers. Pure."""

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
