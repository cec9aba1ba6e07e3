"""The user's settings: settings.toml, and the environment on top of it.

`_SETTINGS` is the one table of them: parsing, error messages and docs/settings.md come from it.
Only what something uses is a setting. An unknown key is an error: a misspelt `offline` must not be
silently ignored.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localllm.core.policy.keys import GOVERNED_SETTINGS, POLICY_SWITCH
from localllm.core.sizing.load import RopeScaling
from localllm.core.text import single_line, toml_line_of
from localllm.core.units import parse_bytes, parse_keep_alive, parse_swap_bytes
from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.library.files.model_options import ModelTable, models_problem
from localllm.policy.active import active_policy
from localllm.translation import N_, _

_ON, _OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values that the user set, or the defaults. `_SETTINGS` describes each.

    None means: not set.
    """

    offline: bool = False
    accessible: bool | None = None
    language: str | None = None
    engine: str | None = None
    reserve_bytes: int = 0
    context: int | None = None
    theme: str | None = None
    threads: int | None = None
    trust_gpu: bool = False
    parse_special: bool = False
    cache_ram: str | None = None
    reasoning_effort: str | None = None
    history: str | None = None
    history_days: int = 0
    chat_templates: tuple[tuple[str, str], ...] = ()
    rope_scaling: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    models: tuple[tuple[str, ModelTable], ...] = ()
    host: str = "localhost"
    port: int = 11711
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    keep_alive: str | None = None
    pin: tuple[str, ...] = ()
    max_memory: str | None = None
    warm_swap_ram: str | None = None
    warm_swap_disk: str | None = None
    strict: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    access_log: str | None = None
    endpoints: tuple[str, ...] = ()
    ca_cert: str | None = None
    request_timeout_s: int | None = None
    session_cache_bytes: int = 4 * 2**30


