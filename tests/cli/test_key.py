"""`localllm key`: what is printed, once, and what programs read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from localllm.cli.commands.server.key import command, parse_scopes
from localllm.errors import ExitCode, UsageError
from localllm.library.files import paths
from localllm.server.access.key_ring import KeyRing
from localllm.server.access.named_keys import KeyFile
from localllm.server.request_record import Scope


def key(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def keys() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(key("ls", "--json"))["keys"]
    return found


def test_a_key_is_printed_once_and_works() -> None:
    text = key("create", "bob", "--scope", "infer,embed", "--model", "a", "--expires", "30d")
    caller = KeyRing("owner's", KeyFile(paths.keys_file(), paths.keys_used_file())).find(
        [text.strip()]
    )
    assert caller is not None
    assert (caller.name, caller.models) == ("bob", frozenset({"a"}))
    (listed,) = keys()
    assert {"name", "scopes", "models", "created", "last_used"} <= listed.keys()
    assert (listed["scopes"], listed["last_used"]) == (["infer", "embed"], None)
    assert text.strip() not in key("ls") + key("ls", "--json")
    assert json.loads(key("create", "eve", "--json"))["key"].startswith("localllm-")
    key("revoke", "bob")
    assert [each["name"] for each in keys()] == ["eve"]


def test_scopes_are_words_that_can_stand_together() -> None:
    assert parse_scopes(()) == (Scope.INFER,)
    assert parse_scopes(("embed, metrics", "embed")) == (Scope.EMBED, Scope.METRICS)
    with pytest.raises(UsageError, match="infer, embed, admin, metrics"):
        parse_scopes(("root",))


def test_a_name_that_is_not_there_has_its_exit_status(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "localllm", "key", "revoke", "nobody"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert "Traceback" not in done.stderr
