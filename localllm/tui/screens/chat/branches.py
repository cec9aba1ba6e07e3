"""The branches of a conversation as a tree: what was asked again or edited, and where one is."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static, Tree
from textual.widgets.tree import TreeNode

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.core.text import even_widths, single_line
from localllm.engine.messages import Role
from localllm.translation import N_, _
from localllm.tui.screens.base import WorkScreen

MAX_LABEL = 200


class BranchScreen(WorkScreen[str | None]):
    """All messages as a tree; the result is the id of the one to show.

    A chain without versions stays at one depth: depth means a choice.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,B", "close", N_("Close"), id="branches.close",
                tooltip=N_("Stay where you are")),
        Binding("enter", "choose", N_("Show"), id="branches.choose",
                tooltip=N_("Show the branch of this message")),
    ]  # fmt: skip

    def __init__(self, conversation: Conversation) -> None:
        super().__init__()
        self._conversation = conversation

    def compose(self) -> ComposeResult:
        ends = sum(not self._conversation.children(m.id) for m in self._conversation.messages)
        with Vertical(id="branches"):
            yield Static(Content(_("Branches: {count}").format(count=ends)), id="dialog-title")
            yield Tree[str]("", id="branch-tree")
            yield Static(
                Content(_("⏎ shows a branch   ● is shown now   esc closes")), id="dialog-remark"
            )

    def on_mount(self) -> None:
        tree = self.query_one(Tree)
        tree.show_root = False
        tree.guide_depth = 2
        shown = {message.id for message in self._conversation.path()}
        at = _grow(tree.root, self._conversation, shown)
        tree.root.expand_all()
        tree.focus()
        if at is not None:
            self.call_after_refresh(tree.move_cursor, at)

    def on_tree_node_selected(self, event: Tree.NodeSelected[str]) -> None:
        event.stop()
        if self.is_current:
            self.dismiss(event.node.data)

    def action_choose(self) -> None:
        node = self.query_one(Tree).cursor_node
        if node is not None and self.is_current:
            self.dismiss(node.data)

    def action_close(self) -> None:
        if self.is_current:
            self.dismiss(None)


def _grow(root: TreeNode[str], conversation: Conversation, shown: set[str]) -> TreeNode[str] | None:
    """Add all messages; returns the node of the last one that is shown. Not by recursion: a
    conversation may be longer than Python's stack."""
    at: TreeNode[str] | None = None
    waiting = [(root, message) for message in reversed(conversation.children(None))]
    while waiting:
        parent, message = waiting.pop()
        children = conversation.children(message.id)
        label = _label(message, shown=message.id in shown)
        versions = len(conversation.versions(message.id)) > 1
        if versions or len(children) > 1:
            node = parent.add(label, data=message.id, expand=True)
            into = node
        else:
            node, into = parent.add_leaf(label, data=message.id), parent
        if message.id == conversation.leaf:
            at = node
        waiting.extend((into, child) for child in reversed(children))
    return at


def _label(message: ChatMessage, *, shown: bool) -> Text:
    signs = {Role.USER: "\u203a ", Role.TOOL: "→ "}
    text = even_widths(single_line(message.text[:MAX_LABEL])) or _("(nothing)")
    sign = "● " if shown else "  "
    return Text(f"{sign}{signs.get(message.role, '  ')}{text}")
