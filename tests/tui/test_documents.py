"""Collections of documents in the app: add, index, use, look, erase; sources opened at their
place."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.containers import Vertical
from textual.widgets import DataTable, Input

from localllm.chat.conversation import Citation
from localllm.chat.documents.collection import CollectionInfo
from localllm.chat.documents.indexing import IndexProgress
from localllm.chat.documents.service import IndexState
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.documents.add_folder import AddFolderScreen
from localllm.tui.screens.documents.collections import CollectionsScreen
from localllm.tui.screens.documents.indexed_files import IndexedFilesScreen
from localllm.tui.screens.documents.source import SourceScreen, located
from localllm.tui.widgets.documents.collection_rows import CollectionRow, CollectionRows, state_line
from localllm.tui.widgets.documents.marked_text import MarkedText, wrapped
from tests.tui.actions import screen_text, wait_for_screen, wait_for_text, wait_until
from tests.tui.fixtures import AppFixture
from tests.tui.test_literal import text_of

LONG = "\n".join(f"line {number} of the text" for number in range(1, 200))


async def test_a_folder_is_added_indexed_used_looked_at_and_erased(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "[bold]a.md").write_text("# Pumps\n\nThe pump needs oil.")
    (folder / "b.txt").write_bytes(b"\x00\x01")
    app = app_fixture.app()
    results: list[tuple[str, ...] | None] = []
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_until(pilot, lambda: app.services is not None)
        app.push_screen(CollectionsScreen(), results.append)
        await wait_for_text(pilot, "There is no collection yet")
        await wait_for_text(pilot, "Searched by words alone")
        await pilot.press("a")
        await wait_for_screen(pilot, AddFolderScreen)
        app.screen.query_one(Input).value = str(tmp_path / "not")
        await wait_for_text(pilot, "▌ notes/")
        await pilot.press("tab")
        assert app.screen.query_one(Input).value == f"{folder}/"
        await wait_for_text(pilot, "2 files")
        await pilot.press("enter")
        await wait_for_text(pilot, "1 file · 1 passage")
        await wait_for_text(pilot, "1 cannot be read")
        assert "▌ ✓ notes" in screen_text(app)
        await pilot.press("space", "escape")
        assert results == [()]


async def test_what_is_indexed_is_listed_updated_and_erased(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "[bold]a.md").write_text("# Pumps\n\nThe pump needs oil.")
    (folder / "b.txt").write_bytes(b"\x00\x01")
    app = app_fixture.app()
    results: list[tuple[str, ...] | None] = []
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_until(pilot, lambda: app.services is not None)
        app.services.documents.collections.create(folder)
        app.push_screen(CollectionsScreen(("notes", "gone")), results.append)
        await wait_for_text(pilot, "2 files have changed: u updates")
        await pilot.press("u")
        await wait_for_text(pilot, "1 file · 1 passage")
        await pilot.press("enter")
        await wait_for_screen(pilot, IndexedFilesScreen)
        assert app.screen.query_one(DataTable).row_count == 2
        assert "[bold]a.md" in screen_text(app)
        assert "✗ It is no text" in screen_text(app)
        await pilot.press("escape")
        await wait_for_screen(pilot, CollectionsScreen)
        await wait_for_text(pilot, "up to date")
        await pilot.press("backspace")
        await wait_for_screen(pilot, Dialog)
        await pilot.press("right", "enter")
        await wait_for_text(pilot, "There is no collection yet")
        await pilot.press("escape")
        assert results[-1] == ()


async def test_a_source_is_opened_at_its_place(app_fixture: AppFixture, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text(LONG)
    (folder / "b.txt").write_text("gone soon")
    sources = (
        Citation(number=1, collection="notes", path="a.txt", line=90,
                 text="line 90 of the text\nline 91 of the text"),
        Citation(number=2, collection="notes", path="b.txt", line=1, text="gone soon"),
    )  # fmt: skip
    app = app_fixture.app()
    async with app.run_test(size=(60, 20)) as pilot:
        await wait_until(pilot, lambda: app.services is not None)
        documents = app.services.documents
        documents.collections.create(folder)
        (folder / "b.txt").unlink()
        app.push_screen(SourceScreen(documents, sources, 1))
        await wait_for_text(pilot, "▌ line 90 of the text")
        assert "▌ line 91 of the text" in screen_text(app)
        assert "[1] a.txt · line 90 · notes" in screen_text(app)
        assert "  line 89 of the text" in screen_text(app)
        await pilot.press("n")
        await wait_for_text(pilot, "Only what was indexed can be shown")
        assert "▌ gone soon" in screen_text(app)
        await pilot.resize_terminal(30, 8)
        await pilot.press("p")
        await wait_for_text(pilot, "line 90")
        await pilot.press("escape")
        await wait_until(pilot, lambda: not app.screen.query(MarkedText))


def test_a_passage_that_moved_is_found_and_one_that_is_gone_is_told() -> None:
    source = Citation(number=1, collection="c", path="a", line=2, text="two\nthree")
    assert located("one\ntwo\nthree", source).marked == range(2, 4)
    moved = located("zero\none\ntwo\nthree", source)
    assert moved.marked == range(3, 5)
    assert "has changed" in moved.remark
    gone = located("one", source)
    assert "not in it any more" in gone.remark
    table = Citation(number=1, collection="c", path="a.csv", line=9, text="name,price\nx,9")
    assert located("name,price\n" * 8 + "x,9", table).remark == ""


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["C"]), max_size=80), st.integers(2, 30))
def test_wrapping_loses_nothing_and_keeps_to_the_width(line: str, width: int) -> None:
    pieces = wrapped(line, width)
    assert "".join("".join(pieces).split()) == "".join(line.split())
    assert all(cell_len(piece) <= width for piece in pieces)


def test_how_indexing_stands_is_one_line() -> None:
    info = CollectionInfo(id="1", name="n", root="/r", created_s=0.0, indexed_s=5.0)
    progress = IndexProgress(
        path="a.pdf", files_done=3, files_total=9, bytes_done=50, bytes_total=100, remaining_s=130.0
    )
    running = CollectionRow(info=info, state=IndexState(progress=progress))
    assert state_line(running) == ("▓▓▓▓▓▓▓▓▓▓░░░░░░░░░░ 50% · 3 of 9 files · 2m 10s left · a.pdf")
    stopped = IndexState(progress=progress, running=False, stopped=True)
    line = state_line(CollectionRow(info=info, state=stopped))
    assert line == "stopped; u goes on · words alone · /r"
    failed = IndexState(progress=progress, running=False, error="No room.")
    assert state_line(CollectionRow(info=info, state=failed)) == "No room. · /r"


async def test_names_and_texts_of_documents_are_no_markup_and_no_escapes() -> None:
    hostile, raw = "[/INST] [bold]", "\x1b]0;owned\x07[/INST] [bold]"
    info = CollectionInfo(id="1", name=raw, root=raw, created_s=0.0)
    rows, text = CollectionRows(), MarkedText()

    def show() -> None:
        rows.show([CollectionRow(info=info)])
        text.show(f"{raw}\n{raw}", marked=range(1, 2))

    shown = await text_of(Vertical(rows, text), show)
    assert shown.count(hostile) == 4
    assert "owned" not in shown
