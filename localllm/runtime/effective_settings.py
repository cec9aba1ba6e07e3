"""The settings that hold, and where each comes from: the default, what the policy recommends, the
file, the environment, or what the policy enforces.

The rules by which a variable overrides the file are those of `settings.load`, `offline_switch` and
`access_from`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from localllm.core.policy.keys import GOVERNED_SETTINGS
from localllm.library.files import paths, settings
from localllm.library.files.settings import Setting, settings_table
from localllm.policy.active import active_policy


class Origin(StrEnum):
    """Where the value of a setting comes from; the first of these that has one gives way to the
    next."""

    DEFAULT = "default"
    RECOMMENDED = "recommended"
    FILE = "file"
    ENVIRONMENT = "environment"
    POLICY = "policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """A setting with the value that holds.

    `place` is the line of settings.toml or of the policy, or the name of the environment's
    variable; None for a default. `locked`: the policy enforces it.
    """

    setting: Setting
    value: object
    origin: Origin
    place: str | None = None
    locked: bool = False


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

    policy = active_policy()

    def effective(setting: Setting) -> EffectiveSetting:
        governed = setting.key in GOVERNED_SETTINGS
        if governed and (enforced := policy.enforcement(setting.key)) is not None:
            return EffectiveSetting(
                setting=setting,
                value=policy.bounded(setting.key, getattr(loaded, setting.field)),
                origin=Origin.POLICY,
                place=enforced[1],
                locked=True,
            )
        if setting.key in overridden:
            place, value = overridden[setting.key]
            return EffectiveSetting(
                setting=setting, value=value, origin=Origin.ENVIRONMENT, place=place
            )
        value = getattr(loaded, setting.field)
        if setting.key in in_file:
            place = f"{path}{in_file[setting.key]}"
            return EffectiveSetting(setting=setting, value=value, origin=Origin.FILE, place=place)
        recommended = policy.recommendation(setting.key) if governed else None
        if recommended is not None:
            return EffectiveSetting(
                setting=setting, value=value, origin=Origin.RECOMMENDED, place=recommended[1]
            )
        return EffectiveSetting(setting=setting, value=value, origin=Origin.DEFAULT)

    return tuple(effective(setting) for setting in settings_table())
