"""A suggestion becomes an installed model: offered, asked for, downloaded, run."""

from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Static

from localllm.errors import AccessDenied, DownloadFailed, HubError, LocalLLMError, UsageError
from localllm.library.store.installed import InstalledModel
from localllm.tui.downloads import Offer
from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.download import BUTTONS, DownloadScreen, Phase
from localllm.tui.screens.home import HomeScreen
from localllm.tui.screens.import_file import ImportScreen
from localllm.tui.widgets.labels import Bar
from localllm.tui.widgets.models import Rows
from tests.tui.acts import reaches, sees, shown, until, weighs
from tests.tui.made_up import Stage
from tests.tui.made_up_hub import GIB, HOST, Nursery, progress
from tests.tui.made_up_plans import Orchard, made_up_plans

OFFLINE = "This needs the Hub and the network is switched off (LOCALLLM_OFFLINE)."


@pytest.fixture
def nursery(stage: Stage, smollm2: Path, tmp_path: Path) -> Nursery:
    """Five suggestions, and a Hub that gives the starter model for each of them."""

    def install() -> InstalledModel:
        file = tmp_path / "quince.gguf"
        file.symlink_to(smollm2)
        return stage.store.adopt(file)

    stage.suggest = Orchard(plans=made_up_plans(smollm2))
    stage.source = nursery = Nursery(install=install)
    return nursery


async def open_offer(pilot: Pilot[None], *, key: str = "enter") -> None:
    """From the home screen to the first suggestion's window."""
    await weighs(pilot)
    await sees(pilot, "rowan-0.6b")
    await pilot.press("down", key)
    await reaches(pilot, DownloadScreen)
    await until(pilot, lambda: phase(pilot.app) is not Phase.LOOKING)


async def accept(pilot: Pilot[None]) -> None:
    """Take the window's first choice, as soon as it has the focus."""
    await until(pilot, lambda: _first_has_focus(pilot.app))
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


async def comes_to(pilot: Pilot[None], wanted: Phase) -> None:
    await until(pilot, lambda: phase(pilot.app) is wanted)


def status(app: App[None]) -> str:
    """What the window says last, whole: on the screen it is wrapped."""
    return str(app.screen.query_one("#download-status", Static).content)


@pytest.mark.parametrize("key", ["enter", "d"])
async def test_a_suggestion_says_what_it_is_and_asks_nobody(
    stage: Stage, nursery: Nursery, key: str
) -> None:
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_offer(pilot, key=key)
        await sees(pilot, f"orchard/quince-30b-a3b-GGUF on {HOST}")
        await sees(pilot, "about 7.8 GiB")
        await sees(pilot, "120 GiB free in /made/up/hub")
        await sees(pilot, "8.7 GiB with 4096 tokens of context")
        await sees(pilot, "8-18 tok/s, likely 12.0 tok/s")
        await sees(pilot, "Apache-2.0")
        await sees(pilot, "Nothing was sent yet.")
        await sees(pilot, "Fits with 1.3 GiB to spare.")
        await pilot.press("escape")
        await reaches(pilot, HomeScreen)
    assert (nursery.asked, nursery.pulled) == ([], [])


async def test_the_host_is_named_before_it_is_asked(stage: Stage, nursery: Nursery) -> None:
    nursery.silent = True
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(pilot)
        await sees(pilot, f"Asking {HOST} for the files of orchard/quince-30b-a3b-GGUF")
        nursery.choosing.set()
        await comes_to(pilot, Phase.RUNNING)


async def test_it_shows_bytes_rate_time_left_and_what_is_going_on(
    stage: Stage, nursery: Nursery
) -> None:
    nursery.told = (progress(2.0, note="resumed at 2.0 GiB"),)
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(pilot)
        await sees(pilot, "2.0 GiB of 8.0 GiB · 40.0 MiB/s · 2m 44s left")
        await sees(pilot, "resumed at 2.0 GiB")
        assert app.screen.query_one("Transfer Bar", Bar).fraction == 0.25


