"""`localllm config`, as a person and a program run it."""

import json
from pathlib import Path

import pytest

from localllm.errors import ExitCode
from localllm.library.files.settings import settings_table
from tests.cli.test_library_verbs import failed, localllm


@pytest.fixture
def file(home: Path) -> Path:
    path = home / "config" / "settings.toml"
    path.write_text('context = 8192\nchat_templates = { "m" = "m.jinja" }\n', "utf-8")
    return path


def test_every_setting_is_listed_with_its_origin(file: Path) -> None:
    done = localllm("config", "--json")
    document = json.loads(done.stdout)
    assert document["file"] == str(file)
    listed = {each["key"]: each for each in document["settings"]}
    assert list(listed) == [setting.key for setting in settings_table()]
    assert listed["context"]["value"] == 8192
    assert listed["context"]["origin"] == "file"
    assert listed["context"]["place"].endswith("settings.toml line 1")
    assert listed["chat_templates"]["value"] == {"m": "m.jinja"}
    assert listed["serve.port"]["origin"] == "default"
    assert {each["locked"] for each in listed.values()} == {False}
    lines = localllm("config").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(listed)
    assert any("8192" in line and f"file: {file} line 1" in line for line in lines)


def test_why_explains_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"Set in {file} line 1." in localllm("config", "--why", "context").stdout
    assert "This is the default" in localllm("config", "--why", "serve.port").stdout
    monkeypatch.setenv("LOCALLLM_OFFLINE", "1")
    assert "environment variable LOCALLLM_OFFLINE" in localllm("config", "--why", "offline").stdout
    (only,) = json.loads(localllm("config", "--why", "offline", "--json").stdout)["settings"]
    assert (only["key"], only["value"]) == ("offline", True)


def test_what_is_wrong_is_one_sentence(file: Path) -> None:
    assert "Did you mean serve.port?" in failed(
        localllm("config", "--why", "sevre.port"), ExitCode.USAGE
    )
    file.write_text("contxt = 1\n", "utf-8")
    message = failed(localllm("config"), ExitCode.USAGE)
    assert "line 1: 'contxt' is not a setting. Did you mean context?" in message
