"""What a request asks and is answered, while it runs."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from localllm.translation import N_, _
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.serve.texts import answer_lines

LOOK_S = 0.5


class RequestScreen(WorkScreen[None], ModalScreen[None]):
    """A window over the serve place; what it shows is gone when the request has ended."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter", "close", N_("Close"), id="request.close", tooltip=N_("Go back"))
    ]

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(_("What it asks, while it runs"), id="dialog-title")
            with VerticalScroll(id="request-scroll"):
                yield Static(id="request-text")

    def on_mount(self) -> None:
        self.set_interval(LOOK_S, self.look)
        self.look()

    def look(self) -> None:
        """Draw the request as it is now."""
        activity = self.services.server.activity
        answer = None if activity is None else activity.answer(self._number)
        if answer is None:
            ended = _("It has ended. What it asked and was answered is kept nowhere.")
            content = Content.styled(ended, "$text-muted")
        else:
            content = Content("\n").join(answer_lines(answer))
        self.query_one("#request-text", Static).update(content)

    def action_close(self) -> None:
        self.leave(None)
