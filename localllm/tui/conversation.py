"""The conversation of the chat screen: turns of question and answer, and what of them is sent."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from localllm.engine.messages import Message, Role

MESSAGES_OF_A_TURN = 2  # the question and the answer


class Ending(StrEnum):
    """The end of an answer."""

    COMPLETE = "complete"
    STOPPED = "stopped"  # by the person
    CUT = "cut"  # at the end of the context
    BROKEN = "broken"  # by an error or by the end of the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and its answer.

    `answer` is the model's text, unchanged; `remark` says why it broke off, when it did.
    `left_out` counts the earlier turns that did not fit into the context with it; `warnings` are
    sentences about what else was done to the conversation.
    """

    question: str
    ending: Ending
    answer: str = ""
    remark: str = ""
    left_out: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The turns so far, oldest first."""

    turns: tuple[Turn, ...] = ()

    def with_turn(self, turn: Turn) -> "Conversation":
        return replace(self, turns=(*self.turns, turn))

    def without_last(self) -> "Conversation":
        return replace(self, turns=self.turns[:-1])

    def messages(self, question: str) -> tuple[Message, ...]:
        """Return what the model is sent for the next question.

        A turn without an answer is left out: two questions in a row are refused by the chat
        templates that insist on taking turns.
        """
        return (*self._sent(), Message(role=Role.USER, content=question))

    def _sent(self) -> Iterator[Message]:
        for turn in self.turns:
            if turn.answer:
                yield Message(role=Role.USER, content=turn.question)
                yield Message(role=Role.ASSISTANT, content=turn.answer)