async def test_a_transfer_that_says_nothing_of_its_rate_shows_what_there_is(
    stage: Stage, nursery: Nursery
) -> None:
    nursery.told = (progress(0.5, mib_per_s=None, remaining_s=None, note="stalled, reconnecting"),)
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(pilot)
        await sees(pilot, "512 MiB of 8.0 GiB")
        await sees(pilot, "stalled, reconnecting")
        assert "left" not in shown(app)


async def test_what_was_downloaded_is_in_the_list_and_enter_runs_it(
    stage: Stage, nursery: Nursery
) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        nursery.gate.set()
        await comes_to(pilot, Phase.DONE)
        await sees(pilot, "The sha256 is that of the Hub.")
        await accept(pilot)
        await reaches(pilot, ChatScreen)
        await pilot.press("ctrl+o")
        await reaches(pilot, HomeScreen)
        await until(pilot, lambda: len(app.screen.query("ModelRow")) == 2)


async def test_without_running_it_the_cursor_is_on_it(stage: Stage, nursery: Nursery) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        nursery.gate.set()
        await comes_to(pilot, Phase.DONE)
        await pilot.press("escape")
        await reaches(pilot, HomeScreen)
        await until(pilot, lambda: len(app.screen.query("ModelRow")) == 2)
        names = [model.name for model in stage.store.installed()]
        added = next(index for index, name in enumerate(names) if name != "starter")
        await until(pilot, lambda: app.screen.query_one(Rows).index == added)
        assert isinstance(app.focused, Rows)
    assert stage.script.loads == []


@pytest.mark.parametrize("key", ["escape", "enter"])
async def test_a_stopped_download_is_kept_and_goes_on_when_told(
    stage: Stage, nursery: Nursery, key: str
) -> None:
    nursery.told = (progress(3.0),)
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await sees(pilot, "3.0 GiB of 8.0 GiB")
        await pilot.press(key)
        await comes_to(pilot, Phase.STOPPED)
        await sees(pilot, "What came is kept")
        assert "left" not in shown(app)
        assert len(nursery.stopped) == 1
        await accept(pilot)
        await comes_to(pilot, Phase.RUNNING)
        nursery.gate.set()
        await comes_to(pilot, Phase.DONE)
    assert len(nursery.asked) == 1  # the files are known
    assert len(nursery.pulled) == 2


async def test_escape_twice_stops_and_leaves(stage: Stage, nursery: Nursery) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await comes_to(pilot, Phase.RUNNING)
        await pilot.press("escape")
        await comes_to(pilot, Phase.STOPPED)
        await pilot.press("escape")
        await reaches(pilot, HomeScreen)
    assert len(nursery.stopped) == 1


async def test_a_question_to_a_silent_hub_can_be_given_up(stage: Stage, nursery: Nursery) -> None:
    nursery.silent = True
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await comes_to(pilot, Phase.ASKING)
        await until(pilot, lambda: bool(nursery.asked))
        await pilot.press("escape")
        await comes_to(pilot, Phase.STOPPED)
        await sees(pilot, "Nothing was downloaded.")
        nursery.silent = False
        nursery.choosing.set()
        await accept(pilot)
        await comes_to(pilot, Phase.RUNNING)
    assert len(nursery.pulled) == 1  # the answer that came late started nothing


async def test_the_app_answers_while_it_downloads(stage: Stage, nursery: Nursery) -> None:
    nursery.told = (progress(1.0),)
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await sees(pilot, "1.0 GiB of 8.0 GiB")
        await pilot.press("ctrl+p")
        await until(pilot, lambda: not isinstance(app.screen, DownloadScreen))
        await pilot.press("escape")
        await reaches(pilot, DownloadScreen)
        assert phase(app) is Phase.RUNNING


@pytest.mark.parametrize("silent", [False, True])
async def test_quitting_stops_what_runs(stage: Stage, nursery: Nursery, silent: bool) -> None:
    nursery.silent = silent
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await until(pilot, lambda: bool(nursery.asked if silent else nursery.pulled))
        await pilot.press("ctrl+q")
    assert app.return_code == 0
    assert len(nursery.stopped) == (0 if silent else 1)
    nursery.choosing.set()


