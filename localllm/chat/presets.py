"""Presets: named settings of conversations, general ones and such of one model.

They lie in one private JSON file beside settings.toml, because a system prompt can say more about
its author than a setting does. `defaults` says with which preset a new conversation begins: that of
the model, else the general one, else the built-in neutral one.
"""

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm.chat.private_file import PrivateFile
from localllm.chat.settings import ChatSettings
from localllm.core.text import single_line
from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.translation import _

NEUTRAL = "neutral"
"""The name of the built-in preset: everything as it is when nobody sets anything."""

MAX_NAME = 60
MAX_PRESETS = 500
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Settings with a name. `model` is the name of the model that they are for, "" for any."""

    name: str
    settings: ChatSettings = field(default_factory=ChatSettings)
    model: str = ""

    @property
    def built_in(self) -> bool:
        return self.name == NEUTRAL


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """`defaults` maps a model's name, or "", to the name of a preset."""

    localllm_presets: int = _VERSION
    presets: tuple[Preset, ...] = ()
    defaults: dict[str, str] = field(default_factory=dict)


class PresetStore:
    """The presets of this user. Every method reads the file anew: two programs may use it."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = PrivateFile(path or paths.presets_file(), _Document, _Document())

    def presets(self, model: str = "") -> tuple[Preset, ...]:
        """Return those that can be used with a model: the neutral one, its own, the general ones.
        One of its own hides the general one of the same name. Raises StoreError."""
        return _usable(self._file.read(), model)

    def find(self, name: str, model: str = "") -> Preset:
        """Return the preset of this name. Raises UsageError, which names the nearest."""
        return _find(self._file.read(), name, model)

    def default(self, model: str = "") -> Preset:
        """Return the preset that a new conversation with this model begins with."""
        return _default(self._file.read(), model)

    def save(self, name: str, settings: ChatSettings, model: str = "") -> Preset:
        """Save settings under a name, in place of what has that name. Raises UsageError for a name
        that cannot be one, StoreError."""
        name = checked_name(name)
        preset = Preset(name=name, settings=replace(settings, preset=name), model=model)

        def with_preset(document: _Document) -> _Document:
            others = tuple(each for each in document.presets if not _same(each, name, model))
            if len(others) >= MAX_PRESETS:
                raise UsageError(
                    _("There are {count} presets; delete one first.").format(count=len(others))
                )
            return replace(document, presets=(*others, preset))

        self._file.change(with_preset)
        return preset

    def delete(self, name: str, model: str = "") -> Preset:
        """Delete the preset that `find` finds, also where it is a default. Raises UsageError,
        StoreError."""
        gone: list[Preset] = []

        def without(document: _Document) -> _Document:
            preset = _find(document, name, model)
            if preset.built_in:
                raise UsageError(_("{name} is built in and stays.").format(name=NEUTRAL))
            gone.append(preset)
            rest = replace(
                document, presets=tuple(each for each in document.presets if each != preset)
            )
            kept = {
                of: default
                for of, default in document.defaults.items()
                if any(each.name == default for each in _usable(rest, of))
            }
            return replace(rest, defaults=kept)

        self._file.change(without)
        return gone[-1]

    def set_default(self, name: str, model: str = "") -> Preset:
        """Let new conversations with this model, or with any ("" ), begin with this preset."""
        found: list[Preset] = []

        def with_default(document: _Document) -> _Document:
            found.append(_find(document, name, model))
            defaults = {**document.defaults, model: found[-1].name}
            return replace(document, defaults=defaults)

        self._file.change(with_default)
        return found[-1]


def checked_name(name: str) -> str:
    """Return the name as it is kept. Raises UsageError for one that no list could show."""
    clean = single_line(name)
    if not clean or len(clean) > MAX_NAME:
        raise UsageError(_("A preset's name has 1 to {most} characters.").format(most=MAX_NAME))
    if clean.lower() == NEUTRAL:
        raise UsageError(_("{name} is built in and cannot be changed.").format(name=NEUTRAL))
    return clean


def is_changed(settings: ChatSettings, preset: Preset) -> bool:
    """Return True when settings differ from those of the preset that they came from."""
    return settings.neutral() != preset.settings.neutral()


def _usable(document: _Document, model: str) -> tuple[Preset, ...]:
    own = [each for each in document.presets if each.model and each.model == model]
    names = {each.name.lower() for each in own}
    general = [
        each for each in document.presets if not each.model and each.name.lower() not in names
    ]

    def by_name(preset: Preset) -> str:
        return preset.name.lower()

    neutral = Preset(name=NEUTRAL, settings=ChatSettings(preset=NEUTRAL))
    return (neutral, *sorted(own, key=by_name), *sorted(general, key=by_name))


def _same(preset: Preset, name: str, model: str) -> bool:
    return preset.name.lower() == name.lower() and preset.model == model


def _find(document: _Document, name: str, model: str) -> Preset:
    usable = _usable(document, model)
    wanted = single_line(name).lower()
    for each in usable:
        if each.name.lower() == wanted:
            return each
    near = difflib.get_close_matches(wanted, [each.name.lower() for each in usable], n=2)
    names = near or [each.name for each in usable][:10]
    raise UsageError(
        _("There is no preset {name}. There are: {names}.").format(
            name=single_line(name)[:MAX_NAME], names=", ".join(names)
        )
    )


def _default(document: _Document, model: str) -> Preset:
    usable = {each.name: each for each in _usable(document, model)}
    for of in (model, ""):
        if (name := document.defaults.get(of)) in usable:
            return usable[name]
    return usable[NEUTRAL]
