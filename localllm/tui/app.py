"""The terminal app: it owns the services and the places, and ends everything with itself. What can
be seen and done is in `screens/`."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from localllm.core.units import format_bytes
from localllm.library.store.installed import InstalledModel
from localllm.translation import _
from localllm.tui.conversation import Conversation
from localllm.tui.downloads.activity import activity_text, network_truth
from localllm.tui.places import CHAT, HOME, PLACES
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.dialog import bug_dialog
from localllm.tui.services import AppServices
from localllm.tui.theme import DARK, THEMES

_DOWNLOADS_S = 0.5
_LOADED_S = 1.0
"""How often the models in memory are looked at."""


class LocalLLMApp(App[None]):
    """The app on `services`. A test passes its own."""

    TITLE = "localllm"
    CSS_PATH = "app.tcss"
    # Textual declares these without ClassVar, so they cannot be one here.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    MODES: ClassVar[dict[str, str | Callable[[], Screen[None]]]] = {
        place.id: place.open for place in PLACES
    }
    DEFAULT_MODE = HOME
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+q",
            "quit",
            "Quit",
            id="app.quit",
            tooltip="End every engine and leave",
            priority=True,
        ),
        *(
            Binding(
                place.key,
                f"go_to('{place.id}')",
                place.name,
                id=f"app.{place.id}",
                tooltip=place.help,
                show=False,
                priority=True,
            )
            for place in PLACES
        ),
    ]

    def __init__(self, services: AppServices) -> None:
        super().__init__()
        self.services = services
        for theme in THEMES:
            self.register_theme(theme)
        if "TEXTUAL_THEME" not in os.environ:
            self.theme = DARK.name

    def on_mount(self) -> None:
        self.set_interval(_LOADED_S, self.show_loaded)
        self.watch_downloads()

    async def on_unmount(self) -> None:
        await self.services.close()

    # --- places ---

    def go_to(self, place: str) -> None:
        """Show a place; the one that is left goes on with what it does."""
        self.switch_mode(place)

    def action_go_to(self, place: str) -> None:
        self.go_to(place)

    def open_chat(self, model: InstalledModel, conversation: Conversation | None = None) -> None:
        """Go to the chat with this model, which is loaded if need be: to `conversation`, or to the
        one that was last had with it."""
        before = self.current_mode
        self.go_to(CHAT)
        chat = self.screen_stack[0]
        assert isinstance(chat, ChatScreen)
        chat.open_model(model, conversation, came_from=before)

    def show_loaded(self) -> None:
        """Say in the status line which models are in memory."""
        loaded = (
            _("{model} loaded, {size}").format(
                model=each.model.name, size=format_bytes(each.fit.with_draft_bytes)
            )
            for each in self.services.runtime.resident()
        )
        self.services.frame.set_activity("loaded", " · ".join(loaded))

    # --- downloads ---

    def watch_downloads(self) -> None:
        """Show in the frame of every place what downloads, and find what was stopped before."""
        downloads = self.services.downloads
        downloads.report = self._show_bug
        downloads.listen(self.show_downloads)
        self._downloads_timer = self.set_interval(_DOWNLOADS_S, self.show_downloads, pause=True)
        self.run_worker(downloads.find_stopped(), group="downloads", exit_on_error=False)

    def show_downloads(self) -> None:
        """Say in the status line how far the downloads are, again and again while one runs."""
        downloads = self.services.downloads
        frame = self.services.frame
        frame.set_activity("download", activity_text(downloads.items))
        frame.set_truth(network_truth(frame.truth, downloads.items))
        if downloads.active:
            self._downloads_timer.resume()
        else:
            self._downloads_timer.pause()

    def _show_bug(self, error: BaseException) -> None:
        self.push_screen(bug_dialog(error))

    # --- commands ---

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Make every key of the screen a command of the palette too."""
        for command in super().get_system_commands(screen):
            if command.title != "Quit":  # ours says what it ends
                yield command
        ours = {
            active.binding.id: active
            for active in screen.active_bindings.values()
            if active.binding.id is not None and active.enabled
        }
        for active in ours.values():
            yield SystemCommand(
                _(active.binding.description),
                _(active.tooltip),
                partial(self.run_action, active.binding.action, active.node),
            )
