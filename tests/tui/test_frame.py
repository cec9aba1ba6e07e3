"""The frame around every place: its lines, its keys, its end."""

import asyncio
import signal
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from localllm.cli.main import _print_failure
from localllm.errors import UsageError
from localllm.library.files import edit_settings, settings
from localllm.library.http.connection_file import Purpose
from localllm.library.http.ledger import NetworkLedger
from localllm.tui.app import LocalLLMApp
from localllm.tui.downloads import DownloadRequest
from localllm.tui.downloads.activity import network_truth
from localllm.tui.downloads.queue import Download, DownloadState
from localllm.tui.failure import failure_of, lines_of
from localllm.tui.frame_state import FrameState, NetworkTruth
from localllm.tui.places import CHAT, HOME, PLACES
from localllm.tui.screens.dialog import QuitDialog
from localllm.tui.screens.keys import KeysScreen
from localllm.tui.services import AppServices
from localllm.tui.terminal_background import answer_is_whole, light_by_answer, light_by_variable
from localllm.tui.theme import DARK, HIGH_CONTRAST, LIGHT, first_theme, saved_theme
from localllm.tui.widgets.header import header_pieces
from localllm.tui.widgets.key_hints import Hint, fitting
from localllm.tui.widgets.key_names import key_name
from localllm.tui.widgets.prompt import Prompt
from tests.tui.actions import (
    open_chat,
    screen_text,
    wait_for_fit,
    wait_for_screen,
    wait_for_text,
    wait_until,
)
from tests.tui.fake_hub_source import progress
from tests.tui.fixtures import AppFixture

TRUTHS = (
    NetworkTruth(),
    NetworkTruth(offline=True),
    NetworkTruth(host="hub.example", bytes_per_s=4e7, contacted=("hub.example",)),
    NetworkTruth(contacted=("hub.example", "cdn.example")),
)


@hypothesis.settings(max_examples=60)
@given(
    width=st.integers(0, 220),
    current=st.sampled_from([place.id for place in PLACES]),
    truth=st.sampled_from(TRUTHS),
)
def test_the_header_fills_its_width_and_always_says_the_truth(
    width: int, current: str, truth: NetworkTruth
) -> None:
    pieces = header_pieces(width, current=current, truths=truth.texts())
    text = "".join(piece.text for piece in pieces)
    assert cell_len(text) == width
    if width > 1:
        assert truth.texts()[-1] in text


def test_the_header_at_80_columns_names_the_places_and_where_one_is() -> None:
    pieces = header_pieces(80, current=HOME, truths=NetworkTruth().texts())
    text = "".join(piece.text for piece in pieces)
    assert all(f"{place.key} {place.name}" in text for place in PLACES if place.id != HOME)
    assert text.endswith("○ nothing sent ") or text.endswith("since the start ")
    for truth in (NetworkTruth(offline=True), NetworkTruth(host="hub.example")):
        pieces = header_pieces(80, current=HOME, truths=truth.texts())
        assert pieces[-1].text.strip() == truth.texts()[0]  # words, not only a sign


HINTS = st.builds(Hint, key=st.text(max_size=5), text=st.text(max_size=20), action=st.just("quit"))


@given(st.lists(HINTS, max_size=12), st.lists(HINTS, max_size=3), st.integers(0, 120))
def test_hints_that_do_not_fit_are_left_out_from_the_end(
    hints: list[Hint], last: list[Hint], width: int
) -> None:
    shown = fitting(hints, last, width)
    assert sum(hint.width + 2 for hint in shown) <= width
    if sum(hint.width + 2 for hint in (*hints, *last)) <= width:
        assert shown == (*hints, *last)


def test_keys_are_written_as_people_write_them() -> None:
    names = [key_name(key) for key in ("ctrl+p", "shift+enter", "f5", "question_mark")]
    assert names == ["^p", "shift+⏎", "f5", "?"]


