"""The settings that hold, and where each comes from: the default, the file, or the environment.

What is reported is what the verbs use: the network's values are asked of `access_from`, which
combines file and environment for them, and are not worked out a second time.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from localllm.library.files import paths, settings
from localllm.library.files.settings import Setting, settings_table
from localllm.library.http.client import access_from


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
    access = access_from(loaded, environment=environment)
    # `access.offline` names what switched the network off: a variable, or the file.
    by_variable = access.offline if access.offline and access.offline in environment else None
    variables = {
        "offline": by_variable or _present("LOCALLLM_OFFLINE", environment),
        "hub.endpoints": _present("HF_ENDPOINT", environment),
    }
    values: dict[str, object] = {
        "offline": access.offline is not None,
        "hub.endpoints": access.endpoints,
    }

    def effective(setting: Setting) -> EffectiveSetting:
        value = values.get(setting.key, getattr(loaded, setting.field))
        if (variable := variables.get(setting.key)) is not None:
            return EffectiveSetting(
                setting=setting, value=value, origin=Origin.ENVIRONMENT, place=variable
            )
        if setting.key in in_file:
            place = f"{path}{in_file[setting.key]}"
            return EffectiveSetting(setting=setting, value=value, origin=Origin.FILE, place=place)
        return EffectiveSetting(setting=setting, value=value, origin=Origin.DEFAULT)

    return tuple(effective(setting) for setting in settings_table())


def _present(variable: str, environment: Mapping[str, str]) -> str | None:
    return variable if environment.get(variable, "").strip() else None
