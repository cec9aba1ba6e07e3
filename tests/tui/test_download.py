"""A suggestion becomes an installed model: offered, asked for, downloaded, run."""

from dataclasses import replace
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Static

from localllm.errors import AccessDenied, DownloadFailed, HubError, LocalLLMError, UsageError
from localllm.library.store.installed import InstalledModel
from localllm.tui.downloads import DownloadPreview
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.home.home import HomeScreen
from localllm.tui.screens.models.download import BUTTONS, DownloadScreen, Phase
from localllm.tui.screens.models.import_file import ImportScreen
from localllm.tui.widgets.labels import Bar
from localllm.tui.widgets.models import ModelRows
from tests.core import forge
from tests.core.forge_recurrent import ENCODER
from tests.tui.actions import screen_text, wait_for_fit, wait_for_screen, wait_for_text, wait_until
from tests.tui.fake_hub_source import GIB, HOST, FakeHubSource, progress
from tests.tui.fake_suggestions import FakeSuggestions, fake_plans
from tests.tui.fixtures import AppFixture

OFFLINE = "This needs the Hub and the network is switched off (LOCALLLM_OFFLINE)."


@pytest.fixture
def hub_source(app_fixture: AppFixture, smollm2: Path, tmp_path: Path) -> FakeHubSource:
    """Five suggestions, and a Hub that gives the starter model for each of them."""

    def install() -> InstalledModel:
        file = tmp_path / "quince.gguf"
        file.symlink_to(smollm2)
        return app_fixture.store.adopt(file)

    app_fixture.suggest = FakeSuggestions(plans=fake_plans(smollm2))
    app_fixture.source = hub_source = FakeHubSource(install=install)
    return hub_source


async def open_offer(pilot: Pilot[None], *, key: str = "enter") -> None:
    """From the home screen to the first suggestion's window."""
    await open_offer_of(pilot, "rowan-0.6b", key=key)


async def open_offer_of(pilot: Pilot[None], shown: str, *, key: str = "enter") -> None:
    """The same, as soon as a suggestion of this name is shown."""
    await wait_for_fit(pilot)
    await wait_for_text(pilot, shown)
    await pilot.press("down", key)
    await wait_for_screen(pilot, DownloadScreen)
    await wait_until(pilot, lambda: phase(pilot.app) is not Phase.LOOKING)


async def accept(pilot: Pilot[None]) -> None:
    """Take the window's first choice, as soon as it has the focus."""
    await wait_until(pilot, lambda: _first_has_focus(pilot.app))
    await pilot.press("enter")


def _first_has_focus(app: App[None]) -> bool:
    screen, focused = app.screen, app.focused
    if not isinstance(screen, DownloadScreen):
        return True
    # Textual takes no second press of a button while it shows the first one, for 0.2 s.
    if focused is None or focused.has_class("-active"):
        return False
    return focused.id == BUTTONS[screen.phase][0]


async def begin(pilot: Pilot[None]) -> None:
    """To the first suggestion's window, and download."""
    await open_offer(pilot)
    await accept(pilot)


def phase(app: App[None]) -> Phase | None:
    screen = app.screen
    return screen.phase if isinstance(screen, DownloadScreen) else None


async def wait_for_phase(pilot: Pilot[None], wanted: Phase) -> None:
    await wait_until(pilot, lambda: phase(pilot.app) is wanted)


def status(app: App[None]) -> str:
    """The last message of the window, whole: on the screen it is wrapped."""
    return str(app.screen.query_one("#download-status", Static).content)