async def test_f1_shows_the_keys_of_this_screen_ours_first(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_chat(pilot)
        await pilot.press("f1")
        await wait_for_screen(pilot, KeysScreen)
        await pilot.pause()
        text = screen_text(app)
        assert "Keys of this screen" in text
        assert "Send the question" in text
        assert "In a text that you write" not in text
        assert "esc f1 ? q" not in text  # those of the window are in its own last line
        assert "f5 Chat" in text
        await pilot.press("e")
        await wait_for_text(pilot, "In a text that you write")
        await pilot.press("f1")
        await wait_until(pilot, lambda: not isinstance(app.screen, KeysScreen))
        await pilot.press("?")  # in the prompt it is a character
        assert app.screen.query_one(Prompt).text == "?"
        titles = [each.title for each in app.get_system_commands(app.screen)]
        assert not {"Maximize", "Screenshot"} & {title.split()[0] for title in titles}
        assert len(titles) == len(set(titles))


async def test_a_window_has_hints_of_its_own_and_quitting_asks_once(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await wait_for_fit(pilot)
        app.frame_state.set_loss("chat", "Two conversations are kept in memory only.")
        await pilot.press("ctrl+q")
        await wait_for_screen(pilot, QuitDialog)
        await wait_for_text(pilot, "Two conversations are kept")
        last_line = screen_text(app).splitlines()[-1]
        assert "esc Close" in last_line
        assert "Refresh" not in last_line
        await pilot.press("enter")  # stay
        await wait_until(pilot, lambda: not isinstance(app.screen, QuitDialog))
        await pilot.press("ctrl+q")
        await wait_for_screen(pilot, QuitDialog)
        await pilot.press("ctrl+q")
        await wait_until(pilot, lambda: not app.is_running or app._exit)
    assert app.return_code == 0


async def test_the_first_layout_of_a_place_is_that_of_its_width(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 30)) as pilot:
        app.switch_mode(CHAT)
        assert app.screen.has_class("-wide")  # before anything was drawn
        await pilot.pause()


async def test_a_place_keeps_its_windows_while_one_is_elsewhere(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await wait_for_fit(pilot)
        await pilot.press("i", "f5")
        await wait_until(pilot, lambda: app.current_mode == CHAT)
        await wait_for_text(pilot, "▌f5 Chat▐")
        await pilot.resize_terminal(80, 24)
        await pilot.click("PlaceHeader", offset=(2, 0))  # the name leads home
        await wait_for_text(pilot, "Import a GGUF file")
        assert {screen.size for screen in app.screen_stack} == {app.size}  # what is below it too


async def test_what_goes_on_and_what_is_sent_is_in_sight(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(140, 30)) as pilot:
        await wait_for_text(pilot, "○ nothing sent")
        await wait_for_text(pilot, "nothing loaded")
        exchange = app_fixture.ledger.begin("hub.example", Purpose.SEARCH)
        exchange.sent(100)
        await wait_for_text(pilot, "● hub.example")
        exchange.end()
        await wait_for_text(pilot, "○ since the start: hub.example")
        app.frame_state.set_activity("serve", "serving on 127.0.0.1:1")
        await wait_for_text(pilot, "serving on 127.0.0.1:1")


def test_the_truth_is_the_ledgers_and_while_something_downloads_has_its_rate() -> None:
    ledger = NetworkLedger(monotonic=lambda: 5.0)

    def truth(*items: Download, before: NetworkTruth = NetworkTruth()) -> NetworkTruth:  # noqa: B008
        return network_truth(before, items, ledger.activity(), ledger.connections())

    assert truth() == NetworkTruth()
    local = ledger.begin("127.0.0.1", Purpose.TRACES)
    local.sent(10)
    local.end()
    assert truth() == NetworkTruth()
    ledger.begin("never.example", Purpose.SEARCH).end(failed=True)  # nothing went out
    search = ledger.begin("hub.example", Purpose.SEARCH)
    search.sent(100)
    search.received(2 * 2**20)
    contacted = ("hub.example",)
    rate = 2**20
    assert truth() == NetworkTruth(host="hub.example", bytes_per_s=rate, contacted=contacted)
    search.end()
    assert truth(before=NetworkTruth(offline=True)) == NetworkTruth(
        offline=True, contacted=contacted
    )
    quince = DownloadRequest(repository="org/quince", quant="Q8_0", size_bytes=8)
    item = Download(
        number=1,
        request=quince,
        state=DownloadState.RUNNING,
        host="files.example",
        progress=progress(1.0, mib_per_s=40.0),
    )
    found = truth(item)
    assert (found.host, found.bytes_per_s) == ("files.example", 40 * 2**20)
    assert found.contacted == ("hub.example", "files.example")


TYPED = "my secret plan"


async def test_an_error_that_nobody_expected_ends_with_a_status_and_without_what_was_typed(
    app_fixture: AppFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_fixture.app()
    with pytest.raises(ZeroDivisionError):
        async with app.run_test() as pilot:
            await wait_for_fit(pilot)
            app.call_later(_fail_with, TYPED)
            await wait_until(pilot, lambda: app.failure is not None)
    assert app.return_code == 1
    assert app.failure is not None
    for variable in ("", "1"):
        monkeypatch.setenv("LOCALLLM_TRACEBACK", variable)
        _print_failure(app.failure)
    printed = capsys.readouterr()
    assert "ZeroDivisionError at tui/test_frame.py" in printed.err
    assert TYPED not in printed.out + printed.err + failure_of(app.failure) + lines_of(app.failure)


def _fail_with(typed: str) -> None:
    local_variable = typed
    raise ZeroDivisionError(local_variable)


async def test_settings_that_cannot_be_read_end_it_with_their_message() -> None:
    def refuse(_frame: FrameState) -> AppServices:
        raise UsageError("settings.toml: there is no key 'offlin'.")

    app = LocalLLMApp(refuse)
    async with app.run_test() as pilot:
        async with asyncio.timeout(60):
            while app.refusal is None:
                await pilot.pause()
    assert "offlin" in str(app.refusal)
    assert app.failure is None


async def test_a_terminal_that_is_gone_ends_the_app(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        signal.raise_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            while not app._exit:
                await pilot.pause()
    assert app.return_code == 1
    assert not app_fixture.engine.alive


# --- themes ---


async def test_a_theme_that_is_chosen_is_kept(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        assert app.theme == DARK.name
        app.theme = HIGH_CONTRAST.name
        await pilot.pause()
        await wait_until(pilot, lambda: saved_theme() == HIGH_CONTRAST.name)
    assert app_fixture.app().theme == HIGH_CONTRAST.name
    assert settings.load().theme == HIGH_CONTRAST.name


def test_the_first_theme_is_that_of_the_settings_or_of_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    assert saved_theme(file) == ""
    edit_settings.change("theme", "nord", file)
    assert saved_theme(file) == "nord"
    file.write_bytes(b"theme = \xff")
    assert saved_theme(file) == ""
    assert first_theme("", is_light=True, environment={}) == LIGHT.name
    assert first_theme("", is_light=None, environment={}) == DARK.name
    assert first_theme("nord", is_light=True, environment={}) == "nord"
    assert first_theme("nord", is_light=True, environment={"TEXTUAL_THEME": "dracula"}) == "dracula"


@given(st.binary(max_size=60))
def test_no_answer_of_a_terminal_is_misread(answer: bytes) -> None:
    assert light_by_answer(answer) is None
    answer_is_whole(answer)


def test_the_background_of_a_terminal_is_read() -> None:
    assert light_by_answer(b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\\x1b[?62;22c") is True
    assert light_by_answer(b"\x1b]11;rgb:1111/1515/1a1a\x07") is False
    assert light_by_answer(b"\x1b]11;rgb:f/f/e\x07") is True
    assert light_by_answer(b"\x1b[?1;2c") is None
    assert answer_is_whole(b"\x1b[?1;2c")
    assert [light_by_variable(each) for each in ("15;0", "0;15", "0;default", "")] == [
        False,
        True,
        None,
        None,
    ]


def test_high_contrast_has_no_shade_of_grey() -> None:
    assert HIGH_CONTRAST.background == "#000000"
    assert HIGH_CONTRAST.variables["text-muted"] == HIGH_CONTRAST.foreground == "#ffffff"
