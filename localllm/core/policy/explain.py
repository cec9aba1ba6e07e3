"""A policy in plain words."""

from collections.abc import Iterator

from localllm.core.policy.document import Rules
from localllm.core.policy.keys import KEYS, PolicyKey, PolicyValue, ValueKind, restricts
from localllm.core.policy.policy import Policy
from localllm.core.text import single_line
from localllm.core.units import format_bytes


def explanation(policy: Policy) -> tuple[str, ...]:
    """Return a line for each rule, in the order of the documentation, with its key and its place;
    what nobody can override stands first."""
    lines: list[str] = []
    for title, layers in (
        ("Enforced: nobody who uses this machine can override it.", policy.enforced),
        ("Recommended: a person's own choice comes before it.", policy.recommended),
    ):
        found = [line for rules in layers for line in _lines(rules)]
        if found:
            lines += [title, *found]
    return tuple(lines) or ("No policy decides anything on this machine.",)


def _lines(rules: Rules) -> Iterator[str]:
    for key in KEYS.values():
        if key.key in rules.values:
            said = sentence(key, rules.values[key.key])
            yield f"  {said} [{key.key}, {rules.where(key.key)}]"


def sentence(key: PolicyKey, value: PolicyValue) -> str:
    """Say what a value of a key means."""
    if not restricts(key.key, value):
        return f"{key.key} = {'true' if value else 'false'} takes nothing away."
    count = len(value) if isinstance(value, tuple) else 1
    return key.meaning.format(value=value_text(key, value), count=count)


def value_text(key: PolicyKey, value: PolicyValue) -> str:
    """Write a value for a person."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(single_line(each) for each in value) or "nothing at all"
    if key.kind is ValueKind.SIZE and isinstance(value, int):
        return format_bytes(value)
    return single_line(str(value))