@pytest.mark.parametrize("key", ["enter", "d"])
async def test_a_suggestion_says_what_it_is_and_asks_nobody(
    app_fixture: AppFixture, hub_source: FakeHubSource, key: str
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_offer(pilot, key=key)
        await wait_for_text(pilot, f"orchard/quince-30b-a3b-GGUF on {HOST}")
        await wait_for_text(pilot, "about 7.8 GiB")
        await wait_for_text(pilot, "120 GiB free in /made/up/hub")
        await wait_for_text(pilot, "8.7 GiB with 4096 tokens of context")
        await wait_for_text(pilot, "8-18 tok/s, likely 12.0 tok/s")
        await wait_for_text(pilot, "Apache-2.0")
        await wait_for_text(pilot, "Nothing was sent yet.")
        await wait_for_text(pilot, "Fits with 1.3 GiB to spare.")
        await pilot.press("escape")
        await wait_for_screen(pilot, HomeScreen)
    assert (hub_source.planned, hub_source.pulled) == ([], [])


async def test_a_model_that_the_engine_cannot_run_is_said_to_be_one_before_the_download(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    app_fixture.script.unknown_architectures = ("llama",)
    async with app_fixture.app().run_test(size=(120, 40)) as pilot:
        await open_offer(pilot)
        text = " ".join(screen_text(pilot.app).split())
        assert "cannot run it: the installed llama.cpp" in text
        assert "pip install --upgrade localllm" in text
        assert phase(pilot.app) is Phase.OFFERED  # a newer llama.cpp may run it
    assert (hub_source.planned, hub_source.pulled) == ([], [])


async def test_the_host_is_named_before_it_is_asked(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.silent = True
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(pilot)
        await wait_for_text(pilot, f"Asking {HOST} for the files of orchard/quince-30b-a3b-GGUF")
        hub_source.answer_gate.set()
        await wait_for_phase(pilot, Phase.RUNNING)


async def test_it_shows_bytes_rate_time_left_and_what_is_going_on(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.reported = (progress(2.0, note="resumed at 2.0 GiB"),)
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(pilot)
        await wait_for_text(pilot, "2.0 GiB of 8.0 GiB · 40.0 MiB/s · 2m 44s left")
        await wait_for_text(pilot, "resumed at 2.0 GiB")
        assert app.screen.query_one("TransferProgress Bar", Bar).fraction == 0.25


async def test_a_transfer_that_says_nothing_of_its_rate_shows_what_there_is(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.reported = (
        progress(0.5, mib_per_s=None, remaining_s=None, note="stalled, reconnecting"),
    )
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(pilot)
        await wait_for_text(pilot, "512 MiB of 8.0 GiB")
        await wait_for_text(pilot, "stalled, reconnecting")
        assert "left" not in screen_text(app)


async def test_what_was_downloaded_is_in_the_list_and_enter_runs_it(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        hub_source.gate.set()
        await wait_for_phase(pilot, Phase.DONE)
        await wait_for_text(pilot, "The sha256 is that of the Hub.")
        await accept(pilot)
        await wait_for_screen(pilot, ChatScreen)
        await pilot.press("f3")
        await wait_for_screen(pilot, HomeScreen)
        await wait_until(pilot, lambda: len(app.screen.query("ModelRow")) == 2)


async def test_without_running_it_the_cursor_is_on_it(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        hub_source.gate.set()
        await wait_for_phase(pilot, Phase.DONE)
        await pilot.press("escape")
        await wait_for_screen(pilot, HomeScreen)
        await wait_until(pilot, lambda: len(app.screen.query("ModelRow")) == 2)
        names = [model.name for model in app_fixture.store.installed()]
        added = next(index for index, name in enumerate(names) if name != "starter")
        await wait_until(pilot, lambda: app.screen.query_one(ModelRows).index == added)
        assert isinstance(app.focused, ModelRows)
    assert app_fixture.script.loads == []


async def test_a_stopped_download_is_kept_and_goes_on_when_told(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.reported = (progress(3.0),)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_text(pilot, "3.0 GiB of 8.0 GiB")
        await pilot.press("right", "enter")
        await wait_for_phase(pilot, Phase.STOPPED)
        await wait_for_text(pilot, "What came is kept")
        assert "left" not in screen_text(app)
        assert len(hub_source.stopped) == 1
        await accept(pilot)
        await wait_for_phase(pilot, Phase.RUNNING)
        hub_source.gate.set()
        await wait_for_phase(pilot, Phase.DONE)
    assert len(hub_source.planned) == 1  # the files are known
    assert len(hub_source.pulled) == 2


async def test_a_download_goes_on_in_the_background_and_its_window_shows_it_again(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.reported = (progress(3.0),)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_phase(pilot, Phase.RUNNING)
        await pilot.press("escape")
        await wait_for_screen(pilot, HomeScreen)
        assert hub_source.stopped == []
        await pilot.press("enter")
        await wait_for_screen(pilot, DownloadScreen)
        await wait_for_phase(pilot, Phase.RUNNING)
        await wait_for_text(pilot, "3.0 GiB of 8.0 GiB")
        hub_source.gate.set()
        await wait_for_phase(pilot, Phase.DONE)
    assert len(hub_source.pulled) == 1


async def test_a_question_to_a_silent_hub_can_be_given_up(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.silent = True
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_phase(pilot, Phase.ASKING)
        await wait_until(pilot, lambda: bool(hub_source.planned))
        await pilot.press("right", "enter")
        await wait_for_phase(pilot, Phase.STOPPED)
        await wait_for_text(pilot, "Nothing was downloaded.")
        hub_source.silent = False
        hub_source.answer_gate.set()
        await accept(pilot)
        await wait_for_phase(pilot, Phase.RUNNING)
    assert len(hub_source.pulled) == 1  # the answer that came late started nothing


async def test_the_app_answers_while_it_downloads(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.reported = (progress(1.0),)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_text(pilot, "1.0 GiB of 8.0 GiB")
        await pilot.press("ctrl+p")
        await wait_until(pilot, lambda: not isinstance(app.screen, DownloadScreen))
        await pilot.press("escape")
        await wait_for_screen(pilot, DownloadScreen)
        assert phase(app) is Phase.RUNNING


@pytest.mark.parametrize("silent", [False, True])
async def test_quitting_stops_what_runs(
    app_fixture: AppFixture, hub_source: FakeHubSource, silent: bool
) -> None:
    hub_source.silent = silent
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_until(pilot, lambda: bool(hub_source.planned if silent else hub_source.pulled))
        await pilot.press("ctrl+q")
    assert app.return_code == 0
    assert len(hub_source.stopped) == (0 if silent else 1)
    hub_source.answer_gate.set()


@pytest.mark.parametrize(
    "error",
    [
        HubError("hub.example cannot be reached: no connection within 10 s. [/INST]"),
        AccessDenied("orchard/quince-30b-a3b-GGUF is gated. Open https://hub.example [bold]."),
        UsageError("HF_ENDPOINT is 'x', which is no address."),
    ],
)
async def test_a_hub_that_refuses_is_said_in_place_and_can_be_asked_again(
    app_fixture: AppFixture, hub_source: FakeHubSource, error: LocalLLMError
) -> None:
    hub_source.plan_error = error
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_phase(pilot, Phase.FAILED)
        assert str(error) in status(app)
        hub_source.plan_error = None
        await accept(pilot)
        await wait_for_phase(pilot, Phase.RUNNING)


async def test_a_transfer_that_fails_is_said_in_place_and_goes_on_when_told(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    error = DownloadFailed("There is no room: 7.8 GiB are needed and 2.0 GiB are free.")
    hub_source.pull_error = error
    hub_source.gate.set()
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_phase(pilot, Phase.FAILED)
        assert str(error) in status(app)
        hub_source.pull_error = None
        await accept(pilot)
        await wait_for_phase(pilot, Phase.DONE)


async def test_a_model_that_does_not_chat_is_not_offered_to_run(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    assert app_fixture.starter is not None
    first = fake_plans(app_fixture.starter.path)[0]
    app_fixture.suggest = FakeSuggestions(plans=(replace(first, spec=forge.spec(ENCODER)),))
    hub_source.gate.set()
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_offer_of(pilot, first.candidate.model)
        await accept(pilot)
        await wait_for_phase(pilot, Phase.DONE)
        assert not app.screen.query_one("#run").display
        assert app.screen.query_one("#close").display
        await pilot.press("enter")
        await wait_for_screen(pilot, HomeScreen)
    assert app_fixture.script.loads == []


async def test_offline_is_said_at_once_and_a_file_can_be_imported(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.facts = DownloadPreview(
        host=HOST, directory=Path("/x"), free_bytes=GIB, license=None, refusal=OFFLINE
    )
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        await wait_for_phase(pilot, Phase.FAILED)
        assert status(app) == OFFLINE
        await accept(pilot)  # try again: still off
        await wait_until(pilot, lambda: len(hub_source.previewed) == 2)
        await wait_for_phase(pilot, Phase.FAILED)
        await pilot.press("right", "enter")
        await wait_for_screen(pilot, ImportScreen)
    assert (hub_source.planned, hub_source.pulled) == ([], [])


async def test_settings_that_cannot_be_read_are_said_in_place(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.preview_error = UsageError("settings.toml line 1: 'ofline' is not a setting.")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        assert status(app) == str(hub_source.preview_error)
        hub_source.preview_error = None
        await accept(pilot)
        await wait_for_phase(pilot, Phase.OFFERED)


async def test_a_file_much_larger_than_was_said_is_asked_for_again(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.size_bytes = 12 * GIB
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_until(pilot, lambda: "12.0 GiB and not 7.8 GiB" in status(app))
        assert hub_source.pulled == []
        await accept(pilot)
        await wait_for_phase(pilot, Phase.RUNNING)
    assert len(hub_source.planned) == 1


async def test_too_little_room_is_said_before_anybody_is_asked(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.facts = DownloadPreview(
        host=HOST, directory=Path("/x"), free_bytes=GIB, license=None
    )
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        assert "There is room for 1.0 GiB only: free 6.8 GiB first." in status(app)
    assert hub_source.planned == []


async def test_a_gated_repository_is_said_to_be_one(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.gated = True
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(pilot)
        await wait_for_phase(pilot, Phase.RUNNING)
        await wait_for_text(pilot, "accept terms first")


async def test_two_keys_in_the_same_moment_download_once(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        button = app.screen.query_one("#download")
        button.press()  # type: ignore[attr-defined]
        button.press()  # type: ignore[attr-defined]
        await wait_for_phase(pilot, Phase.RUNNING)
        await pilot.pause()
    assert len(hub_source.pulled) == 1


async def test_a_failure_that_nobody_foresaw_is_said_and_not_swallowed(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.install = None  # its AssertionError stands for any bug
    hub_source.gate.set()
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_text(pilot, "This is a bug in localllm")
