"""The app in German: every place, at both sizes, with the windows that people open every day."""

from collections.abc import Iterator

import pytest

from localllm.translation import _, set_language
from localllm.tui.places import CHAT, PLACES
from localllm.tui.screens.keys import KeysScreen
from tests.tui.actions import wait_for_screen, wait_for_text, wait_until
from tests.tui.fixtures import AppFixture

HINTS = {
    "home": "Datei importieren",
    "chat": "Senden",
    "models": "Dateien",
    "serve": "Start/Stopp",
    "bench": "Messen",
    "settings": "Vorgabe",
}
"""A key of each place, as its last line has it."""


@pytest.fixture(autouse=True)
def _german() -> Iterator[None]:
    set_language("de")
    yield
    set_language("en")


async def test_every_place_is_german_and_fits(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_for_text(pilot, "● passt")
        await wait_for_text(pilot, "f5 Chat  f6 Modelle  f7 Server  f8 Tempo  f9 Setup")
        for place in PLACES:
            await pilot.press(place.key)
            await wait_for_text(pilot, HINTS[place.id])
            await pilot.resize_terminal(120, 40)
            await wait_for_text(pilot, f"▌{place.key} {_(place.name)}▐")
            await pilot.press("f1")
            await wait_for_screen(pilot, KeysScreen)
            await wait_for_text(pilot, "Tasten dieser Ansicht")
            await pilot.press("escape")
            await wait_until(pilot, lambda: not isinstance(app.screen, KeysScreen))
            await pilot.resize_terminal(80, 24)
        await pilot.press("f9", "p")
        await wait_for_text(pilot, "Netzwerk")
        await pilot.press("f5", "ctrl+t")
        await wait_for_text(pilot, "System-Prompt")
        await pilot.press("escape", "ctrl+l")
        await wait_for_text(pilot, "Noch keine Unterhaltungen.")
        await pilot.press("escape", "ctrl+p")
        await pilot.press(*"Farben")
        await wait_for_text(pilot, "Hell, dunkel, starker Kontrast")
        assert app.current_mode == CHAT
