"""The line above the footer: what is in memory, what serves, what downloads; and for a moment what
an action has to tell."""

from textual.content import Content
from textual.geometry import Size
from textual.timer import Timer
from textual.widget import Widget

from localllm.translation import _
from localllm.tui import literal
from localllm.tui.frame_state import FrameState

SMALL_COLUMNS, SMALL_ROWS = 60, 15
"""Below either there is no room for the frame: a plain view of the place alone."""


def is_small(size: Size) -> bool:
    """Tell whether a terminal of this size has no room for the frame."""
    return size.width < SMALL_COLUMNS or size.height < SMALL_ROWS


class SmallNote(Widget):
    """In a terminal that is too small for the frame, the line that says so."""

    def render(self) -> Content:
        size = f"{SMALL_COLUMNS}x{SMALL_ROWS}"
        texts = (
            _("small window: more is shown from {size} on · f1 keys").format(size=size),
            _("small window: {size} shows more").format(size=size),
            _("small · f1 keys"),
        )
        return Content(next((text for text in texts if len(text) <= self.size.width), ""))


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
