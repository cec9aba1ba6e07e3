"""`localllm config`: the settings that hold, and where each comes from."""

import json

import click

from localllm.cli import options
from localllm.cli.output import columns, info, print_json, print_line
from localllm.core.policy.explain import sentence
from localllm.core.policy.keys import KEYS
from localllm.library.files import paths
from localllm.library.files.names import printable
from localllm.library.files.settings import find_setting, settings_table
from localllm.policy.active import active_policy
from localllm.runtime.effective_settings import EffectiveSetting, Origin, effective_settings


@click.command(name="config")
@click.option("--why", "key", metavar="KEY", help="Explain one setting.")
@options.JSON
def command(key: str | None, as_json: bool) -> None:
    """The settings that hold, and where each comes from."""
    if key is not None and key in KEYS and key not in {each.key for each in settings_table()}:
        _explain_policy(key, as_json=as_json)
        return
    wanted = None if key is None else find_setting(key)
    shown = [each for each in effective_settings() if wanted in (None, each.setting)]
    if as_json:
        print_json({"file": paths.settings_file(), "settings": [_document(each) for each in shown]})
    elif wanted is not None:
        _explain(shown[0])
    else:
        for line in columns([_row(each) for each in shown], left=3):
            print_line(line, wrap=False)
        _say_file()


def _document(each: EffectiveSetting) -> dict[str, object]:
    """Return what `config --json` prints of a setting. `locked`: the policy enforces it."""
    setting = each.setting
    return {
        "key": setting.key,
        "value": _plain(each.value),
        "origin": each.origin.value,
        "locked": each.locked,
        "place": each.place,
        "default": _plain(setting.default),
        "allowed": setting.allowed,
        "description": setting.description,
        "used_by": setting.used_by,
        "variable": setting.variable,
    }


def _row(each: EffectiveSetting) -> tuple[str, str, str]:
    origin = each.origin.value if each.place is None else f"{each.origin.value}: {each.place}"
    return each.setting.key, _text(each), origin


def _explain(each: EffectiveSetting) -> None:
    setting = each.setting
    print_line(f"{setting.key} = {_text(each)}", bold=True, wrap=False)
    print_line(setting.description)
    match each.origin:
        case Origin.DEFAULT:
            print_line("This is the default: neither settings.toml nor the environment sets it.")
        case Origin.FILE:
            print_line(f"Set in {each.place}.", wrap=False)
        case Origin.ENVIRONMENT:
            print_line(
                f"Set by the environment variable {each.place}, which comes before the file."
            )
        case Origin.RECOMMENDED:
            print_line(f"Recommended by the policy: {each.place}. A setting of yours overrides it.")
        case Origin.POLICY:
            print_line(f"Managed by your organization: {each.place}.", wrap=False)
            print_line("Nothing overrides it; a tighter value of yours holds.")
    print_line(f"Allowed: {setting.allowed}. Used by: {setting.used_by}.")
    if setting.variable is not None and each.origin not in (Origin.ENVIRONMENT, Origin.POLICY):
        print_line(f"The environment variable {setting.variable} would override it.")
    if each.origin is Origin.DEFAULT:
        _say_file()


def _explain_policy(key: str, *, as_json: bool) -> None:
    """Explain a key that only a policy has."""
    policy = active_policy()
    found = (Origin.POLICY, policy.enforcement(key))
    if found[1] is None:
        found = (Origin.RECOMMENDED, policy.recommendation(key))
    origin, rule = found
    value, place = rule if rule is not None else (None, None)
    if as_json:
        document = {
            "key": key,
            "value": _plain(value),
            "origin": Origin.DEFAULT.value if rule is None else origin.value,
            "locked": rule is not None and origin is Origin.POLICY,
            "place": place,
        }
        print_json({"file": paths.settings_file(), "settings": [document]})
    elif value is None:
        print_line(f"{key} is not set: no policy decides it. docs/policy.md says what it does.")
    else:
        print_line(sentence(KEYS[key], value))
        by = "Managed by your organization" if origin is Origin.POLICY else "Recommended"
        print_line(f"{by}: {place}.", wrap=False)


def _say_file() -> None:
    path = paths.settings_file()
    state = "" if path.is_file() else " (there is none yet)"
    info(f"Settings are read from {printable(path)}{state}; docs/settings.md lists them.")


def _text(each: EffectiveSetting) -> str:
    """Write a value as settings.toml would, or what holds while there is none."""
    value = _plain(each.value)
    if value is None or value in ([], {}):
        return each.setting.unset or "none"
    return json.dumps(value, ensure_ascii=False)


def _plain(value: object) -> object:
    """Return a value of Settings as JSON has it: a table is pairs there."""
    if isinstance(value, tuple):
        if value and isinstance(value[0], tuple):
            return {key: _plain(each) for key, each in value}
        return list(value)
    return value
