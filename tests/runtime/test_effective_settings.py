"""Each setting's value and where it comes from."""

from pathlib import Path

import pytest

from localllm.errors import UsageError
from localllm.library.files.settings import settings_table
from localllm.runtime.effective_settings import EffectiveSetting, Origin, effective_settings

FILE = """
context = 8192
offline = false

[serve]
port = 8080

[hub]
endpoints = ["https://mirror.example"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(FILE, "utf-8")
    return path


def by_key(path: Path, **environment: str) -> dict[str, EffectiveSetting]:
    return {each.setting.key: each for each in effective_settings(path, environment)}


def test_a_missing_file_leaves_every_default(tmp_path: Path) -> None:
    found = by_key(tmp_path / "none.toml")
    assert list(found) == [setting.key for setting in settings_table()]
    assert {each.origin for each in found.values()} == {Origin.DEFAULT}
    assert {each.place for each in found.values()} == {None}
    assert found["serve.port"].value == 11711
    assert found["hub.endpoints"].value == ()  # `unset` says what holds


def test_a_value_of_the_file_names_its_line(file: Path) -> None:
    found = by_key(file)
    assert (found["context"].value, found["context"].origin) == (8192, Origin.FILE)
    assert found["context"].place == f"{file} line 2"
    assert found["serve.port"].place == f"{file} line 6"
    assert found["offline"].origin is Origin.FILE  # though it says what the default is
    assert found["serve.host"].origin is Origin.DEFAULT


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("LOCALLLM_OFFLINE", "1", "offline", True),
        ("LOCALLLM_OFFLINE", "0", "offline", False),
        ("HF_HUB_OFFLINE", "true", "offline", True),
        ("HF_ENDPOINT", "http://other.example", "hub.endpoints", ("http://other.example",)),
    ],
)
def test_the_environment_comes_before_the_file(
    file: Path, variable: str, text: str, key: str, value: object
) -> None:
    found = by_key(file, **{variable: text})[key]
    assert (found.value, found.origin, found.place) == (value, Origin.ENVIRONMENT, variable)


def test_a_variable_that_sets_nothing_is_no_origin(file: Path) -> None:
    found = by_key(file, HF_HUB_OFFLINE="0", HF_ENDPOINT=" ")
    assert found["offline"].origin is Origin.FILE
    assert found["hub.endpoints"].value == ("https://mirror.example",)


def test_the_hubs_own_switch_wins_over_ours_that_is_off(file: Path) -> None:
    found = by_key(file, LOCALLLM_OFFLINE="0", HF_HUB_OFFLINE="1")["offline"]
    assert (found.value, found.place) == (True, "HF_HUB_OFFLINE")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("contxt = 1", "line 1: 'contxt' is not a setting"),
        ("context = 1", "is 1 and must be from 16"),
        ("context =", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=reason):
        effective_settings(path, {})
