"""The places of the app: each is a mode with screens of its own, reached by a function key.

A place's screen is imported when somebody goes there.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Final

from textual.screen import Screen

from localllm.translation import N_


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place: `id` is the name of its mode, `screen` is MODULE:CLASS of its PlaceScreen. `name`
    and `help` are shown translated."""

    id: str
    key: str
    name: str
    help: str
    screen: str

    def open(self) -> Screen[None]:
        """Make its screen."""
        module, _colon, name = self.screen.partition(":")
        screen = getattr(import_module(module), name)()
        if not isinstance(screen, Screen):
            raise TypeError(f"{self.screen} is no screen")
        return screen


HOME: Final = "home"
CHAT: Final = "chat"
MODELS: Final = "models"
SERVE: Final = "serve"
BENCH: Final = "bench"
SETTINGS: Final = "settings"

PLACES: Final = (
    Place(
        id=HOME,
        key="f3",
        name=N_("Home"),
        help=N_("This machine, and the models that suit it"),
        screen="localllm.tui.screens.home.home:HomeScreen",
    ),
    Place(
        id=CHAT,
        key="f5",
        name=N_("Chat"),
        help=N_("Talk with a model"),
        screen="localllm.tui.screens.chat.chat:ChatScreen",
    ),
    Place(
        id=MODELS,
        key="f6",
        name=N_("Models"),
        help=N_("Every model of this disk"),
        screen="localllm.tui.screens.models.models:ModelsScreen",
    ),
    Place(
        id=SERVE,
        key="f7",
        name=N_("Serve"),
        help=N_("Let other programs use the models"),
        screen="localllm.tui.screens.serve.serve:ServeScreen",
    ),
    Place(
        id=BENCH,
        key="f8",
        name=N_("Bench"),
        help=N_("How fast models are on this machine, measured"),
        screen="localllm.tui.screens.bench.bench:BenchScreen",
    ),
    Place(
        id=SETTINGS,
        key="f9",
        name=N_("Settings"),
        help=N_("Every setting, and what was ever sent"),
        screen="localllm.tui.screens.settings.settings:SettingsScreen",
    ),
)
"""In the order of the header."""
