"""The base of all screens, and the frame of those that are places.

Work that fails in an unforeseen way is shown, never swallowed. A screen may be hidden, behind
another place, while its work goes on: what it opens then belongs to its own place.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from textual.app import ComposeResult
from textual.screen import ModalScreen, Screen
from textual.worker import Worker, WorkerState

from localllm.tui.app_words import app_words
from localllm.tui.frame_state import FrameState
from localllm.tui.screens.dialog import bug_dialog
from localllm.tui.widgets.header import PlaceHeader
from localllm.tui.widgets.key_hints import KeyHints
from localllm.tui.widgets.status_line import SmallNote, StatusLine

if TYPE_CHECKING:  # what the first picture does not need is imported after it
    from localllm.chat.conversation import Conversation
    from localllm.library.store.installed import InstalledModel
    from localllm.runtime.runtime import Runtime
    from localllm.tui.services import AppServices

Result = TypeVar("Result")
Answer = TypeVar("Answer")

STATUS_S = 8.0


class Frame(Protocol):
    """What screens use of the app."""

    frame_state: FrameState

    @property
    def services(self) -> "AppServices": ...

    def open_chat(
        self, model: "InstalledModel", conversation: "Conversation | None" = None
    ) -> None: ...

    def open_kept(self, conversation_id: str) -> None: ...

    def go_to(self, place: str) -> None: ...


class WorkScreen(Screen[Result]):
    """A screen that uses the app's services and starts workers on them.

    `place` is the one that it belongs to: "" for the one that is seen when it is opened.
    """

    place: str = ""

    def __init__(self) -> None:
        super().__init__()
        self._leaving: Callable[[], None] | None = None
        # Textual's style sheets follow the first base class only, which is this one.
        self.set_class(isinstance(self, ModalScreen), "-window")

    @property
    def frame(self) -> Frame:
        """The app, as screens use it."""
        return cast("Frame", self.app)

    @property
    def services(self) -> "AppServices":
        return self.frame.services

    @property
    def runtime(self) -> "Runtime":
        return self.services.runtime

    async def services_ready(self) -> None:
        """Wait until the services are made, which takes a moment at the start of the app."""
        await asyncio.to_thread(lambda: self.services)

    async def ask(self, screen: Screen[Answer]) -> Answer:
        """Open a screen over this one and wait for its result; only in a worker."""
        return await self.app.push_screen_wait(self._of_this_place(screen), mode=self._mode)

    def open(
        self, screen: Screen[Answer], callback: Callable[[Answer | None], None] | None = None
    ) -> None:
        """Open a screen over this one; `callback` gets its result."""
        self.app.push_screen(self._of_this_place(screen), callback, mode=self._mode)

    @property
    def _mode(self) -> str | None:
        return self.place or None

    def _of_this_place(self, screen: Screen[Answer]) -> Screen[Answer]:
        if isinstance(screen, WorkScreen):
            screen.place = self.place
        return screen

    def leave(self, result: Result) -> None:
        """Dismiss this screen, whatever is open over it, and only once. Behind another place it
        waits until its own is seen again."""
        if self in self.app.screen_stack:
            self._leaving = None
            self.pop_until_active()
            self.dismiss(result)
        else:
            self._leaving = lambda: self.leave(result)

    def on_screen_resume(self) -> None:
        if self._leaving is not None:
            self._leaving()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            self.app.push_screen(bug_dialog(event.worker.error))


class PlaceScreen(WorkScreen[None]):
    """A place: header, its own widgets, status line and footer.

    A subclass names its `place` (`tui/places.py`) and yields its widgets in `compose_place`.
    """

    def __init__(self) -> None:
        super().__init__()
        # Textual sets the class of the width after the first layout, which would be seen to jump.
        width = self.app.size.width
        fitting = [name for start, name in self.app.HORIZONTAL_BREAKPOINTS or [] if start <= width]
        self.add_class(*fitting[-1:])

    def compose(self) -> ComposeResult:
        yield PlaceHeader(self.place, self.frame.frame_state)
        yield from self.compose_place()
        yield StatusLine(self.frame.frame_state)
        yield SmallNote()
        yield KeyHints()

    def compose_place(self) -> ComposeResult:
        """Yield what stands between the header and the status line."""
        yield from ()

    def show_status(self, text: str, *, seconds: float = STATUS_S) -> None:
        """Tell something in the status line, where it covers nothing; outside text."""
        self.query_one(StatusLine).show(app_words(text), seconds=seconds)
