"""The JSON Schema of a conversation: read from what was typed or from a file, and judged before the
first question is asked with it."""

import json
from dataclasses import dataclass
from pathlib import Path

from localllm.core.json_schema import normalize
from localllm.core.text import single_line
from localllm.engine.messages.limits import MAX_GRAMMAR_CHARS
from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.translation import _

ANY_OBJECT = '{"type": "object"}'
"""Answers are JSON, of any shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSchema:
    """A schema as it is sent, and what of it an answer is checked for only when it is finished."""

    text: str
    unenforced: tuple[str, ...] = ()


def read_schema(text: str) -> ReadSchema:
    """Read a JSON Schema: its text, "json" for any object, or a file's path. Raises UsageError."""
    text = text.strip()
    if text.lower() == "json":
        return ReadSchema(text=ANY_OBJECT)
    if not text.startswith("{"):
        text = _file_text(text)
    return check_schema(text)


def check_schema(text: str) -> ReadSchema:
    """Judge the text of a schema. Raises UsageError that says what is wrong and where."""
    if len(text) > MAX_GRAMMAR_CHARS:
        raise UsageError(
            _("The JSON Schema has {count} characters; at most {most} are accepted.").format(
                count=len(text), most=MAX_GRAMMAR_CHARS
            )
        )
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            _("The JSON Schema is no JSON: {reason}, line {line}, column {column}.").format(
                reason=error.msg, line=error.lineno, column=error.colno
            )
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(_("The JSON Schema is no JSON: it is nested too deep.")) from None
    if not isinstance(schema, dict):
        raise UsageError(_("A JSON Schema is an object: it begins with a curly bracket."))
    normalized = normalize(schema)
    if normalized.schema is False or normalized.schema == {"anyOf": [False]}:
        raise UsageError(_("No value can follow this JSON Schema: its rules exclude each other."))
    return ReadSchema(text=text, unenforced=tuple(str(each) for each in normalized.unenforced))


def _file_text(name: str) -> str:
    path = paths.absolute(Path(name))
    try:
        with path.open("rb") as file:
            return file.read(MAX_GRAMMAR_CHARS * 4 + 1).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(
            _("There is no file {name} with a JSON Schema.").format(name=single_line(name))
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or _("it is not UTF-8 text")
        raise UsageError(
            _("{name} cannot be read: {reason}.").format(name=single_line(name), reason=reason)
        ) from None
