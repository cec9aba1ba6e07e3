"""The user's settings: settings.toml, and the environment on top of it.

Only what something uses is a setting. A key that is none is an error: a misspelt `offline` must
not be silently nothing.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core.text import single_line
from localllm.errors import UsageError
from localllm.library.files import paths

_ON, _OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user set, or what holds when nothing was set.

    `reserve_bytes` of free memory are never planned for a model; `context` is in tokens of one
    conversation, None: the verb's own default. `request_timeout_s`: after how long `serve` ends a
    request, None: never. `endpoints` are the Hub's mirrors in the order they
    are tried, none: the Hub itself; `ca_cert` is a file of certificates that are trusted too.
    `session_cache_bytes` is what the cells of kept conversations may take on the disk; 0: none are
    kept.
    """

    offline: bool = False
    reserve_bytes: int = 0
    context: int | None = None
    host: str = "127.0.0.1"
    port: int = 11711
    endpoints: tuple[str, ...] = ()
    ca_cert: str | None = None
    request_timeout_s: int | None = None
    session_cache_bytes: int = 4 * 2**30


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of settings.toml: the field it sets and what it may be. `low` and `high` bound a
    number; a list holds texts."""

    field: str
    kind: type[bool] | type[int] | type[str] | type[list[str]]
    low: int = 0
    high: int = 2**63 - 1

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, or None."""
        if type(value) is not self.kind or value == "":
            names = {
                bool: "true or false", int: "a whole number", str: "a text", list: "a list of texts"
            }  # fmt: skip
            return f"must be {names[self.kind]}"
        if isinstance(value, list) and not all(isinstance(each, str) and each for each in value):
            return "must be a list of texts"
        if isinstance(value, int) and not self.low <= value <= self.high:
            return f"is {value} and must be from {self.low} to {self.high}"
        return None


_KEYS: Mapping[tuple[str, ...], _Key] = {
    ("offline",): _Key("offline", bool),
    ("reserve_bytes",): _Key("reserve_bytes", int),
    ("context",): _Key("context", int, 16, 2**24),
    ("session_cache_bytes",): _Key("session_cache_bytes", int),
    ("serve", "host"): _Key("host", str),
    ("serve", "port"): _Key("port", int, 0, 65535),
    ("serve", "request_timeout_s"): _Key("request_timeout_s", int, 1, 604_800),
    ("hub", "endpoints"): _Key("endpoints", list),
    ("hub", "ca_cert"): _Key("ca_cert", str),
}
_TABLES = {key[:-1] for key in _KEYS if len(key) > 1}


def load(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of this user. A file that is not there sets nothing.

    Raises UsageError, with the line, for a file that cannot be read or a key that is none.
    """
    path = path or paths.settings_file()
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {reason}.") from error
    settings = parse(text, origin=str(path))
    if "LOCALLLM_OFFLINE" in environment:
        settings = replace(settings, offline=_switch(environment["LOCALLLM_OFFLINE"]))
    return settings


def parse(text: str, *, origin: str = "settings.toml") -> Settings:
    """Read the text of settings.toml. Raises UsageError naming `origin` and the line."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{origin} is not valid TOML: {error}.") from error
    settings = Settings()
    for key, value in _leaves(document):
        place = f"{origin}{_line_of(text, key)}"
        rule = _KEYS.get(key)
        if rule is None:
            raise UsageError(f"{place}: {_dotted(key)} is not a setting. {_nearest(key)}")
        if (problem := rule.problem(value)) is not None:
            raise UsageError(f"{place}: {_dotted(key)} {problem}.")
        settings = _with(settings, rule.field, value)
    return settings


def _leaves(document: Mapping[str, object]) -> list[tuple[tuple[str, ...], object]]:
    """Every key with its value; only the tables that we have are looked into."""
    leaves: list[tuple[tuple[str, ...], object]] = []
    for name, value in document.items():
        if (name,) in _TABLES and isinstance(value, dict):
            leaves += [((name, inner), each) for inner, each in value.items()]
        else:
            leaves.append(((name,), value))
    return leaves


def _with(settings: Settings, field: str, value: object) -> Settings:
    match field, value:
        case "offline", bool():
            return replace(settings, offline=value)
        case "reserve_bytes", int():
            return replace(settings, reserve_bytes=value)
        case "context", int():
            return replace(settings, context=value)
        case "request_timeout_s", int():
            return replace(settings, request_timeout_s=value)
        case "session_cache_bytes", int():
            return replace(settings, session_cache_bytes=value)
        case "host", str():
            return replace(settings, host=value)
        case "port", int():
            return replace(settings, port=value)
        case "endpoints", list():
            return replace(settings, endpoints=tuple(value))
        case "ca_cert", str():
            return replace(settings, ca_cert=value)
    raise AssertionError(f"_KEYS names {field}, which Settings has not")


def _line_of(text: str, key: tuple[str, ...]) -> str:
    """ " line N" of a key, as far as it is written plainly; else nothing."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([^\]#]+?)\s*\]", line):
            table = _parts(header[1])
            if table == key:
                return f" line {number}"
        elif (left := line.partition("=")[0]) != line and table + _parts(left) == key:
            return f" line {number}"
    return ""


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _dotted(key: tuple[str, ...]) -> str:
    return repr(single_line(".".join(key))[:80])


def _nearest(key: tuple[str, ...]) -> str:
    known = [".".join(each) for each in _KEYS]
    near = difflib.get_close_matches(".".join(key), known, n=1)
    return f"Did you mean {near[0]}?" if near else f"The settings are: {', '.join(known)}."


def _switch(text: str) -> bool:
    if text.strip().lower() in _ON:
        return True
    if text.strip().lower() in _OFF:
        return False
    raise UsageError(f"LOCALLLM_OFFLINE is {single_line(text)[:40]!r}. Set it to 1 or 0.")
