"""`localllm engine`: the builds that are there, as a person and a program see them."""

import json
import os
from pathlib import Path

import pytest

from localllm.engine.builds.candidates import LLAMA_CPP_PYTHON, chosen_candidate
from localllm.errors import ExitCode
from localllm.library.files import measurements, paths
from tests.cli.test_library_verbs import failed, localllm
from tests.engine import broken_builds as broken
from tests.engine.second_build import NAME, install_second_build, set_version


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    directory.mkdir()
    return broken.copy_of_engine(directory)


def test_the_engine_is_listed_first_hand_and_marked() -> None:
    (first, *_) = json.loads(localllm("engine", "ls", "--json").stdout)["engines"]
    candidate = chosen_candidate()
    assert first["id"] == candidate.name
    assert first["chosen"]
    assert first["verdict"] == "accepted"
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
    assert [each["id"] for each in engines if each["chosen"]] == [str(copy)]
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
    assert written["verdict"] == "refused"
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


# --- the choice ---


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another build that is installed as a package."""
    directory = install_second_build(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    monkeypatch.delenv("LOCALLLM_ENGINE", raising=False)
    return directory


def listed() -> dict[str, dict[str, object]]:
    engines = json.loads(localllm("engine", "ls", "--json").stdout)["engines"]
    return {each["id"]: each for each in engines}


def test_the_list_says_why_one_is_the_engine_and_the_other_is_not(second: Path) -> None:
    engines = listed()
    assert engines[LLAMA_CPP_PYTHON]["chosen"]
    assert engines[NAME]["path"] == str(second)
    assert engines[NAME]["version"] == "9.9.0"
    assert not engines[NAME]["chosen"]
    assert LLAMA_CPP_PYTHON in str(engines[NAME]["reason"])
    assert f"{LLAMA_CPP_PYTHON}: It " in localllm("engine", "ls").stderr
    hardware = json.loads(localllm("hardware", "--json").stdout)
    assert hardware["engine"]["reason"] == engines[LLAMA_CPP_PYTHON]["reason"]
    assert str(hardware["engine"]["reason"]) in " ".join(localllm("hardware").stdout.split())


def test_a_choice_is_kept_followed_explained_and_given_back(second: Path, home: Path) -> None:
    done = localllm("engine", "use", NAME)
    assert done.stdout == f"The engine is {NAME}. engine in settings.toml names it.\n"
    assert listed()[NAME]["chosen"]
    assert json.loads(localllm("hardware", "--json").stdout)["engine"]["name"] == NAME
    settings = home / "config" / "settings.toml"
    assert f"Set in {settings} line 1." in localllm("config", "--why", "engine").stdout
    assert localllm("engine", "use", "auto").stdout.startswith(
        f"The engine is {LLAMA_CPP_PYTHON}. It "
    )
    assert "This is the default" in localllm("config", "--why", "engine").stdout
    assert settings.read_text() == ""


def test_the_variable_comes_before_the_choice(
    second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALLLM_ENGINE", LLAMA_CPP_PYTHON)
    done = localllm("engine", "use", NAME)
    assert f"LOCALLLM_ENGINE={LLAMA_CPP_PYTHON} is set and comes before" in done.stderr
    assert listed()[LLAMA_CPP_PYTHON]["reason"] == "LOCALLLM_ENGINE names it."
    why = localllm("config", "--why", "engine").stdout
    assert "environment variable LOCALLLM_ENGINE" in why
    monkeypatch.setenv("LOCALLLM_ENGINE", "auto")
    assert listed()[LLAMA_CPP_PYTHON]["chosen"]
    monkeypatch.delenv("LOCALLLM_ENGINE")
    assert listed()[NAME]["chosen"]


def test_a_relative_directory_is_kept_whole(
    copy: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCALLLM_ENGINE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    monkeypatch.chdir(copy.parent)
    assert json.loads(localllm("engine", "use", copy.name, "--json").stdout)["id"] == str(copy)
    assert str(copy) in (home / "config" / "settings.toml").read_text()


def test_what_is_refused_is_not_chosen(copy: Path, home: Path) -> None:
    broken.truncate(broken.library(copy, "ggml"))
    message = failed(localllm("engine", "use", copy), ExitCode.FAILED)
    assert "is truncated" in message
    assert "neither a directory" in failed(localllm("engine", "use", "nope"), ExitCode.FAILED)
    assert not (home / "config" / "settings.toml").exists()


def test_a_choice_that_is_gone_is_one_message_with_the_way_back(
    copy: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCALLLM_ENGINE", raising=False)
    localllm("engine", "use", copy)
    for library in copy.iterdir():
        library.unlink()
    message = failed(localllm("run", smollm2, "hello"), ExitCode.FAILED)
    assert "holds no build of llama.cpp" in message
    assert "localllm engine use auto" in message
    copy.rmdir()
    message = failed(localllm("run", smollm2, "hello"), ExitCode.FAILED)
    assert message.count("\n") == 1
    assert "engine in settings.toml cannot be followed" in message
    assert "localllm engine use auto" in message
    assert localllm("engine", "use", "auto").returncode == ExitCode.OK


# --- another engine than last time ---


def test_an_upgrade_that_changes_the_engine_says_so_once(
    second: Path, tmp_path: Path, smollm2: Path
) -> None:
    def warned() -> str:
        done = localllm("run", smollm2, "hello", "--max-tokens", "1", "--quiet")
        assert done.returncode == ExitCode.OK, done.stderr
        return done.stderr

    localllm("engine", "use", NAME)
    assert "Another engine" not in warned()  # it was asked for
    set_version(tmp_path / "site", "10.0.0")
    os.utime(broken.library(second, "llama"))  # an upgrade writes its files anew
    message = warned()
    assert f"Another engine runs models now: {NAME} 10.0.0" in message
    assert f"instead of {NAME} 9.9.0" in message
    assert "Another engine" not in warned()


def test_an_engine_that_is_gone_is_followed_by_another_with_a_word(
    second: Path, tmp_path: Path, home: Path, smollm2: Path
) -> None:
    localllm("engine", "use", "auto")
    kept = next((home / "cache" / "engine-used").iterdir())
    assert LLAMA_CPP_PYTHON in kept.read_text()
    localllm("engine", "use", NAME)
    (home / "config" / "settings.toml").unlink()  # neither `use` nor the variable: an accident
    before = kept.read_bytes()
    [warning, *_] = json.loads(localllm("hardware", "--json").stdout)["warnings"]
    assert f"Another engine runs models now: {LLAMA_CPP_PYTHON}" in warning
    assert "Another engine" not in localllm("hardware").stderr  # once
    kept.write_bytes(before)
    message = localllm("run", smollm2, "hello", "--max-tokens", "1", "--quiet").stderr
    assert f"Another engine runs models now: {LLAMA_CPP_PYTHON}" in message
    assert f"instead of {NAME} 9.9.0" in message
    assert "It " in message
    kept.write_bytes(b"nonsense")
    again = localllm("run", smollm2, "hello", "--max-tokens", "1", "--quiet")
    assert again.returncode == ExitCode.OK
    assert "Another engine" not in again.stderr


# --- side by side ---


def test_builds_are_measured_in_turns_and_their_rates_listed(
    second: Path, shallow_smollm2: Path
) -> None:
    done = localllm("engine", "bench", shallow_smollm2, "--rounds", "1", "--json")
    assert done.returncode == ExitCode.OK, done.stderr
    measured = json.loads(done.stdout)["engines"]
    assert [each["id"] for each in measured] == [LLAMA_CPP_PYTHON, NAME]
    assert measured[0]["prompt_ratio"] == measured[0]["decode_ratio"] == 1
    for each in measured:
        assert each["rates"]["prompt_tps"] > 0
        assert each["decode_ratio"] > 0
        assert listed()[each["id"]]["rates"] == each["rates"]
    stored = measurements.load(paths.measurements_file(paths.data_dir()))
    assert [one.tps_mean for one in stored] == [each["rates"]["decode_tps"] for each in measured]
    assert len({one.machine.engine_version for one in stored}) == 2  # each counts for its own build
    assert "tok/s" in localllm("engine", "ls").stdout
    os.utime(broken.library(second, "llama"))
    assert listed()[NAME]["rates"] is None  # another build


def test_a_bench_of_what_is_not_there_is_one_message() -> None:
    assert "neither a directory" in failed(
        localllm("engine", "bench", "starter", "--engine", "nope"), ExitCode.FAILED
    )
    failed(localllm("engine", "bench", "no-such-model"), ExitCode.NOT_FOUND)
