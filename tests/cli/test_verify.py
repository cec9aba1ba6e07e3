"""`localllm verify`, as a person and a program run it."""

import hashlib
import json
from pathlib import Path

import pytest

from localllm.errors import ExitCode
from tests.cli.test_library_verbs import BASE_KEYS, EXTRA_KEYS, failed, localllm, rows
from tests.library import tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "my.gguf", name="My Model", license="mit")


def test_verify_all_covers_the_starter_and_records_first_digests(model: Path) -> None:
    localllm("import", model)
    listed = rows(localllm("verify", "--all", "--json"))
    assert [(row["name"], row["ok"]) for row in listed] == [("my-model", True), ("starter", True)]
    assert listed[0].keys() == BASE_KEYS | EXTRA_KEYS | {"ok", "detail"}
    assert listed[0]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert listed[0]["detail"] == "first digest recorded, nothing to compare it with"
    assert all(row["verified_at"] is not None for row in listed)
    assert all(row["verified_at"] for row in rows(localllm("ls", "--json")))


def test_ls_shows_what_is_verified(model: Path) -> None:
    localllm("import", model)
    assert "VERIFIED" in localllm("ls").stdout
    before = localllm("ls", "--json")
    assert rows(before)[0]["verified_at"] is None
    localllm("verify", "my-model")
    day = str(rows(localllm("ls", "--json"))[0]["verified_at"])[:10]
    line = next(each for each in localllm("ls").stdout.splitlines() if each.startswith("my-model"))
    assert line.split()[-1] == day


def test_a_spoiled_file_fails_and_the_others_are_still_checked(tmp_path: Path, model: Path) -> None:
    other = tiny.write(tmp_path / "other.gguf", name="Other")
    localllm("import", "--hash", model, other)
    before = hashlib.sha256(model.read_bytes()).hexdigest()
    tiny.spoil(model)
    done = localllm("verify", "my-model", "other", "--json")
    message = failed(done, ExitCode.FAILED)
    assert [row["ok"] for row in json.loads(done.stdout)["models"]] == [False, True]
    assert "Hashing my-model" in message
    warning = failed(localllm("verify", "my-m", "--quiet"), ExitCode.FAILED)
    for fact in (str(model), before, hashlib.sha256(model.read_bytes()).hexdigest()):
        assert fact in warning
    assert "Hashing" not in warning
    assert "failed" in localllm("verify", "my-model").stdout


def test_verify_takes_a_path_and_changes_nothing(home: Path, model: Path) -> None:
    (row,) = rows(localllm("verify", model, "--json"))
    assert (row["ok"], row["source"]) == (None, "path")
    assert list((home / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), ExitCode.USAGE, "give --all to read all 93.8 MiB"),
        (("starter", "--all"), ExitCode.USAGE, "not both"),
        (("startr",), ExitCode.NOT_FOUND, "Nearest: starter"),
        (("\x1b]0;x\x07",), ExitCode.NOT_FOUND, "No installed model"),
    ],
)
def test_verify_says_what_it_does_not_understand(
    arguments: tuple[str, ...], code: ExitCode, message: str
) -> None:
    assert message in failed(localllm("verify", *arguments), code)


def test_a_name_that_is_given_twice_is_read_once(model: Path) -> None:
    localllm("import", model)
    assert len(rows(localllm("verify", "my-model", "my", "--json"))) == 1


def test_verify_prints_no_escapes_of_a_hostile_file(tmp_path: Path) -> None:
    file = tiny.write(tmp_path / "\x1b]0;owned\x07[bold]x.gguf", name="\x1b[2J[/INST]")
    localllm("import", "--hash", file)
    tiny.spoil(file)
    done = localllm("verify", "--all")
    assert done.returncode == ExitCode.FAILED
    assert "\x1b" not in done.stdout + done.stderr
