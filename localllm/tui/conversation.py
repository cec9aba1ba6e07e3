"""What was said: turns of question and answer, and what of them the model is told again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from localllm.engine.messages import Message, Role

MESSAGES_OF_A_TURN = 2  # what the model is told of it: the question and the answer


class Ending(StrEnum):
    """How an answer ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"  # by the person
    CUT = "cut"  # at the end of the context
    BROKEN = "broken"  # by an error or by the end of the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and what came of it.

    `answer` is the model's text, unchanged; `remark` says why it broke off, when it did. So many
    earlier turns were `left_out` when it was asked, for want of room.
    """

    question: str
    ending: Ending
    answer: str = ""
    remark: str = ""
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The turns so far, oldest first."""

    turns: tuple[Turn, ...] = ()

    def with_turn(self, turn: Turn) -> "Conversation":
        return replace(self, turns=(*self.turns, turn))

    def without_last(self) -> "Conversation":
        return replace(self, turns=self.turns[:-1])

    def messages(self, question: str) -> tuple[Message, ...]:
        """What the model is asked.

        A turn without an answer is left out: two questions in a row are refused by the chat
        templates that insist on taking turns.
        """
        return (*self._told(), Message(role=Role.USER, content=question))

    def _told(self) -> Iterator[Message]:
        for turn in self.turns:
            if turn.answer:
                yield Message(role=Role.USER, content=turn.question)
                yield Message(role=Role.ASSISTANT, content=turn.answer)
