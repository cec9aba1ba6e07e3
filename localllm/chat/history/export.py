"""Write a conversation to a file for others: Markdown and HTML of the branch that is shown, JSON of
all of it. Such a file is not encrypted: it is where the person wants it, readable by them alone.
"""

import base64
import contextlib
import html
import os
import re
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from localllm.chat.conversation import Attachment, ChatMessage, Conversation
from localllm.chat.history.titles import title_of
from localllm.core.text import single_line, strip_controls
from localllm.engine.messages import Role
from localllm.errors import StoreError, UsageError
from localllm.library.files.names import printable
from localllm.translation import _

JSON_FORMAT, JSON_VERSION = "localllm conversation", 1

_SHOWN_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_DEVICE = re.compile("con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)
"""Names that Windows takes for devices, whatever their ending."""
_STYLE = (
    "body{max-width:48em;margin:2em auto;padding:0 1em;font:16px/1.5 system-ui,sans-serif;"
    "color-scheme:light dark}pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit}"
    ".user{border-left:.25em solid #4a8;padding-left:1em;font-weight:600}"
    "footer,.meta,details{opacity:.75}img{max-width:100%}"
)


class ExportFormat(StrEnum):
    """The kinds of files, by their ending."""

    MARKDOWN = "md"
    JSON = "json"
    HTML = "html"


def format_of(path: Path) -> ExportFormat:
    """Return the format that a file's ending means. Raises UsageError."""
    ending = path.suffix.lower().removeprefix(".")
    try:
        return ExportFormat({"markdown": "md", "htm": "html"}.get(ending, ending))
    except ValueError:
        raise UsageError(
            _("The ending of {file} says no format. Use .md, .json or .html.").format(
                file=printable(path)
            )
        ) from None


def file_name(conversation: Conversation, form: ExportFormat) -> str:
    """Make a file's name of the title: plain letters on every system."""
    words = "".join(each if each.isalnum() else " " for each in title_of(conversation)).split()
    name = "-".join(words)[:60] or "chat"
    return f"{'chat-' if _DEVICE.fullmatch(name) else ''}{name}.{form.value}"


def write_export(conversation: Conversation, path: Path) -> Path:
    """Write the conversation to a new file, in the format of its ending, and return it. Raises
    UsageError for an ending that says none and for a file that is there, StoreError when it cannot
    be written."""
    text = exported(conversation, format_of(path))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            _("{file} is there already. Choose another name.").format(file=printable(path))
        ) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()
        raise StoreError(
            _("{file} cannot be written: {reason}.").format(
                file=printable(path), reason=error.strerror or error
            )
        ) from error
    return path


def exported(conversation: Conversation, form: ExportFormat) -> str:
    """Return the text of a file."""
    match form:
        case ExportFormat.JSON:
            return _json(conversation)
        case ExportFormat.HTML:
            return "\n".join(_html(conversation)) + "\n"
        case ExportFormat.MARKDOWN:
            return "\n\n".join(_markdown(conversation)) + "\n"


class ExportedConversation(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of a whole conversation: every version, every setting."""

    format: str = JSON_FORMAT
    version: int = JSON_VERSION
    conversation: Conversation


def _json(conversation: Conversation) -> str:
    document = ExportedConversation(conversation=conversation)
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _markdown(conversation: Conversation) -> Iterator[str]:
    yield f"# {title_of(conversation)}"
    if system := conversation.settings.system.strip():
        yield _("System prompt") + f":\n\n{_fenced(system)}"
    for message in conversation.path():
        yield f"## {_speaker(message)}"
        for each in message.attachments:
            yield f"{single_line(each.name)}" + (f":\n\n{_fenced(each.text)}" if each.text else "")
        if message.reasoning:
            summary = _("Reasoning")
            reasoning = _fenced(message.reasoning)
            yield f"<details><summary>{summary}</summary>\n\n{reasoning}\n\n</details>"
        if text := strip_controls(message.text).strip():
            yield text
        for cited in message.citations:
            yield f"[{cited.number}] {single_line(cited.path)}:{cited.line}"


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{strip_controls(text)}\n{fence}"


def _html(conversation: Conversation) -> Iterator[str]:
    title = html.escape(title_of(conversation))
    yield "<!doctype html>"
    yield '<meta charset="utf-8">'
    # Nothing in the file can be run or fetched, whatever a model wrote.
    yield (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">"
    )
    yield f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>"
    for message in conversation.path():
        kind = "user" if message.role is Role.USER else "answer"
        yield f'<section class="{kind}">\n<p class="meta">{html.escape(_speaker(message))}'
        yield "".join(map(_html_attachment, message.attachments))
        if message.reasoning:
            summary = html.escape(_("Reasoning"))
            yield f"<details><summary>{summary}</summary>{_pre(message.reasoning)}</details>"
        yield _pre(message.text)
        for cited in message.citations:
            place = html.escape(f"[{cited.number}] {single_line(cited.path)}:{cited.line}")
            yield f'<p class="meta">{place}</p>'
        yield "</section>"
    yield f"<footer>{html.escape(_('Written by localllm'))}</footer>"


def _html_attachment(attachment: Attachment) -> str:
    name = html.escape(single_line(attachment.name))
    if attachment.data and attachment.media_type in _SHOWN_IMAGES:
        data = base64.b64encode(attachment.data).decode()
        source = f"data:{attachment.media_type};base64,{data}"
        return f'<p class="meta">{name}</p><img alt="{name}" src="{source}">'
    return f"<details><summary>{name}</summary>{_pre(attachment.text)}</details>"


def _pre(text: str) -> str:
    return f"<pre>{html.escape(strip_controls(text))}</pre>"


def _speaker(message: ChatMessage) -> str:
    names = {Role.USER: _("You"), Role.TOOL: single_line(message.tool_name or "") or _("Tool")}
    name = names.get(message.role) or single_line(message.model) or _("Answer")
    if not message.created_s:
        return name
    try:
        when = datetime.fromtimestamp(message.created_s).astimezone()
    except (OverflowError, OSError, ValueError):  # a time from somebody else's file
        return name
    return f"{name}, {when:%Y-%m-%d %H:%M}"
