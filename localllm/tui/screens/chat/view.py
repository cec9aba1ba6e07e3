"""The transcript with the keys of the messages mode: single letters act on the message under the
cursor, and any other letter returns to the prompt, where it is typed."""

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from localllm.translation import N_
from localllm.tui.widgets.transcript.transcript import Transcript


class TypedInMessages(Message):
    """A letter was typed that is no key of the messages: it belongs in the prompt; "" for none."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


def _key(key: str, action: str, name: str, help_text: str, *, show: bool = False) -> Binding:
    return Binding(
        key, action, name, id=f"messages.{action.partition('(')[0].rpartition('.')[2]}",
        tooltip=help_text, show=show,
    )  # fmt: skip


class ConversationView(Transcript):
    """The messages, with a cursor while they have the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        _key("y", "screen.copy_message", N_("Copy"), N_("Copy this message"), show=True),
        _key("c", "screen.copy_code", N_("Code"), N_("Copy its code; again for the next block"),
             show=True),
        _key("w", "screen.wrap_code", N_("Wrap"), N_("Break long lines of code, or cut them")),
        _key("e", "screen.edit_message", N_("Edit"),
             N_("Change this question and ask it, as a version"), show=True),
        _key("r", "screen.answer_again", N_("Again"),
             N_("Answer once more, as a version beside this one"), show=True),
        _key("t", "screen.tokens", N_("Tokens"),
             N_("See how probable each token was, and go on from another one"), show=True),
        _key("D", "screen.duel", N_("Duel"),
             N_("Ask this model and another one the same question")),
        _key("b", "screen.branch", N_("Branch"), N_("Go on from here, on a branch of its own"),
             show=True),
        _key("B", "screen.tree", N_("Tree"), N_("See all branches, and go to one"), show=True),
        Binding("left", "screen.show_version(-1)", N_("Version"), id="messages.version_before",
                tooltip=N_("Show the version before this one"), show=False),
        Binding("right", "screen.show_version(1)", N_("Version"), id="messages.version_after",
                key_display="← →", tooltip=N_("Show the version behind this one")),
        _key("d", "screen.delete_message", N_("Delete"),
             N_("Delete this message and what follows it; asks first")),
        _key("o", "screen.open_source", N_("Sources"),
             N_("Open the documents that this answer was made from, at their place")),
        _key("slash", "screen.find", N_("Find"), N_("Find a text in this conversation")),
        _key("enter,space", "screen.fold", N_("Unfold"),
             N_("Unfold or fold the reasoning, a long question, a tool's result")),
        Binding("up,k", "cursor(-1)", N_("Up"), id="messages.up", show=False,
                tooltip=N_("Go to the message before")),
        Binding("down,j", "cursor(1)", N_("Down"), id="messages.down", show=False,
                tooltip=N_("Go to the next message")),
        Binding("g,home", "cursor(-1000000)", N_("Beginning"), id="messages.beginning", show=False,
                tooltip=N_("Go to the first message")),
        Binding("G,end", "cursor(1000000)", N_("End"), id="messages.end", show=False,
                tooltip=N_("Go to the last message")),
        Binding("tab,escape", "leave", N_("Prompt"), id="messages.leave", show=True,
                tooltip=N_("Return to the prompt")),
    ]  # fmt: skip

    def on_focus(self, event: events.Focus) -> None:
        if self.cursor is None:
            self.set_cursor(len(self.entries) - 1)

    def on_blur(self, event: events.Blur) -> None:
        self.set_cursor(None)

    def on_key(self, event: events.Key) -> None:
        character = event.character
        if character is None or not event.is_printable or self._is_bound(event.key):
            return
        event.stop()
        event.prevent_default()
        self.post_message(TypedInMessages(character))

    def _is_bound(self, key: str) -> bool:
        return key in self._bindings.key_to_bindings

    def action_cursor(self, by: int) -> None:
        if self.cursor is not None:
            self.set_cursor(max(0, min(len(self.entries) - 1, self.cursor + by)))

    def action_leave(self) -> None:
        self.post_message(TypedInMessages(""))
