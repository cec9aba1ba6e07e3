"""The conversations in the database of `llm` (logs.db; docs/logging.md of simonw/llm)."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.history.importing.nodes import MAX_TEXT, chain, conversation, message
from localllm.errors import UsageError
from localllm.library.files.names import printable
from localllm.translation import _

_MAX_S = 60.0
_STEPS = 100_000
"""Steps of SQLite between two looks at the clock."""
_WANTED = ("id", "model", "prompt", "response", "conversation_id", "datetime_utc")


def read_llm_logs(path: Path) -> Iterator[Conversation | None]:
    """Yield the conversations of a database, which is opened to read alone. Raises UsageError for
    one of another program, or a damaged one."""
    try:
        with contextlib.closing(_opened(path)) as database:
            if not _is_logs(database):
                raise UsageError(
                    _("{file} is a database of another program.").format(file=printable(path))
                )
            yield from _conversations(database)
    except sqlite3.Error as error:
        raise UsageError(
            _("{file} cannot be read as a database: {reason}.").format(
                file=printable(path), reason=error
            )
        ) from error


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    deadline = time.monotonic() + _MAX_S
    database.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 4 * MAX_TEXT)
    # A file from elsewhere may define views and triggers that run what they like.
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("PRAGMA query_only=ON")
    return database


def _is_logs(database: sqlite3.Connection) -> bool:
    """Tell whether the tables are there: real ones, and neither views nor virtual tables."""
    found = dict(
        database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name IN"
            " ('responses', 'conversations')"
        )
    )
    plain = all(str(sql).upper().startswith("CREATE TABLE") for sql in found.values())
    columns = {row[1] for row in database.execute("PRAGMA table_info(responses)")}
    return len(found) == 2 and plain and columns.issuperset(_WANTED)


def _conversations(database: sqlite3.Connection) -> Iterator[Conversation | None]:
    named = database.execute("SELECT id, name FROM conversations")
    names = {_text(key): _text(name) for key, name in named}
    rows = database.execute(
        f"SELECT {', '.join(_WANTED)} FROM responses ORDER BY conversation_id, datetime_utc"
    )
    current, messages = None, list[ChatMessage | None]()
    for row in rows:
        name, model, prompt, response, conversation_id, when = map(_text, row)
        key = conversation_id or name
        if key != current:
            if messages:
                yield _made(current or "", names, messages)
            current, messages = key, []
        messages.append(message(key=f"{name}/q", role="user", body=prompt, created=when))
        messages.append(
            message(key=f"{name}/a", role="assistant", body=response, created=when, model=model)
        )
    if messages:
        yield _made(current or "", names, messages)


def _made(
    key: str, names: dict[str, str], messages: list[ChatMessage | None]
) -> Conversation | None:
    return conversation(key=f"llm/{key}", title=names.get(key, ""), nodes=chain(messages))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
