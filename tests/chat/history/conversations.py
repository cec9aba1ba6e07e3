"""Conversations for the tests of the history."""

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.engine.messages import Role


def question(text: str, at_s: float = 1.0) -> ChatMessage:
    return ChatMessage(role=Role.USER, text=text, created_s=at_s)


def answer(text: str, at_s: float = 2.0) -> ChatMessage:
    return ChatMessage(role=Role.ASSISTANT, text=text, created_s=at_s, model="starter")


def conversation(*texts: str, at_s: float = 1.0) -> Conversation:
    """Return a conversation of questions and answers, in turns."""
    made = Conversation(model="starter")
    for number, text in enumerate(texts):
        message = answer(text, at_s + number) if number % 2 else question(text, at_s + number)
        made = made.with_message(message, after=made.leaf)
    return made