SettingType = type[bool] | type[int] | type[str] | type[list[str]] | type[dict[str, str]]
_TYPE_NAMES: Mapping[SettingType, str] = {
    bool: N_("true or false"),
    int: N_("a whole number"),
    str: N_("a text"),
    list: N_("a list of texts"),
    dict: N_("a table of texts"),
}
_MAX_INT = 2**63 - 1  # the largest integer of TOML
LANGUAGES = ("en", "de")
"""Those of the interface: `localllm/locale`, and English."""
MAX_THREADS = 512  # GGML_MAX_N_THREADS (ggml.h, b11434)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: its key in settings.toml, its field of Settings, and its allowed values.

    `minimum` and `maximum` bound a number; a list holds strings; a text, and each value of a
    table, is one of `words`, if there are any. `unset` says what holds while the value is None or
    empty; it and the description are translated where they are shown. `variable` is the
    environment variable that overrides it, `used_by` the verbs that obey it. `parse` reads a text
    and raises UsageError for one that is not allowed. `check` replaces all other checks.
    """

    key: str
    field: str
    value_type: SettingType
    description: str
    used_by: str
    minimum: int = 0
    maximum: int = _MAX_INT
    words: tuple[str, ...] = ()
    unset: str = ""
    variable: str | None = None
    parse: Callable[[str], object] | None = None
    check: Callable[[object], str | None] | None = None

    @property
    def default(self) -> object:
        """The value while the user has set none."""
        return getattr(Settings(), self.field)

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        name = _(_TYPE_NAMES[self.value_type])
        if self.check is not None:
            return _("tables, see below")
        if self.words:
            return f"{name}: {', '.join(self.words)}"
        if self.value_type is not int:
            return name
        if self.maximum == _MAX_INT:
            return _("a whole number from {low}").format(low=self.minimum)
        return _("a whole number from {low} to {high}").format(low=self.minimum, high=self.maximum)

    def problem(self, value: object) -> str | None:
        """Say why a TOML value is not allowed, as the end of a sentence; None when it is."""
        if self.check is not None:
            return self.check(value)
        must_be = _("must be {allowed}")
        if type(value) is not self.value_type or value == "":
            return must_be.format(allowed=_(_TYPE_NAMES[self.value_type]))
        if isinstance(value, list) and not all(isinstance(each, str) and each for each in value):
            return must_be.format(allowed=_(_TYPE_NAMES[list]))
        if isinstance(value, dict) and not all(isinstance(e, str) and e for e in value.values()):
            return must_be.format(allowed=_(_TYPE_NAMES[dict]))
        if isinstance(value, str) and self.words and value not in self.words:
            return must_be.format(allowed=self.allowed)
        if isinstance(value, str) and self.parse is not None:
            try:
                self.parse(value)
            except UsageError as error:
                return _("is not allowed: {reason}").format(reason=error).removesuffix(".")
        if isinstance(value, dict) and self.words and not {*value.values()} <= {*self.words}:
            return must_be.format(allowed=self.allowed)
        if isinstance(value, int) and not self.minimum <= value <= self.maximum:
            return _("is {value} and must be from {low} to {high}").format(
                value=value, low=self.minimum, high=self.maximum
            )
        return None


_SETTINGS = (
    Setting(
        key="offline",
        field="offline",
        value_type=bool,
        description="Switch the network off: nothing is sent to another machine.",
        used_by="every verb that asks the Hub, and the app",
        variable="LOCALLLM_OFFLINE",
    ),
    Setting(
        key="accessible",
        field="accessible",
        value_type=bool,
        description="Write everything in plain lines, for a screen reader, without colours, bars"
        " and repainting, as --accessible does; ACCESSIBLE overrides it.",
        used_by="run, the app",
        unset="on where a screen reader is found, or TERM is dumb",
    ),
    Setting(
        key="language",
        field="language",
        value_type=str,
        description="Language of the terminal app and of conversations in the terminal.",
        used_by="the app, run",
        words=LANGUAGES,
        unset="that of the environment (LANGUAGE, LC_ALL, LC_MESSAGES, LANG), on Windows that of"
        " the display, else English",
    ),
    Setting(
        key="engine",
        field="engine",
        value_type=str,
        description="Build of llama.cpp that runs models: the name of a package, the directory of a"
        " build, or auto; `localllm engine use` writes it.",
        used_by="every verb that starts the engine, and the app",
        unset="auto: the best that is installed",
        variable="LOCALLLM_ENGINE",
    ),
    Setting(
        key="reserve_bytes",
        field="reserve_bytes",
        value_type=int,
        description="Free memory of each device that is never planned for a model, in bytes.",
        used_by="suggest, size, pull, run, serve, bench, the app",
    ),
    Setting(
        key="context",
        field="context",
        value_type=int,
        description="Context of a load in tokens when --ctx is not given; a model that was trained"
        " for less gets its training context.",
        used_by="run, serve, size, suggest, pull, the app",
        minimum=16,
        maximum=2**24,
        unset="4096",
    ),
    Setting(
        key="threads",
        field="threads",
        value_type=int,
        description="Threads to compute with when --threads is not given.",
        used_by="run, serve, size, bench, the app",
        minimum=1,
        maximum=MAX_THREADS,
        unset="one for each fast core that may be used",
    ),
    Setting(
        key="cache_ram",
        field="cache_ram",
        value_type=str,
        description="Memory for conversations without a slot: auto, a size such as 2GiB, or 0.",
        used_by="run, serve, batch, size, the app",
        unset="auto: half of what is free, 8 GiB at most",
        parse=parse_swap_bytes,
    ),
    Setting(
        key="trust_gpu",
        field="trust_gpu",
        value_type=bool,
        description="Use a GPU without comparing what it computes with the processor first, as"
        " --trust-gpu does.",
        used_by="run, serve, bench, the app",
    ),
    Setting(
        key="parse_special",
        field="parse_special",
        value_type=bool,
        description="Take control tokens that are written in messages, documents and files for"
        " control tokens, and not for text.",
        used_by="run, serve, the app",
    ),
    Setting(
        key="reasoning_effort",
        field="reasoning_effort",
        value_type=str,
        description="How much a model that can think does so before it answers, when"
        " --reasoning-effort, --think and --no-think are not given.",
        used_by="run, the app",
        words=("none", "minimal", "low", "medium", "high", "xhigh"),
        unset="as the model does by itself",
    ),
    Setting(
        key="history",
        field="history",
        value_type=str,
        description="Whether conversations are kept: off, in memory until the app ends, or"
        " encrypted on the disk.",
        used_by="the app",
        words=("off", "memory", "disk"),
        unset="in memory; the app asks once after the first answer",
    ),
    Setting(
        key="history_days",
        field="history_days",
        value_type=int,
        description="Days after which conversations on the disk that were not used are erased,"
        " but for pinned ones; 0 keeps them for ever.",
        used_by="the app",
        maximum=36_500,
    ),
    Setting(
        key="chat_templates",
        field="chat_templates",
        value_type=dict,
        description="File of the chat template (Jinja) for a model, by the model's name, when"
        " --chat-template is not given; a relative path starts at the directory of settings.toml.",
        used_by="run, serve, the app",
        unset="the template in the model's file",
    ),
    Setting(
        key="rope_scaling",
        field="rope_scaling",
        value_type=dict,
        description="How positions are stretched for a model, by the model's name, when"
        " --rope-scaling is not given; `context` is then not capped by what it was trained for.",
        used_by="run, serve, size, bench, the app",
        words=tuple(RopeScaling),
        unset="as the model's file says",
    ),
    Setting(
        key="theme",
        field="theme",
        value_type=str,
        description="Colours of the app: localllm-dark, localllm-light, localllm-high-contrast,"
        " ansi-dark, ansi-light or another theme of Textual's. The app writes what is chosen in"
        " its palette; TEXTUAL_THEME overrides it.",
        used_by="the app",
        unset="localllm-dark; localllm-light on a terminal that says it is light",
    ),
    Setting(
        key="aliases",
        field="aliases",
        value_type=dict,
        description="Other names of models in requests, each with the model's name.",
        used_by="serve",
        unset="none",
    ),
    Setting(
        key="models",
        field="models",
        value_type=dict,
        description="Options of one model's loads, by the model's name, when they are not given on"
        " the command line; and profiles, models under another name with options of their own.",
        used_by="run, serve, size, bench, the app",
        unset="none",
        check=models_problem,
    ),
    Setting(
        key="session_cache_bytes",
        field="session_cache_bytes",
        value_type=int,
        description="Disk space for the KV caches of sessions, in bytes; the least recently used"
        " are deleted first, 0 saves none.",
        used_by="run --session",
    ),
    Setting(
        key="serve.host",
        field="host",
        value_type=str,
        description="Address to listen on when --host is not given; `localhost` is 127.0.0.1 and"
        " ::1.",
        used_by="serve",
    ),
    Setting(
        key="serve.port",
        field="port",
        value_type=int,
        description="Port to listen on when --port is not given; 0 takes any free one.",
        used_by="serve",
        maximum=65535,
    ),
    Setting(
        key="serve.allowed_hosts",
        field="allowed_hosts",
        value_type=list,
        description="More names under which clients may reach the server, such as"
        " host.docker.internal.",
        used_by="serve",
        unset="none",
    ),
    Setting(
        key="serve.cors_origins",
        field="cors_origins",
        value_type=list,
        description="Origins whose web pages may use the server, with the key, such as"
        " http://localhost:3000.",
        used_by="serve",
        unset="none",
    ),
    Setting(
        key="serve.request_timeout_s",
        field="request_timeout_s",
        value_type=int,
        description="Seconds after which a request ends with the error `deadline`, waiting"
        " included.",
        used_by="serve",
        minimum=1,
        maximum=604_800,
        unset="never",
    ),
    Setting(
        key="serve.keep_alive",
        field="keep_alive",
        value_type=str,
        description="How long a model stays in memory after its last request when --keep-alive is"
        " not given: 10m, 1h30m, 300 (seconds), 0, or -1 for ever.",
        used_by="serve",
        unset="5m, and for ever of models that are named at the start",
        parse=parse_keep_alive,
    ),
    Setting(
        key="serve.pin",
        field="pin",
        value_type=list,
        description="Models that are never unloaded once they are in memory; --pin adds to them.",
        used_by="serve",
        unset="none",
    ),
    Setting(
        key="serve.max_memory",
        field="max_memory",
        value_type=str,
        description="Memory that all models together may take when --max-memory is not given, such"
        " as 8GiB.",
        used_by="serve",
        unset="what is free",
        parse=parse_bytes,
    ),
    Setting(
        key="serve.warm_swap_ram",
        field="warm_swap_ram",
        value_type=str,
        description="Memory for the conversations of models that were unloaded, which go on after"
        " the next load without being read again: auto, a size such as 2GiB, or 0.",
        used_by="serve",
        unset="auto: a quarter of what stays free",
        parse=parse_swap_bytes,
    ),
    Setting(
        key="serve.warm_swap_disk",
        field="warm_swap_disk",
        value_type=str,
        description="Disk space for such conversations where the memory does not take them,"
        " encrypted with a key that ends with the server: a size such as 8GiB.",
        used_by="serve",
        unset="none",
        parse=parse_bytes,
    ),
    Setting(
        key="serve.strict",
        field="strict",
        value_type=bool,
        description="Refuse requests with fields that the server does not know, as --strict does.",
        used_by="serve",
    ),
    Setting(
        key="serve.tls_cert",
        field="tls_cert",
        value_type=str,
        description="File of the certificate (PEM, with its chain) when --tls-cert is not given.",
        used_by="serve",
        unset="no TLS",
    ),
    Setting(
        key="serve.tls_key",
        field="tls_key",
        value_type=str,
        description="File of the certificate's key (PEM) when --tls-key is not given.",
        used_by="serve",
        unset="no TLS",
    ),
    Setting(
        key="serve.access_log",
        field="access_log",
        value_type=str,
        description="File for a line about each request, without its content; - is stderr.",
        used_by="serve",
        unset="none",
    ),
    Setting(
        key="hub.endpoints",
        field="endpoints",
        value_type=list,
        description="Mirrors of the Hub (http or https), in the order in which they are tried.",
        used_by="every verb that asks the Hub, and the app",
        unset="https://huggingface.co",
        variable="HF_ENDPOINT",
    ),
    Setting(
        key="hub.ca_cert",
        field="ca_cert",
        value_type=str,
        description="File of certificates (PEM) that are trusted beside the system's.",
        used_by="every verb that asks the Hub, and the app",
        unset="none",
    ),
)
_BY_KEY: Mapping[tuple[str, ...], Setting] = {
    tuple(setting.key.split(".")): setting for setting in _SETTINGS
}
_TABLES = {key[0] for key in _BY_KEY if len(key) > 1}


def settings_table() -> tuple[Setting, ...]:
    """Return every setting there is, in the order of the documentation."""
    return _SETTINGS


def load(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of this user, as the policy lets them be. A missing file sets nothing.

    Raises UsageError, with the line, for a file that cannot be read, an unknown key or a value
    that is not allowed, and PolicyUnusable.
    """
    path = path or paths.settings_file()
    policy, text = active_policy(), _read(path)
    settings = parse(text, origin=str(path))
    if "LOCALLLM_OFFLINE" in environment:
        settings = replace(settings, offline=_switch(environment["LOCALLLM_OFFLINE"]))
    chosen = {".".join(key) for key, _value in _flatten(_document(text, str(path)))}
    chosen |= {each.key for each in _SETTINGS if each.variable and each.variable in environment}
    values = {key: getattr(settings, find_setting(key).field) for key in GOVERNED_SETTINGS}
    settled: dict[str, Any] = policy.settled(values, chosen)  # the policy has checked their types
    return replace(settings, **{find_setting(key).field: settled[key] for key in settled})


