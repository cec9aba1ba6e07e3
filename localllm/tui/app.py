"""The terminal app: it owns the runtime and the downloads, starts on the home screen, and ends
everything with itself. What can be seen and done is in `screens/`."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from localllm.runtime.runtime import Runtime
from localllm.runtime.suggest import suggestions
from localllm.tui.downloads import Downloads, DownloadSource, HubSource
from localllm.tui.screens.home import HomeScreen, Suggest
from localllm.tui.theme import DARK, THEMES


class LocalLLMApp(App[None]):
    """The app. `clock` gives seconds, monotonic; `suggest` plans what else fits; `source` downloads
    it, and is the only one that asks the network. A test passes its own."""

    TITLE = "localllm"
    CSS_PATH = "app.tcss"
    # Textual declares this one without ClassVar, so it cannot be one here.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+q",
            "quit",
            "Quit",
            id="app.quit",
            tooltip="End every engine and leave",
            priority=True,
        )
    ]

    def __init__(
        self,
        runtime: Runtime,
        *,
        clock: Callable[[], float] = time.monotonic,
        suggest: Suggest = suggestions,
        source: DownloadSource | None = None,
    ) -> None:
        super().__init__()
        self.downloads = Downloads(HubSource() if source is None else source)
        self.runtime = runtime
        self.clock = clock
        self.suggest = suggest
        for theme in THEMES:
            self.register_theme(theme)
        if "TEXTUAL_THEME" not in os.environ:
            self.theme = DARK.name

    def on_mount(self) -> None:
        home = HomeScreen(
            self.runtime, clock=self.clock, suggest=self.suggest, downloads=self.downloads
        )
        self.push_screen(home)

    async def on_unmount(self) -> None:
        await asyncio.gather(self.downloads.close(), self.runtime.close())

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
                active.binding.description,
                active.tooltip,
                partial(self.run_action, active.binding.action, active.node),
            )
