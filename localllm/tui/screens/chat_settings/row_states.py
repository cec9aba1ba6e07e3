"""What the rows of the settings show: worked out of the settings, the preset that they came from,
and what is known of the model."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from localllm.chat.commands.setting_steps import fraction
from localllm.chat.commands.setting_values import (
    format_setting,
    setting_value,
    thinking_text,
)
from localllm.chat.schemas import ANY_OBJECT
from localllm.chat.settings import ChatSettings
from localllm.chat.tools.tool import LocalTool
from localllm.core.units import format_bytes
from localllm.translation import _, ngettext
from localllm.tui.screens.chat_settings.rows import RowState

SYSTEM_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What a load would need, and what of the memory is free for it."""

    need_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsSubject:
    """What the settings are for. `trained_context` None: not known; `count_tokens` and
    `memory_need` None: no model can be asked."""

    model: str = ""
    trained_context: int | None = None
    loaded_context: int | None = None
    loaded_kv_type: str | None = None
    count_tokens: Callable[[str], Awaitable[int]] | None = None
    memory_need: Callable[[ChatSettings], Awaitable[MemoryNeed]] | None = None
    tools: Sequence[LocalTool] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What was found out in the background: the tokens of a system prompt, the need of a load."""

    system: tuple[str, int] | None = None
    need: tuple[int | None, str | None, MemoryNeed] | None = None

    def system_tokens(self, settings: ChatSettings) -> int | None:
        """Return the tokens of the system prompt, None before they are counted."""
        if self.system is None or self.system[0] != settings.system or not settings.system:
            return None
        return self.system[1]

    def memory_need(self, settings: ChatSettings) -> MemoryNeed | None:
        """Return what a load with these settings needs, None before it is sized."""
        if self.need is None or self.need[:2] != (settings.context, settings.kv_type):
            return None
        return self.need[2]


def row_state(
    name: str, settings: ChatSettings, base: ChatSettings, subject: SettingsSubject, known: Known
) -> RowState:
    """Return what the row of a setting shows; `base` is the preset that it may differ from."""
    changed = _value(settings, name) != _value(base, name)
    match name:
        case "preset":
            differs = settings.neutral() != base.neutral()
            remark = _("changed") if differs and settings.preset else ""
            return RowState(value=_choice(settings.preset or _("none")), remark=remark)
        case "system":
            return _system_state(settings, changed, known.system_tokens(settings))
        case "json_schema":
            kinds = {"": _("text"), ANY_OBJECT: _("JSON")}
            value = kinds.get(settings.json_schema, _("JSON Schema"))
            return RowState(value=_choice(value), changed=changed)
        case "thinking":
            return RowState(value=_choice(thinking_text(settings.thinking)), changed=changed)
        case "tools":
            return RowState(value=", ".join(settings.tools) or _("off"), changed=changed)
        case "kv_type":
            return RowState(value=_choice(format_setting(settings, name)), changed=changed)
    value, more = format_setting(settings, name), ""
    if name == "context":
        more = _need_text(settings, subject, known.memory_need(settings))
        if settings.context is None and subject.loaded_context:
            value = str(subject.loaded_context)
    return RowState(
        value=value,
        fraction=fraction(settings, name, subject.trained_context),
        changed=changed,
        more=more,
    )


def _choice(text: str) -> str:
    """Mark a value that the arrow keys go through."""
    return f"‹{text}›"


def _system_state(settings: ChatSettings, changed: bool, tokens: int | None) -> RowState:
    value = "" if settings.system else _("none")
    if tokens is not None:
        value = ngettext("{count} token", "{count} tokens", tokens).format(count=tokens)
    lines = settings.system.strip().splitlines()[:SYSTEM_LINES]
    return RowState(value=value, changed=changed, more="\n".join(lines))


def needs_reload(settings: ChatSettings, subject: SettingsSubject) -> bool:
    """Return True when the model has to be loaded again for these settings."""
    context = settings.context not in (None, subject.loaded_context)
    return context or settings.kv_type not in (None, subject.loaded_kv_type)


def _need_text(settings: ChatSettings, subject: SettingsSubject, need: MemoryNeed | None) -> str:
    if not needs_reload(settings, subject):
        return ""
    again = _("loads with the next question")
    if need is None:
        return again
    sizes = {"need": format_bytes(need.need_bytes), "free": format_bytes(need.free_bytes)}
    if need.need_bytes > need.free_bytes:
        return _("○ no room: {need} of {free}").format(**sizes)
    return _("● fits: {need} of {free}").format(**sizes) + "\n" + again


def _value(settings: ChatSettings, name: str) -> object:
    if name in ("system", "json_schema", "thinking", "tools", "preset"):
        return getattr(settings, name)
    return setting_value(settings, name)