def offline_switch(settings: Settings, environment: Mapping[str, str] = os.environ) -> str | None:
    """Name what switches the network off: the environment's variable or the file. None: it is on.

    HF_HUB_OFFLINE is obeyed, too, read as huggingface_hub does.
    """
    if settings.offline and active_policy().allows_network() is not None:
        return POLICY_SWITCH
    if settings.offline:
        return "LOCALLLM_OFFLINE" if "LOCALLLM_OFFLINE" in environment else "offline in settings"
    return "HF_HUB_OFFLINE" if environment.get("HF_HUB_OFFLINE", "").lower() in _ON else None


def lines_of(path: Path) -> Mapping[str, str]:
    """Map the keys that a file sets to their lines: " line N", or "" where it cannot be said.

    Raises UsageError as `load` does for a file that cannot be read or is not TOML.
    """
    text = _read(path)
    leaves = _flatten(_document(text, str(path)))
    return {".".join(key): toml_line_of(text, key) for key, _ in leaves}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {reason}.") from error


def _document(text: str, origin: str) -> Mapping[str, object]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{origin} is not valid TOML: {error}.") from error


def parse(text: str, *, origin: str = "settings.toml") -> Settings:
    """Read the text of settings.toml. Raises UsageError naming `origin` and the line."""
    values: dict[str, Any] = {}  # each is checked by its Setting, which knows the field's type
    for key, value in _flatten(_document(text, origin)):
        place = f"{origin}{toml_line_of(text, key)}"
        setting = _BY_KEY.get(key)
        if setting is None:
            raise UsageError(f"{place}: {_dotted(key)} is not a setting. {_nearest(key)}")
        if (problem := setting.problem(value)) is not None:
            raise UsageError(f"{place}: {_dotted(key)} {problem}.")
        values[setting.field] = _frozen(value)
    return Settings(**values)


