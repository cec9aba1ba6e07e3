"""`localllm engine`: the builds that are there, as a person and a program see them."""

import json
from pathlib import Path

import pytest

from localllm.engine.builds.candidates import chosen_candidate
from localllm.errors import ExitCode
from tests.cli.test_library_verbs import failed, localllm
from tests.engine import broken_builds as broken


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    directory.mkdir()
    return broken.copy_of_engine(directory)


def test_the_engine_is_listed_first_hand_and_marked() -> None:
    (first, *_) = json.loads(localllm("engine", "ls", "--json").stdout)["engines"]
    candidate = chosen_candidate()
    assert first["name"] == candidate.name
    assert first["chosen"]
    assert first["accepted"]
    assert first["commit"]
    assert first["devices"]
    assert first["layouts"].keys() >= {"llama_context_params", "llama_model_params"}
    line = localllm("engine", "ls").stdout.splitlines()[1]
    assert line.startswith(f"*  {candidate.name}")
    assert line.endswith("ok")


def test_a_directory_that_is_chosen_is_listed_beside_the_installed_builds(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALLLM_ENGINE", str(copy))
    engines = json.loads(localllm("engine", "ls", "--json").stdout)["engines"]
    assert [each["name"] for each in engines if each["chosen"]] == [str(copy)]
    assert len(engines) >= 2
    broken.library(copy, "llama").write_text("no library\n")
    assert localllm("engine", "ls").stdout.splitlines()[-1].endswith("refused")


def test_a_check_says_what_was_found_and_fails_for_what_is_refused(copy: Path) -> None:
    text = localllm("engine", "check", str(copy)).stdout
    assert "Verdict    accepted" in text
    assert "Layout     llama_context_params as in" in text
    broken.truncate(broken.library(copy, "ggml"))
    done = localllm("engine", "check", str(copy), "--json")
    assert done.returncode == ExitCode.FAILED
    written = json.loads(done.stdout)
    assert not written["accepted"]
    assert "truncated" in written["refused"]
    assert written["advice"]
    assert not written["chosen"]


def test_a_check_of_nothing_examines_the_engine() -> None:
    written = json.loads(localllm("engine", "check", "--json").stdout)
    assert written["chosen"]
    assert written["examination_s"] > 0


@pytest.mark.parametrize("verb", [("check", "nope"), ("check", "/no/such/directory")])
def test_an_engine_that_is_not_there_is_one_clear_line(verb: tuple[str, ...]) -> None:
    done = localllm("engine", *verb)
    message = failed(done, ExitCode.FAILED)
    assert done.stdout == ""
    assert message.count("\n") == 1
    assert "neither a directory nor an installed engine" in message


def test_a_choice_that_is_none_is_said_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALLLM_ENGINE", "nope")
    for verb in ("ls", "check"):
        message = failed(localllm("engine", verb), ExitCode.FAILED)
        assert "LOCALLLM_ENGINE cannot be followed: nope is" in message
