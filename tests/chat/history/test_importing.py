"""Conversations of other programs: what is in their files, and files that mean harm."""

import io
import json
import sqlite3
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.conversation import Conversation
from localllm.chat.history.export import ExportFormat, exported
from localllm.chat.history.importing import read
from localllm.chat.history.importing.nodes import time_s
from localllm.chat.history.importing.programs import chatgpt, claude, lm_studio, open_webui
from localllm.chat.history.importing.read import read_import
from localllm.errors import UsageError
from tests.chat.history.conversations import conversation


def node(name: str, parent: str | None, role: str, *parts: object) -> dict[str, object]:
    content = {"content_type": "text", "parts": list(parts)}
    message = {"id": name, "author": {"role": role}, "content": content, "create_time": 5.0}
    return {"id": name, "parent": parent, "children": [], "message": message}


CHATGPT = {
    "conversation_id": "c1",
    "title": "Sky",
    "create_time": 1.5,
    "update_time": 9.5,
    "current_node": "a1",
    "mapping": {
        "root": {"id": "root", "parent": None, "message": None},
        "s": node("s", "root", "system", ""),
        "a2": node("a2", "q", "assistant", "Other."),
        "a1": node("a1", "q", "assistant", "Blue.", {"text": "Really."}, {"asset": "x"}),
        "q": node("q", "s", "user", "Why?"),
    },
}
CLAUDE = {
    "uuid": "u",
    "name": "Clouds",
    "created_at": "2025-10-01T18:42:27.303515Z",
    "updated_at": "2025-10-01T18:43:00Z",
    "chat_messages": [
        {
            "uuid": "1",
            "sender": "human",
            "text": "Names?",
            "content": [],
            "attachments": [{"file_name": "a.txt", "extracted_content": "text"}],
        },
        {
            "uuid": "2",
            "sender": "assistant",
            "text": "",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Cirrus"}],
        },
    ],
}
OPEN_WEBUI = {
    "id": "o",
    "created_at": 1700000000,
    "pinned": True,
    "chat": {
        "title": "Regex",
        "history": {
            "currentId": "2",
            "messages": {
                "2": {"parentId": "1", "role": "assistant", "content": "x+", "model": "llama"},
                "1": {"parentId": None, "role": "user", "content": "regex?"},
            },
        },
    },
}
LM_STUDIO = {
    "name": "Trip",
    "createdAt": 1700000000000,
    "messages": [
        {"versions": [{"role": "user", "content": [{"type": "text", "text": "Pack?"}]}]},
        {
            "currentlySelected": 1,
            "versions": [
                {"role": "assistant", "content": "old"},
                {
                    "role": "assistant",
                    "type": "multiStep",
                    "senderInfo": {"senderName": "qwen"},
                    "steps": [
                        {"type": "contentBlock", "content": [{"type": "text", "text": "Socks."}]},
                        {"type": "debugInfoBlock", "content": "no"},
                    ],
                },
            ],
        },
    ],
}
JAN = [
    {
        "id": "m1",
        "thread_id": "t",
        "role": role,
        "created_at": 1700000000,
        "content": [{"type": "text", "text": {"value": value, "annotations": []}}],
    }
    | {"id": value}
    for role, value in (("user", "Hi!"), ("assistant", "Hello."))
]


def texts(made: Conversation | None) -> list[str]:
    assert made is not None
    return [each.text for each in made.path()]


def test_each_program_is_read() -> None:
    sky = chatgpt(CHATGPT)
    assert sky is not None
    assert texts(sky) == ["Why?", "Blue.\n\nReally."]
    assert (sky.title, sky.created_s, sky.updated_s, len(sky.messages)) == ("Sky", 1.5, 9.5, 3)
    clouds = claude(CLAUDE)
    assert clouds is not None
    assert texts(clouds) == ["Names?", "Cirrus"]
    assert clouds.messages[1].reasoning == "hm"
    assert clouds.messages[0].attachments[0].text == "text"
    regex = open_webui(OPEN_WEBUI)
    assert regex is not None
    assert (texts(regex), regex.pinned, regex.model) == (["regex?", "x+"], True, "llama")
    trip = lm_studio(LM_STUDIO)
    assert trip is not None
    assert (texts(trip), trip.model, trip.created_s) == (["Pack?", "Socks."], "qwen", 1.7e9)


