"""The line above the footer: what is in memory, what serves, what downloads; and for a moment what
an action has to tell."""

from textual.content import Content
from textual.timer import Timer
from textual.widget import Widget

from localllm.translation import _
from localllm.tui import literal
from localllm.tui.frame_state import FrameState


class StatusLine(Widget):
    """One row of outside text."""

    def __init__(self, state: FrameState) -> None:
        super().__init__()
        self._state = state
        self._message = ""
        self._until: Timer | None = None

    def on_mount(self) -> None:
        self._state.subscribe(self.refresh)

    def on_unmount(self) -> None:
        self._state.unsubscribe(self.refresh)

    def show(self, message: str, *, seconds: float) -> None:
        """Show a message in place of what goes on, for a while."""
        if self._until is not None:
            self._until.stop()
        self._message = message
        self._until = self.set_timer(seconds, self._clear)
        self.refresh()

    def _clear(self) -> None:
        self._message, self._until = "", None
        self.refresh()

    def render(self) -> Content:
        if self._message:
            return literal.line(self._message)
        activities = tuple(self._state.activities.values())
        return literal.line(" · ".join(activities or (_("nothing loaded · nothing running"),)))
