import asyncio
import os
import sys
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from localllm.chat.attachments.files import MAX_TEXT_BYTES, read_file
from localllm.chat.attachments.fitting import (
    FRAME_TOKENS,
    attachment_room,
    count_text,
    fit_attachments,
    shares,
)
from localllm.chat.attachments.path_completion import complete_path
from localllm.chat.attachments.pdf import PdfLimits, read_pdf
from localllm.chat.attachments.references import (
    file_references,
    reference_at,
    spelled,
)
from localllm.chat.attachments.text import decode_text
from localllm.chat.attachments.thumbnail import make_thumbnail
from localllm.chat.commands.completion import reference_completions
from localllm.chat.conversation import Attachment
from localllm.errors import NotFound, UsageError
from localllm.tui.widgets.picture import picture_strips
from tests.chat.pdf_files import pdf_bytes
from tests.chat.pictures import png_bytes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_a_text_is_read_in_every_encoding_that_can_be_known(encoding: str) -> None:
    text = "Straße, 10 €\r\nnaïve\rend\n"
    decoded = decode_text(text.encode(encoding))
    assert decoded.text == "Straße, 10 €\nnaïve\nend\n"
    assert decoded.remark == ""


def test_an_old_windows_text_is_guessed_with_a_word() -> None:
    decoded = decode_text("Straße, 10 €".encode("cp1252"))
    assert decoded.text == "Straße, 10 €"
    assert "Windows-1252" in decoded.remark


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_a_text_or_a_refusal(data: bytes, cut: bool) -> None:
    try:
        decoded = decode_text(data, cut=cut)
    except UsageError:
        return
    assert "\r" not in decoded.text


def test_a_character_that_was_cut_at_the_end_is_left_out() -> None:
    assert decode_text("für".encode()[:2], cut=True) == decode_text(b"f")


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"PK\x03\x04\x00\x00", "a.docx", "Office document"),
        (b"\x7fELF\x00\x01", "a.txt", "ELF"),
        (b"abc\x00def", "a.txt", "bytes that no text has"),
        (b"  \n", "a.txt", "empty"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "a.png", "PNG, JPEG, GIF and BMP"),
        (b"\x89PNG\r\n\x1a\nxx", "a.md", "ends inside its header"),
    ],
)
async def test_what_no_model_reads_is_refused_with_the_reason(
    data: bytes, name: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageError, match=f"^{name}: .*{words}"):
        await read_file(path)


async def test_folders_pipes_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        await read_file(tmp_path)
    with pytest.raises(NotFound, match="no file"):
        await read_file(tmp_path / "none")
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UsageError, match="pipe"):
            await read_file(tmp_path / "pipe")


async def test_a_file_is_what_its_bytes_are(tmp_path: Path) -> None:
    picture = tmp_path / "picture.txt"
    picture.write_bytes(png_bytes(3, 2))
    read = await read_file(picture)
    assert (read.media_type, read.attachment().data) == ("image/png", png_bytes(3, 2))
    text = tmp_path / "BM.md"
    text.write_text("BMW and others, a list of makers")
    assert (await read_file(text)).attachment() == Attachment(
        name="BM.md", media_type="text/markdown", text="BMW and others, a list of makers"
    )