def test_files_are_told_apart_also_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([CHATGPT, CLAUDE, OPEN_WEBUI, LM_STUDIO, {"x": 1}, 3]))
    imported = read_import(path)
    assert (len(imported.conversations), imported.skipped) == (4, 2)
    assert read_import(path).conversations == imported.conversations
    packed = tmp_path / "export.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(path, "deep/conversations.json")
        archive.writestr("user.json", "{")
    assert read_import(packed).conversations == imported.conversations
    lines = tmp_path / "My thread" / "messages.jsonl"
    lines.parent.mkdir()
    lines.write_text("\n".join(json.dumps(each) for each in JAN))
    (thread,) = read_import(lines).conversations
    assert (thread.title, texts(thread)) == ("My thread", ["Hi!", "Hello."])
    made = conversation("Why?", "So.")
    own = tmp_path / "chat.json"
    own.write_text(exported(made, ExportFormat.JSON))
    (back,) = read_import(own).conversations
    assert back.messages == made.messages


def test_the_logs_of_llm_are_read_and_nothing_else_of_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE conversations (id TEXT PRIMARY KEY, name TEXT, model TEXT)")
        database.execute(
            "CREATE TABLE responses (id TEXT, model TEXT, prompt TEXT, response TEXT,"
            " conversation_id TEXT, datetime_utc TEXT)"
        )
        database.execute("INSERT INTO conversations VALUES ('c', 'Cakes', 'm')")
        rows = [
            ("2", "m", "more", "four", "c", "2025-01-02"),
            ("1", "m", "ten", "one", "c", "2025-01-01"),
        ]
        database.executemany("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?)", rows)
    database.close()
    (made,) = read_import(path).conversations
    assert (made.title, texts(made)) == ("Cakes", ["ten", "one", "more", "four"])
    hostile = tmp_path / "view.db"
    with sqlite3.connect(hostile) as database:
        database.execute("CREATE TABLE conversations (id, name, model)")
        database.execute("CREATE VIEW responses AS SELECT 1 AS id")
    database.close()
    with pytest.raises(UsageError, match="another program"):
        read_import(hostile)


def test_hostile_and_broken_files_are_refused_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "conversations.json"
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", b"[" + b" " * 10_000_000)
    monkeypatch.setattr(read, "MAX_FILE_BYTES", 1_000_000)
    for data in (
        b"",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"PK\x03\x04 no zip",
        b"SQLite format 3\0 no database",
        bomb.getvalue(),
        b" " * 1_000_001,
    ):
        path.write_bytes(data)
        with pytest.raises(UsageError):
            read_import(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_import(tmp_path)


def test_circles_and_strangers_in_a_tree_end() -> None:
    mapping = {
        "a": node("a", "b", "user", "a"),
        "b": node("b", "a", "assistant", "b"),
        "c": node("c", "c", "user", "c"),
        "d": node("d", "nowhere", "assistant", "d"),
    }
    made = chatgpt({"mapping": mapping, "current_node": "b"})
    assert made is not None
    assert {each.text for each in made.messages} == {"c", "d"}
    deep = {str(n): node(str(n), str(n - 1), "user", "x") for n in range(30_000)}
    long = chatgpt({"mapping": deep})
    assert long is not None
    assert len(long.messages) == 20_000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["mapping", "message", "messages", "content", "parts", "role", "author", "parent",
             "chat", "history", "versions", "steps", "text", "name", "sender", "chat_messages",
             "create_time", "currentlySelected", "type", "attachments", "a", "user"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=80)
@given(VALUES)
def test_no_value_whatever_is_an_unforeseen_error(value: object) -> None:
    document = value if isinstance(value, dict) else {"messages": value, "mapping": value}
    for reader in (chatgpt, claude, open_webui, lm_studio):
        made = reader(document)
        if made is not None:
            made.path()
    assert time_s(value) >= 0
