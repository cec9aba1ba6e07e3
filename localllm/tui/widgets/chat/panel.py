"""The base of what stands beside a conversation: the meter, the settings, the list of chats."""

from typing import ClassVar

from textual.widget import Widget

from localllm.chat.conversation import Conversation
from localllm.runtime.runtime import ResidentModel


class ChatPanel(Widget):
    """A panel of the chat place. `TITLE` is translated where it is shown.

    One panel is seen at a time at the right (`ChatScreen.show_panel`), and the list of chats at the
    left where the terminal is wide enough.
    """

    TITLE: ClassVar[str] = ""

    def conversation_changed(self, conversation: Conversation) -> None:
        """Take note of another conversation, message or setting. Not called for each token."""

    def model_changed(self, resident: ResidentModel | None) -> None:
        """Take note of another model, or of the same loaded anew; None: it is not in memory."""
