"""`localllm policy`: check an administrator's policy, say what it decides, show its values."""

import os
import sys
from pathlib import Path

import click

from localllm.cli import options
from localllm.cli.output import columns, error, info, print_json, print_line
from localllm.core.policy.document import parse
from localllm.core.policy.explain import explanation, value_text
from localllm.core.policy.keys import KEYS
from localllm.core.policy.policy import Policy
from localllm.errors import ExitCode, NotFound, UsageError
from localllm.library.files.names import printable
from localllm.policy.active import active_policy
from localllm.policy.policy_file import VARIABLE, machine_file, read_text, rights_of


@click.group(name="policy")
def command() -> None:
    """What the administrator of this machine has decided, and whether a policy file is right."""


@command.command(name="check")
@click.argument("file", type=click.Path(path_type=Path))
@options.JSON
def check_policy(file: Path, as_json: bool) -> int:
    """Read FILE as a policy and list every mistake with its line; nothing of it is used.

    Who owns FILE is no mistake here: it may be a draft. Where it would be refused for that, a line
    says so.
    """
    try:
        text = read_text(file)
    except FileNotFoundError:
        raise NotFound(f"There is no file {printable(file)}.") from None
    except (OSError, ValueError) as failed:  # UnicodeDecodeError is a ValueError
        reason = getattr(failed, "strerror", None) or str(failed)
        raise UsageError(f"{printable(file)} cannot be read: {reason}.") from failed
    document = parse(text, place=str(file))
    owner = rights_of(file)
    if as_json:
        print_json(
            {
                "file": file,
                "ok": not document.mistakes,
                "problems": [
                    {"line": each.line, "message": each.message} for each in document.mistakes
                ],
                "rights": owner,
            }
        )
    else:
        for each in document.mistakes:
            line = "" if each.line is None else f"{each.line}:"
            error(f"{printable(file)}:{line} {each.message}")
        if not document.mistakes:
            print_line(f"{printable(file)} is a policy without mistakes.", wrap=False)
            for sentence in explanation(
                Policy(enforced=(document.enforced,), recommended=(document.recommended,))
            ):
                print_line(sentence)
        if owner is not None:
            info(f"As it lies there it would be refused: {owner}.")
    return ExitCode.USAGE if document.mistakes else ExitCode.OK


@command.command(name="explain")
def explain_policy() -> None:
    """What the policy of this machine decides, in plain words."""
    for line in explanation(active_policy()):
        print_line(line)
    _say_places()


@command.command(name="show")
@options.JSON
def show_policy(as_json: bool) -> None:
    """Every key that the policy of this machine sets, with its value and place."""
    policy = active_policy()
    rows = [
        (key, rules.values[key], table, rules.where(key))
        for table, layers in (("enforced", policy.enforced), ("recommended", policy.recommended))
        for rules in layers
        for key in KEYS
        if key in rules.values
    ]
    if as_json:
        print_json(
            {
                "file": machine_file(sys.platform),
                "policy": [
                    {
                        "key": key,
                        "value": list(value) if isinstance(value, tuple) else value,
                        "origin": "policy" if table == "enforced" else table,
                        "locked": table == "enforced",
                        "place": place,
                    }
                    for key, value, table, place in rows
                ],
            }
        )
        return
    table_rows = [
        (key, value_text(KEYS[key], value), table, place) for key, value, table, place in rows
    ]
    for line in columns(table_rows, left=4):
        print_line(line, wrap=False)
    _say_places()


def _say_places() -> None:
    named = os.environ.get(VARIABLE, "").strip()
    also = f", and from {named} ({VARIABLE})" if named else ""
    info(f"The policy is read from {machine_file(sys.platform)}{also}; docs/policy.md says more.")
