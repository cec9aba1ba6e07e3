"""The place of the models: one list of all there is, with bars that follow the keys."""

import re
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from localllm.core.recommend.repository import offers_of
from localllm.core.recommend.repository_files import RepoFile
from localllm.errors import HubError
from localllm.library.files import paths
from localllm.library.hub.file_list import HubFile
from localllm.library.hub.hub import HubRepo, SearchHit
from localllm.library.store.installed import InstalledModel
from localllm.runtime.hub_models import HubModels
from localllm.runtime.load_plan import read_spec
from localllm.tui.app import LocalLLMApp
from localllm.tui.downloads import DownloadState
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.models.dialogs.comparison import ComparisonScreen
from localllm.tui.screens.models.dialogs.filters import FilterScreen
from localllm.tui.screens.models.dialogs.scan import ScanScreen
from localllm.tui.screens.models.dialogs.transfers import TransfersScreen
from localllm.tui.screens.models.download import DownloadScreen, Phase
from localllm.tui.screens.models.filtering import Order, SortKey
from localllm.tui.screens.models.import_file import ImportScreen
from localllm.tui.screens.models.models import ModelsScreen
from localllm.tui.screens.models.table import ModelTable
from tests.tui.actions import screen_text, wait_for_screen, wait_for_text, wait_until
from tests.tui.fake_hub_source import COMMIT, SHA256, FakeHubSource, progress
from tests.tui.fixtures import AppFixture

GIB = 2**30
REPO = "someone/Odd-GGUF"


async def open_models(pilot: Pilot[None]) -> ModelTable:
    """To the place of the models, until every bar is there."""
    await pilot.press("f6")
    await wait_for_screen(pilot, ModelsScreen)
    table = pilot.app.screen.query_one(ModelTable)
    await wait_until(pilot, lambda: bool(table.visible_rows) and all_sized(table))
    return table


def all_sized(table: ModelTable) -> bool:
    rows = [row for row in table.visible_rows if row.candidate is not None]
    return all(row.key in table.known.sizes for row in rows)


async def find(pilot: Pilot[None], words: str) -> ModelTable:
    """Type into the filter, and go back to the list."""
    await pilot.press("slash")
    pilot.app.screen.query_one("#models-text", Input).value = words
    await pilot.press("enter")
    table = pilot.app.screen.query_one(ModelTable)
    await wait_until(pilot, lambda: table.has_focus and all_sized(table))
    return table


def caches(table: ModelTable) -> list[int]:
    """What the KV caches of the files on the screen take now, in bytes."""
    return [
        sum(share.kv_bytes for share in table.known.sizes[row.key].placement.devices)
        for row in table.visible_rows
        if row.key in table.known.sizes
    ]


async def wait_for_change(
    pilot: Pilot[None], table: ModelTable, before: list[int], *, larger: bool
) -> list[int]:
    """Wait until all bars on the screen are drawn again, and all are larger, or smaller."""

    def moved() -> bool:
        now = caches(table)
        if len(now) != len(before) or not all_sized(table):
            return False
        pairs = zip(before, now, strict=True)
        return all(one < other if larger else one > other for one, other in pairs)

    await wait_until(pilot, moved)
    return caches(table)


def details(app: LocalLLMApp) -> str:
    return str(app.screen.query_one("#models-details-text", Static).content)


async def wait_for_status(pilot: Pilot[None], text: str) -> None:
    await wait_until(pilot, lambda: text in " ".join(screen_text(pilot.app).split()))