def _frozen(value: object) -> object:
    """Return a TOML value as a field of Settings holds it."""
    if isinstance(value, dict):
        return tuple((key, _frozen(each)) for key, each in value.items())
    return tuple(value) if isinstance(value, list) else value


def _flatten(document: Mapping[str, object]) -> list[tuple[tuple[str, ...], object]]:
    """List every key with its value; only tables that hold settings are looked into."""
    leaves: list[tuple[tuple[str, ...], object]] = []
    for name, value in document.items():
        if name in _TABLES and isinstance(value, dict):
            leaves += [((name, inner), each) for inner, each in value.items()]
        else:
            leaves.append(((name,), value))
    return leaves


def _dotted(key: tuple[str, ...]) -> str:
    return repr(single_line(".".join(key))[:80])


def find_setting(key: str) -> Setting:
    """Find the setting of a dotted key. Raises UsageError that names the nearest one."""
    parts = tuple(key.split("."))
    if (setting := _BY_KEY.get(parts)) is None:
        raise UsageError(f"{_dotted(parts)} is not a setting. {_nearest(parts)}")
    return setting


def _nearest(key: tuple[str, ...]) -> str:
    known = [setting.key for setting in _SETTINGS]
    near = difflib.get_close_matches(".".join(key), known, n=1)
    return f"Did you mean {near[0]}?" if near else f"The settings are: {', '.join(known)}."


def _switch(text: str) -> bool:
    if text.strip().lower() in _ON:
        return True
    if text.strip().lower() in _OFF:
        return False
    raise UsageError(f"LOCALLLM_OFFLINE is {single_line(text)[:40]!r}. Set it to 1 or 0.")
