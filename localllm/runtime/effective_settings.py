"""The settings that hold, and where each comes from: the default, the file, or the environment.

The rules by which a variable overrides the file are those of `settings.load`, `offline_switch` and
`access_from`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from localllm.library.files import paths, settings
from localllm.library.files.settings import Setting, settings_table


class Origin(StrEnum):
    """Where the value of a setting comes from; the first of these that has one gives way to the
    next."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """A setting with the value that holds.

    `place` is the line of settings.toml, or the name of the environment's variable; None for a
    default.
    """

    setting: Setting
    value: object
    origin: Origin
    place: str | None = None


def effective_settings(
    path: Path | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[EffectiveSetting, ...]:
    """Return every setting with its value and origin, in the order of the documentation.

    Raises UsageError, with the line, for a file that cannot be read or holds what is not allowed,
    and for a variable whose value is not allowed.
    """
    path = path or paths.settings_file()
    in_file = settings.lines_of(path)
    loaded = settings.load(path, environment)
    switch = settings.offline_switch(loaded, environment)
    variable = "HF_HUB_OFFLINE" if switch == "HF_HUB_OFFLINE" else "LOCALLLM_OFFLINE"
    endpoint = environment.get("HF_ENDPOINT", "").strip()
    overridden: dict[str, tuple[str, object]] = {}
    if variable in environment:
        overridden["offline"] = (variable, switch is not None)
    if engine := environment.get("LOCALLLM_ENGINE", "").strip():
        overridden["engine"] = ("LOCALLLM_ENGINE", engine)
    if endpoint:
        overridden["hub.endpoints"] = ("HF_ENDPOINT", (endpoint,))

    def effective(setting: Setting) -> EffectiveSetting:
        if setting.key in overridden:
            place, value = overridden[setting.key]
            return EffectiveSetting(
                setting=setting, value=value, origin=Origin.ENVIRONMENT, place=place
            )
        value = getattr(loaded, setting.field)
        if setting.key in in_file:
            place = f"{path}{in_file[setting.key]}"
            return EffectiveSetting(setting=setting, value=value, origin=Origin.FILE, place=place)
        return EffectiveSetting(setting=setting, value=value, origin=Origin.DEFAULT)

    return tuple(effective(setting) for setting in settings_table())
