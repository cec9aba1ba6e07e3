"""Conversations as files for others: everything is there, and nothing in it can act."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from localllm.chat.conversation import Attachment, Conversation
from localllm.chat.history.export import (
    ExportFormat,
    exported,
    file_name,
    format_of,
    write_export,
)
from localllm.errors import StoreError, UsageError
from tests.chat.history.conversations import answer, conversation, question

HOSTILE = "<script>alert(1)</script> \x1b]0;x\x07 \" onload='x' & ``` </pre><img src=http://x>"


def hostile() -> Conversation:
    asked = replace(
        question(HOSTILE),
        attachments=(
            Attachment(name=HOSTILE, media_type='image/png"x', data=b"x"),
            Attachment(name="a.png", media_type="image/png", data=b"\x89PNG"),
        ),
    )
    made = Conversation(title=HOSTILE).with_message(asked, after=None)
    full = replace(answer(HOSTILE), reasoning=HOSTILE, model=HOSTILE, created_s=1e30)
    return made.with_message(full, after=made.leaf)


def test_markdown_has_the_branch_that_is_shown() -> None:
    made = conversation("Why?", "Because.")
    text = exported(made, ExportFormat.MARKDOWN)
    assert text.startswith("# Why?\n\n## You, 1970")
    assert "\n\nBecause.\n" in text


def test_html_holds_no_element_of_what_was_written() -> None:
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(f"{tag} {attrs}")  # type: ignore[method-assign]
    text = exported(hostile(), ExportFormat.HTML)
    parser.feed(text)
    assert not any(each.startswith("script") for each in tags)
    assert [each for each in tags if each.startswith("img")] == [
        "img [('alt', 'a.png'), ('src', 'data:image/png;base64,iVBORw==')]"
    ]
    assert "\x1b" not in text
    assert "default-src 'none'" in text
    assert "alert(1)" in text


def test_every_format_is_written_to_a_new_private_file(tmp_path: Path) -> None:
    for form in ExportFormat:
        path = tmp_path / file_name(hostile(), form)
        write_export(hostile(), path)
        assert format_of(path) is form
        assert path.stat().st_mode & 0o777 == 0o600
        before = path.read_bytes()
        with pytest.raises(UsageError, match="there already"):
            write_export(conversation("x"), path)
        assert path.read_bytes() == before
    with pytest.raises(UsageError, match="says no format"):
        write_export(hostile(), tmp_path / "chat.exe")
    with pytest.raises(StoreError, match="cannot be written"):
        write_export(hostile(), tmp_path / "nowhere" / "chat.md")


def test_a_file_name_has_nothing_that_a_system_refuses() -> None:
    assert file_name(conversation("a/b: ../c?"), ExportFormat.HTML) == "a-b-c.html"
    assert file_name(conversation("///"), ExportFormat.JSON) == "chat.json"
    assert file_name(conversation("Con?"), ExportFormat.JSON) == "chat-Con.json"
