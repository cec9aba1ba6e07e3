"""Read the conversations in a file of another program, or one that we have written ourselves.

A file from elsewhere may hold anything: its size, depth and counts have limits, what it says is
checked for its type, and nothing in it is run, fetched or used as a path.
"""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from localllm.chat.conversation import Conversation
from localllm.chat.history.export import JSON_FORMAT, ExportedConversation
from localllm.chat.history.importing.llm_logs import read_llm_logs
from localllm.chat.history.importing.nodes import made_id, mapping
from localllm.chat.history.importing.programs import jan, reader_of
from localllm.chat.history.records import connected
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError, UsageError
from localllm.library.files.names import printable
from localllm.translation import _

MAX_FILE_BYTES = 2**30
MAX_CONVERSATIONS = 100_000
_SQLITE = b"SQLite format 3\0"
_MEMBERS = ("conversations.json", ".conversation.json")
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was in a file. `skipped` counts what looked like a conversation and could not be
    read, or had no text in it."""

    conversations: tuple[Conversation, ...]
    skipped: int = 0


def read_import(path: Path) -> Imported:
    """Read a file: conversations.json of ChatGPT or Claude (or the ZIP it came in), Open WebUI's
    export, LM Studio's *.conversation.json, Jan's messages.jsonl, the logs.db of llm, or what
    was exported here as JSON. Raises UsageError with what is wrong with the file."""
    found: dict[str, Conversation] = {}
    skipped = 0
    for each in _conversations(path):
        if each is None:
            skipped += 1
        elif len(found) < MAX_CONVERSATIONS:
            found.setdefault(each.id, each)
        else:
            skipped += 1
    if not found:
        raise UsageError(_("No conversations were found in {file}.").format(file=printable(path)))
    return Imported(conversations=tuple(found.values()), skipped=skipped)


def _conversations(path: Path) -> Iterator[Conversation | None]:
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE))
        size = path.stat().st_size
        if start == _SQLITE:
            yield from read_llm_logs(path)
        elif start.startswith(_ZIP):
            yield from _of_zip(path)
        elif size > MAX_FILE_BYTES:
            raise UsageError(_too_large(path))
        else:
            yield from _of_text(path.read_bytes(), path.name, path.parent.name)
    except LocalLLMError:
        raise
    except OSError as error:
        raise UsageError(
            _("{file} cannot be read: {reason}.").format(
                file=printable(path), reason=error.strerror or error
            )
        ) from error


def _of_zip(path: Path) -> Iterator[Conversation | None]:
    left = MAX_FILE_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.lower().endswith(_MEMBERS):
                    continue
                with archive.open(member) as file:
                    data = file.read(left + 1)
                if (left := left - len(data)) < 0:
                    raise UsageError(_too_large(path))
                yield from _of_text(data, member.filename, "")
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            _("{file} is a damaged ZIP, or an encrypted one.").format(file=printable(path))
        ) from error


def _of_text(data: bytes, name: str, folder: str) -> Iterator[Conversation | None]:
    if name.lower().endswith(".jsonl"):
        lines = [_decoded(line, name) for line in data.splitlines() if line.strip()]
        yield jan([mapping(line) for line in lines], folder)
        return
    document = _decoded(data, name)
    several = document if isinstance(document, list) else [document]
    for each in several:
        yield _conversation(mapping(each))


def _conversation(document: Mapping[str, object]) -> Conversation | None:
    if document.get("format") == JSON_FORMAT:
        return _own(document)
    reader = reader_of(document)
    return None if reader is None else reader(document)


def _own(document: Mapping[str, object]) -> Conversation | None:
    try:
        made = msgspec.convert(document, ExportedConversation).conversation
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    tree = connected(made.messages, made.leaf)
    if not tree.messages:
        return None
    return replace(made, id=made_id(f"localllm/{made.id}"), messages=tree.messages, leaf=tree.leaf)


def _decoded(data: bytes, name: str) -> object:
    try:
        return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise UsageError(
            _("{file} is no file that can be taken over: it is not valid JSON.").format(
                file=printable(Path(name))
            )
        ) from None


def _too_large(path: Path) -> str:
    return _("{file} holds more than {size}: that is not taken over.").format(
        file=printable(path), size=format_bytes(MAX_FILE_BYTES)
    )