async def test_the_whole_catalogue_is_one_list_whose_bars_follow_the_keys(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        table = await open_models(pilot)
        assert {line.group.name for line in table.lines} == set(app_fixture.catalogue)
        assert table.line is not None
        assert table.line.row is not None
        assert table.line.row.installed == app_fixture.starter  # what is here comes first
        await wait_for_text(pilot, "this machine, 16.0 GiB")
        await wait_for_text(pilot, "too big")

        # Filtered as one types; opened, every quant is a line of its own.
        table = await find(pilot, "qwen3-8b")
        assert [line.group.name for line in table.lines] == ["qwen3-8b"]
        await pilot.press("right")
        await wait_until(pilot, lambda: len(table.lines) > 6 and all_sized(table))

        # The context, the people and the cache move all bars at once.
        sizes = caches(table)
        for key in ("right_square_bracket", "right_curly_bracket"):
            await pilot.press(key)
            sizes = await wait_for_change(pilot, table, sizes, larger=True)
        await pilot.press("K")
        await wait_for_text(pilot, "KV ‹q8_0›")
        sizes = await wait_for_change(pilot, table, sizes, larger=False)
        await pilot.press("left_square_bracket", "left_curly_bracket")
        await wait_for_text(pilot, "at once ‹1›")
        await wait_for_change(pilot, table, sizes, larger=False)

        # The details give reasons, and how much more would fit.
        await pilot.press("down")
        await wait_until(pilot, lambda: "context up to" in details(app))
        assert "perplexity" in details(app)
        assert "KV" in details(app)


async def test_files_are_compared_filtered_and_ordered(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        table = await open_models(pilot)
        screen = app.screen
        assert isinstance(screen, ModelsScreen)
        await pilot.press("space", "down", "space")
        await wait_for_status(pilot, "2 marked: c compares them")
        await pilot.press("c")
        await wait_for_screen(pilot, ComparisonScreen)
        await wait_for_text(pilot, "largest context")
        both = re.compile(r"verdict +● fits +● fits")
        await wait_until(pilot, lambda: both.search(screen_text(app)) is not None)
        await pilot.press("escape")
        await wait_for_screen(pilot, ModelsScreen)
        await pilot.press("f", "left")  # what does not fit
        await wait_for_screen(pilot, FilterScreen)
        await wait_until(pilot, lambda: len(table.lines) == 1)
        await wait_for_text(pilot, "does not fit")
        await pilot.press("backspace", "escape")
        await wait_for_screen(pilot, ModelsScreen)
        assert len(table.lines) == len(app_fixture.catalogue)
        await pilot.press("o", "o", "O")
        await wait_until(pilot, lambda: screen.order == Order(key=SortKey.SIZE, reverse=True))
        assert table.lines[0].group.name == "llama-3.3-70b"
        await pilot.click(ModelTable, offset=(8, 0))  # the title of the first column
        await wait_until(pilot, lambda: screen.order == Order(key=SortKey.NAME))
        assert table.lines[0].group.name == "gemma-3-4b"
        await pilot.click(ModelTable, offset=(8, 2))
        await wait_until(pilot, lambda: table.line is table.lines[1])


async def test_every_size_from_tiny_to_huge_is_drawn(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(160, 48)) as pilot:
        await open_models(pilot)
        await wait_until(pilot, lambda: "largest context" in details(app))
        assert app.screen.has_class("-side")
        for width, height in ((80, 24), (60, 15), (200, 60), (100, 30)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            lines = screen_text(app).splitlines()
            assert len(lines) == height
            if width >= 80:
                assert any("│" in line and "░" in line for line in lines)


async def test_what_can_be_done_with_an_installed_model(
    app_fixture: AppFixture, smollm2: Path, tmp_path: Path
) -> None:
    link = tmp_path / "own.gguf"
    link.symlink_to(smollm2)
    model = app_fixture.store.adopt(link, name="own")
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_models(pilot)
        table = await find(pilot, "own")
        await pilot.press("right")
        await wait_until(pilot, lambda: len(table.lines) > 2)
        while (
            table.line is None
            or table.line.row is None
            or (
                not table.line.of_group
                or table.line.row.installed is None
                or table.line.row.installed.name != model.name
            )
        ):
            await pilot.press("down")

        await pilot.press("x")  # a dry run of llama.cpp itself
        await wait_for_status(pilot, "llama.cpp itself: own takes")
        await wait_until(pilot, lambda: "llama.cpp itself" in details(app))
        assert app_fixture.script.loads == []
        await pilot.press("v")
        await wait_for_status(pilot, "first digest recorded")
        await pilot.press("l")
        await wait_for_status(pilot, "own is loaded")
        await pilot.press("u")
        await wait_for_status(pilot, "own is unloaded")

        await pilot.press("backspace")  # asks; what enter takes keeps it
        await wait_for_screen(pilot, Dialog)
        await wait_for_text(pilot, "Nothing is freed")
        await pilot.press("enter")
        await wait_for_screen(pilot, ModelsScreen)
        assert [each.name for each in app_fixture.store.installed()] == ["own", "starter"]
        await pilot.press("backspace")
        await wait_for_screen(pilot, Dialog)
        await pilot.press("right", "enter")
        await wait_for_status(pilot, "own is not in the list any more")
        assert link.exists()
        assert [each.name for each in app_fixture.store.installed()] == ["starter"]

        table = await find(pilot, "starter")
        await pilot.press("i")
        await wait_for_screen(pilot, ImportScreen)
        await pilot.press("escape")
        await wait_for_screen(pilot, ModelsScreen)
        await pilot.press("home", "enter")
        await wait_for_screen(pilot, ChatScreen)


@pytest.fixture
def hub_source(app_fixture: AppFixture, smollm2: Path, tmp_path: Path) -> FakeHubSource:
    """A Hub with one repository, that a search finds, of two quants of the starter model."""

    def install() -> InstalledModel:
        file = tmp_path / "odd.gguf"
        file.symlink_to(smollm2)
        return app_fixture.store.adopt(file)

    header, size = read_spec(smollm2), smollm2.stat().st_size
    names = ("Odd-Q4_1.gguf", "Odd-Q8_0.gguf")
    sizes = (size, 145 * 2**20)
    listed = tuple(RepoFile(name=n, size_bytes=s) for n, s in zip(names, sizes, strict=True))
    repo = HubRepo(
        name=REPO,
        commit=COMMIT,
        files=tuple(HubFile(name=f.name, size_bytes=f.size_bytes, sha256=SHA256) for f in listed),
        gated=False,
        license="mit",
        tags=("gguf",),
        downloads=12,
        updated=None,
        endpoint="https://hub.example",
    )
    models = HubModels(repo=repo, header=header, contents=offers_of(REPO, header, listed))
    hit = SearchHit(name=REPO, downloads=12, likes=1, updated=None, gated=False, tags=("gguf",))
    app_fixture.source = source = FakeHubSource(
        install=install, hits=(hit,), repositories={REPO: models}, reported=(progress(2.0),)
    )
    return source


async def test_a_word_is_sent_to_the_hub_after_it_was_said_and_its_files_are_sized(  # noqa: PLR0915
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        table = await open_models(pilot)
        await pilot.press("h")  # there is no word yet
        await wait_for_status(pilot, "Write what to look for first")
        await pilot.press("escape")
        table = await find(pilot, "oddity")
        assert table.lines == ()
        await wait_for_text(pilot, 'asks hub.example for "oddity": sends these words')
        assert hub_source.searched == []
        await pilot.press("h")
        await wait_until(pilot, lambda: len(table.lines) == 1)
        assert hub_source.searched == ["oddity"]
        await wait_for_text(pilot, "12 downloads")
        await wait_for_text(pilot, f"enter asks hub.example for the list of files of {REPO}")
        await pilot.press("enter")
        await wait_until(pilot, lambda: len(table.lines) == 3 and all_sized(table))
        await pilot.press("down")
        assert table.line is not None
        assert table.line.row is not None
        assert table.known.sizes[table.line.row.key].fits

        # The download goes on in the background, also in another place.
        await pilot.press("enter")
        await wait_for_screen(pilot, DownloadScreen)
        await wait_until(
            pilot,
            lambda: isinstance(app.screen, DownloadScreen) and app.screen.phase is Phase.OFFERED,
        )
        await pilot.press("enter")
        await wait_until(pilot, lambda: states(app) == [DownloadState.RUNNING])
        assert hub_source.planned[0].quant == "Odd-Q4_1.gguf"
        await pilot.press("escape")
        await wait_for_screen(pilot, ModelsScreen)
        await pilot.press("f3")
        await wait_for_text(pilot, "↓ Odd-Q4_1")

        # Its window: stopped, resumed, done, opened.
        await pilot.press("f6", "t")
        await wait_for_screen(pilot, TransfersScreen)
        assert app.screen.styles.background.a < 1  # what is below the window is seen
        await wait_for_text(pilot, "2.0 GiB of 8.0 GiB")
        await pilot.press("p")
        await wait_until(pilot, lambda: states(app) == [DownloadState.PAUSED])
        await wait_for_text(pilot, "stopped")
        await pilot.press("p")
        await wait_until(pilot, lambda: states(app) == [DownloadState.RUNNING])
        await pilot.press("n")
        await wait_for_text(pilot, "2 at a time")
        hub_source.gate.set()
        await wait_until(pilot, lambda: states(app) == [DownloadState.DONE])
        await wait_for_text(pilot, "is here")
        await pilot.press("enter")
        await wait_for_screen(pilot, ChatScreen)


def states(app: LocalLLMApp) -> list[DownloadState]:
    return [item.state for item in app.services.downloads.items]


async def test_offline_and_a_hub_that_refuses_are_said_in_one_line(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    hub_source.refusal = "LOCALLLM_OFFLINE"
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_models(pilot)
        await find(pilot, "odd")
        await wait_for_text(pilot, "offline (LOCALLLM_OFFLINE)")
        await pilot.press("h")
        await pilot.pause()
        assert hub_source.searched == []
        hub_source.refusal = None
        await pilot.press("h")  # looks again
        await wait_for_text(pilot, 'asks hub.example for "odd"')
        hub_source.plan_error = HubError("hub.example cannot be reached. [/INST]")
        await pilot.press("h")
        await wait_for_status(pilot, "The Hub cannot be reached.")


async def test_models_of_other_programs_are_found_and_used_when_told(
    app_fixture: AppFixture, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "other.gguf").symlink_to(smollm2)
    app_fixture.starter = None
    monkeypatch.setenv("LLAMA_CACHE", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_models(pilot)
        await pilot.press("s")
        await wait_for_screen(pilot, ScanScreen)
        await wait_for_text(pilot, "1 model with")
        assert app_fixture.store.installed() == ()
        await wait_until(pilot, lambda: app.focused is not None and app.focused.id == "use")
        await pilot.press("enter")
        await wait_for_screen(pilot, ModelsScreen)
        assert len(app_fixture.store.installed()) == 1


async def test_a_stopped_download_of_before_is_in_the_window_and_can_be_cancelled(
    app_fixture: AppFixture, hub_source: FakeHubSource
) -> None:
    paths.downloads_file(paths.data_dir()).parent.mkdir(parents=True, exist_ok=True)
    paths.downloads_file(paths.data_dir()).write_text(
        '{"schema":1,"downloads":[{"repository":"orchard/quince-GGUF","quant":"Q4_K_M",'
        '"size_bytes":99,"revision":null}]}'
    )
    app = app_fixture.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_for_text(pilot, "1 download was stopped and can go on")
        await open_models(pilot)
        await pilot.press("t")
        await wait_for_screen(pilot, TransfersScreen)
        await wait_for_text(pilot, "quince Q4_K_M")
        await pilot.press("k")
        await wait_until(pilot, lambda: app.services.downloads.items == ())
    assert "quince" not in paths.downloads_file(paths.data_dir()).read_text()