async def test_of_a_huge_text_the_beginning_is_read_with_a_word(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a line\n" * (MAX_TEXT_BYTES // 7 + 10))
    read = await read_file(path)
    assert len(read.text) == MAX_TEXT_BYTES
    assert "Only the first 16.0 MiB" in read.remarks[0]


async def test_pdf_files_are_read_or_refused_in_plain_words(tmp_path: Path) -> None:
    content = pdf_bytes(["First page (of three)", "", "The third says: find"])
    files = {"good": content, "cut": content[: len(content) // 3], "scan": pdf_bytes(["", ""])}
    writer = PdfWriter(PdfReader(BytesIO(content)))
    writer.encrypt("secret")
    locked = BytesIO()
    writer.write(locked)
    files["locked"] = locked.getvalue()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    results = await asyncio.gather(
        *(read_file(tmp_path / name) for name in files), return_exceptions=True
    )
    good, cut, scan, encrypted = results
    assert not isinstance(good, BaseException)
    assert good.attachment().text == (
        "[page 1]\nFirst page (of three)\n\n[page 2]\n\n\n[page 3]\nThe third says: find"
    )
    assert good.remarks == ("1 of 3 pages has no text, only pictures.",)
    assert "damaged" in str(cut)
    assert "OCR" in str(scan)
    assert "password" in str(encrypted)


async def test_a_pdf_that_never_ends_is_given_up_and_keeps_what_was_read(tmp_path: Path) -> None:
    page = '{"page": 1, "text": "one", "failed": 0}'
    endless = f"import time; print('{{\"pages\": 9}}\\n{page}', flush=True)"
    program = (sys.executable, "-c", f"{endless}; time.sleep(600)")
    read = await read_pdf(tmp_path / "x.pdf", PdfLimits(timeout_s=2), program=program)
    assert read.pages == ("one",)
    assert read.remark == "Only 1 of 9 pages were read: it took longer than 2 s."


async def by_words(text: str) -> tuple[bytes, ...]:
    """A tokenizer of words, each with the white space behind it."""
    words = text.replace(" ", " \0").split("\0")
    return tuple(word.encode() for word in words if word)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=6), st.integers(-5, 120))
def test_shares_use_the_room_and_favour_nobody(needs: list[int], room: int) -> None:
    given_to = shares(needs, room)
    assert sum(given_to) <= max(0, room)
    assert all(0 <= each <= need for each, need in zip(given_to, needs, strict=True))
    if sum(needs) <= room:
        assert given_to == tuple(needs)
    short = [each for each, need in zip(given_to, needs, strict=True) if each < need]
    assert not short or max(given_to) - min(short) <= 1


async def test_small_files_stay_whole_and_large_ones_are_cut_with_a_word() -> None:
    small = Attachment(name="s", media_type="text/plain", text="a b c")
    large = Attachment(name="l", media_type="text/plain", text="w " * 1000)
    first, second = await fit_attachments((large, small), by_words, room=103 + 2 * FRAME_TOKENS)
    assert second == Attachment(name="s", media_type="text/plain", text="a b c", tokens=3)
    assert (first.tokens, first.cut_tokens) == (100, 900)
    assert first.text.startswith("w w ")
    assert first.text.endswith("w\n[the rest of this file is left out: it does not fit]")
    (gone,) = await fit_attachments((large,), by_words, room=0)
    assert (gone.text, gone.tokens, gone.cut_tokens) == ("", 0, 1000)


async def test_the_rest_of_a_very_long_text_is_estimated() -> None:
    counted = await count_text("word " * 200_000, by_words, limit=10)
    assert counted.text == "word " * 10
    assert counted.tokens + counted.left_out == pytest.approx(200_000, rel=0.01)


def test_files_get_half_of_the_context_where_the_conversation_leaves_less() -> None:
    assert attachment_room(context=4000, used=1000, question=100) == 1900
    assert attachment_room(context=4000, used=2900, question=100) == 1450
    assert attachment_room(context=4000, used=0, question=5000) == 0


def test_names_behind_an_at_sign_are_found() -> None:
    text = """see @a.md, @"my notes.md" and @'x y' or me@home.org @ @~/z.pdf"""
    found = file_references(text)
    assert [each.path for each in found] == ["a.md,", "my notes.md", "x y", "~/z.pdf"]


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_characters="\n\r\"'", exclude_categories=["C"]), min_size=1))
def test_what_is_spelled_is_read_back(path: str) -> None:
    (found,) = file_references(f"see {spelled(path)} there")
    assert found.path == path


@pytest.mark.parametrize(
    ("text", "path"),
    [("@", ""), ("ask @no", "no"), ('@"my no', "my no"), ('@"my"', None), ("a@b", None)],
)
def test_the_name_that_is_being_typed(text: str, path: str | None) -> None:
    found = reference_at(text + " behind", len(text))
    assert (found.path if found else None) == path


def test_paths_are_completed_with_folders_first(tmp_path: Path) -> None:
    for name in ("Notes.md", "nodes.txt", ".hidden", "with blank.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / "novels").mkdir()
    (tmp_path / "novels" / "one.md").write_text("x")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")

    def texts(typed: str, *, folders_only: bool = False) -> list[str]:
        found = complete_path(typed, base=tmp_path, folders_only=folders_only)
        assert not found.incomplete
        return [each.text for each in found.completions]

    assert texts("no") == ["novels/", "nodes.txt", "Notes.md"]
    assert texts("novels/") == ["novels/one.md"]
    assert texts(".h") == [".hidden"]
    assert ".hidden" not in texts("")
    assert "gone" in texts("")
    assert texts("n", folders_only=True) == ["novels/"]
    assert texts("none/x") == []
    (tmp_path / "new folder").mkdir()
    (tmp_path / "new folder" / "x y").write_text("x")
    typed = 'see @"new'
    for expected in ('@"new folder/', '@"new folder/x y"'):
        (completion,) = reference_completions(typed, tmp_path)
        assert (completion.text, completion.start) == (expected, len("see "))
        typed = "see " + completion.text
    assert list(reference_completions(typed, tmp_path)) == []
    assert texts(f"{tmp_path}/wi") == [f"{tmp_path}/with blank.md"]


async def test_a_picture_gets_a_small_copy_and_what_is_none_gets_none() -> None:
    wide, broken, text = await asyncio.gather(
        make_thumbnail(png_bytes(640, 100, (10, 20, 30))),
        make_thumbnail(png_bytes(10, 10)[:-30]),
        make_thumbnail(b"no picture"),
    )
    assert wide is not None
    assert (wide.width, wide.height, wide.pixel(63, 9)) == (64, 10, (10, 20, 30))
    assert (broken, text) == (None, None)
    strips = picture_strips(wide, 20)
    assert len(strips) == 2
    assert {strip.cell_length for strip in strips} == {16}
