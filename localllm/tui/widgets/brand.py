"""The line at the top: who we are, what is open, and one quiet remark."""

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static


class Brand(Horizontal):
    """The header. `subject` and `remark` are shown as they are, without markup."""

    def __init__(self, subject: Content | None = None, remark: Content | None = None) -> None:
        super().__init__()
        self._subject = subject or Content()
        self._remark = remark or Content()

    def compose(self) -> ComposeResult:
        yield Static(Content("◆ localllm"), id="brand-name")
        yield Static(self._subject, id="brand-subject")
        yield Static(self._remark, id="brand-remark")