@pytest.mark.parametrize(
    "error",
    [
        HubError("hub.example cannot be reached: no connection within 10 s. [/INST]"),
        AccessDenied("orchard/quince-30b-a3b-GGUF is gated. Open https://hub.example [bold]."),
        UsageError("HF_ENDPOINT is 'x', which is no address."),
    ],
)
async def test_a_hub_that_refuses_is_said_in_place_and_can_be_asked_again(
    stage: Stage, nursery: Nursery, error: LocalLLMError
) -> None:
    nursery.choose_error = error
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await comes_to(pilot, Phase.FAILED)
        assert status(app) == str(error)
        nursery.choose_error = None
        await accept(pilot)
        await comes_to(pilot, Phase.RUNNING)


async def test_a_transfer_that_fails_is_said_in_place_and_goes_on_when_told(
    stage: Stage, nursery: Nursery
) -> None:
    error = DownloadFailed("There is no room: 7.8 GiB are needed and 2.0 GiB are free.")
    nursery.pull_error = error
    nursery.gate.set()
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await comes_to(pilot, Phase.FAILED)
        assert status(app) == str(error)
        nursery.pull_error = None
        await accept(pilot)
        await comes_to(pilot, Phase.DONE)


async def test_offline_is_said_at_once_and_a_file_can_be_imported(
    stage: Stage, nursery: Nursery
) -> None:
    nursery.made = Offer(
        host=HOST, directory=Path("/x"), free_bytes=GIB, license=None, refusal=OFFLINE
    )
    app = stage.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        await comes_to(pilot, Phase.FAILED)
        assert status(app) == OFFLINE
        await accept(pilot)  # try again: still off
        await until(pilot, lambda: len(nursery.offered) == 2)
        await comes_to(pilot, Phase.FAILED)
        await pilot.press("right", "enter")
        await reaches(pilot, ImportScreen)
    assert (nursery.asked, nursery.pulled) == ([], [])


async def test_settings_that_cannot_be_read_are_said_in_place(
    stage: Stage, nursery: Nursery
) -> None:
    nursery.offer_error = UsageError("settings.toml line 1: 'ofline' is not a setting.")
    app = stage.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        assert status(app) == str(nursery.offer_error)
        nursery.offer_error = None
        await accept(pilot)
        await comes_to(pilot, Phase.OFFERED)


async def test_a_file_much_larger_than_was_said_is_asked_for_again(
    stage: Stage, nursery: Nursery
) -> None:
    nursery.size_bytes = 12 * GIB
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await until(pilot, lambda: "12.0 GiB and not 7.8 GiB" in status(app))
        assert nursery.pulled == []
        await accept(pilot)
        await comes_to(pilot, Phase.RUNNING)
    assert len(nursery.asked) == 1


async def test_too_little_room_is_said_before_anybody_is_asked(
    stage: Stage, nursery: Nursery
) -> None:
    nursery.made = Offer(host=HOST, directory=Path("/x"), free_bytes=GIB, license=None)
    app = stage.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        assert "There is room for 1.0 GiB only: free 6.8 GiB first." in status(app)
    assert nursery.asked == []


async def test_a_gated_repository_is_said_to_be_one(stage: Stage, nursery: Nursery) -> None:
    nursery.gated = True
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(pilot)
        await comes_to(pilot, Phase.RUNNING)
        await sees(pilot, "accept terms first")


async def test_two_keys_in_the_same_moment_download_once(stage: Stage, nursery: Nursery) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        button = app.screen.query_one("#download")
        button.press()  # type: ignore[attr-defined]
        button.press()  # type: ignore[attr-defined]
        await comes_to(pilot, Phase.RUNNING)
        await pilot.pause()
    assert len(nursery.pulled) == 1


async def test_a_failure_that_nobody_foresaw_is_said_and_not_swallowed(
    stage: Stage, nursery: Nursery
) -> None:
    nursery.install = None  # its AssertionError stands for any bug
    nursery.gate.set()
    app = stage.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await sees(pilot, "This is a bug in localllm")
