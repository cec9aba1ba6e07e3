"""What the settings place writes of a setting, and how a line of text becomes its value. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content

from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.errors import UsageError
from localllm.library.files.edit_settings import SettingValue
from localllm.library.files.settings import Setting
from localllm.runtime.effective_settings import EffectiveSetting, Origin
from localllm.translation import N_, _

_KEY, _ORIGIN = 26, 12
_ORIGINS = {
    Origin.DEFAULT: N_("default"),
    Origin.FILE: N_("file"),
    Origin.ENVIRONMENT: N_("environment"),
    Origin.RECOMMENDED: N_("recommended"),
    Origin.POLICY: N_("policy"),
}

GENERAL, CHAT, ENGINE, NETWORK, SERVER, LOOKS = (
    N_("General"),
    N_("Chat"),
    N_("Engine"),
    N_("Network"),
    N_("Server"),
    N_("Looks"),
)
_SECTIONS = {
    "theme": LOOKS,
    "language": LOOKS,
    "offline": NETWORK,
    "context": CHAT,
    "reasoning_effort": CHAT,
    "chat_templates": CHAT,
    "session_cache_bytes": CHAT,
    "engine": ENGINE,
    "threads": ENGINE,
    "trust_gpu": ENGINE,
    "parse_special": CHAT,
    "reserve_bytes": ENGINE,
    "rope_scaling": ENGINE,
}
_TABLES = {"serve": SERVER, "hub": NETWORK}
SECTIONS = (GENERAL, CHAT, ENGINE, NETWORK, SERVER, LOOKS)
"""In the order in which they are shown; each setting is in one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionHead:
    """The heading above the settings of a section."""

    name: str


SettingsRow = SectionHead | EffectiveSetting


def section_of(setting: Setting) -> str:
    """Return the section of a setting; one that nobody has placed is general."""
    table, _dot, _name = setting.key.rpartition(".")
    return _SECTIONS.get(setting.key) or _TABLES.get(table) or GENERAL


def settings_rows(settings: Sequence[EffectiveSetting]) -> tuple[SettingsRow, ...]:
    """Return the settings by section, each below its heading."""
    rows: list[SettingsRow] = []
    for section in SECTIONS:
        own = [each for each in settings if section_of(each.setting) == section]
        if own:
            rows.append(SectionHead(name=section))
            rows += own
    return tuple(rows)


def row_key(row: SettingsRow) -> str:
    """Tell rows apart."""
    return f"[{row.name}]" if isinstance(row, SectionHead) else row.setting.key


def lock_of(each: EffectiveSetting) -> str | None:
    """Say what keeps a setting from being changed here; None: nothing does."""
    if each.origin is Origin.ENVIRONMENT:
        return _("set by {name}, which comes before the file").format(name=each.place)
    if each.locked:
        return _("managed by your organization")
    if each.setting.value_type is dict:
        return _("a table: change it in settings.toml")
    return None


def row_lines(row: SettingsRow, width: int) -> tuple[Content, ...]:
    """Write a setting: key, value, where the value comes from, and whether it is locked."""
    if isinstance(row, SectionHead):
        return (Content(), Content.styled(_(row.name), "bold $text-muted"))
    key = row.setting.key
    space = max(width - _KEY - _ORIGIN - 4, 10)
    origin = _(_ORIGINS[row.origin]) if row.origin in _ORIGINS else str(row.origin)
    value = single_line(value_text(row))
    value = value if len(value) <= space else f"{value[: space - 1]}…"
    mark = "⊘ " if lock_of(row) is not None else "  "
    style = "" if row.origin is Origin.DEFAULT else "$primary"
    line = Content(f"{mark}{key[:_KEY]:{_KEY}} ") + Content.styled(f"{value:{space}}", style)
    return (line + Content.styled(f" {origin}", "$text-muted"),)


def value_text(each: EffectiveSetting) -> str:
    """Write the value that holds, or what holds while there is none."""
    value = each.value
    if value is None or value in ((), ""):
        return _(each.setting.unset) or _("none")
    if isinstance(value, bool):
        return _("on") if value else _("off")
    if isinstance(value, int) and each.setting.field.endswith("_bytes") and value:
        return f"{value} ({format_bytes(value)})"
    if isinstance(value, tuple):
        if value and isinstance(value[0], tuple):
            return ", ".join(f"{name} = {_short(inner)}" for name, inner in value)
        return ", ".join(map(str, value))
    return str(value)


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=list)


def editable_text(each: EffectiveSetting) -> str:
    """Write the value as it is edited: "" while there is none."""
    value = each.value
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def details(each: EffectiveSetting) -> str:
    """Say what a setting does, what it may be, and why it is what it is."""
    setting = each.setting
    lines = [_(setting.description), _("allowed: {allowed}").format(allowed=setting.allowed)]
    if each.place is not None:
        lines.append(_("from {place}").format(place=each.place))
    if (lock := lock_of(each)) is not None:
        lines.append(f"⊘ {lock}")
    return " · ".join(single_line(line) for line in lines)


def choices_of(setting: Setting) -> tuple[SettingValue | None, ...]:
    """Return the values between which a setting changes by a key; none: it is written."""
    if setting.value_type is bool:
        return (False, True)
    if setting.words and setting.value_type is str:
        return (None, *setting.words)
    return ()


def next_choice(each: EffectiveSetting, step: int = 1) -> SettingValue | None:
    """Return the choice after the value that holds."""
    choices = choices_of(each.setting)
    value = each.value if isinstance(each.value, str | bool) else None
    at = choices.index(value) if value in choices else 0
    return choices[(at + step) % len(choices)]


def parse_value(setting: Setting, text: str) -> SettingValue | None:
    """Read a line as the value of a setting; an empty one takes it out of the file (None).

    Raises UsageError that says what is allowed.
    """
    text = text.strip()
    value: SettingValue
    if not text:
        return None
    if setting.value_type is int:
        try:
            value = int(text.replace(",", "").replace("_", ""))
        except ValueError:
            raise UsageError(_("Give {allowed}.").format(allowed=setting.allowed)) from None
    elif setting.value_type is list:
        value = tuple(each.strip() for each in text.split(",") if each.strip())
    else:
        value = text
    problem = setting.problem(list(value) if isinstance(value, tuple) else value)
    if problem is not None:
        raise UsageError(f"{setting.key} {problem}.")
    return value
