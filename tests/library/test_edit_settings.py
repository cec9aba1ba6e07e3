"""One value of settings.toml is changed, and nothing else in the file."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import UsageError
from localllm.library.files.edit_settings import SettingValue, change, with_value
from localllm.library.files.settings import load, parse, settings_table

FILE = """\
# my settings

context = 8192  # long
[serve]
port = 8000
"""


def test_a_value_goes_before_the_first_key_and_the_rest_stays() -> None:
    changed = with_value(FILE, "engine", "/opt/llama.cpp")
    assert changed == FILE.replace("context", 'engine = "/opt/llama.cpp"\ncontext')
    assert with_value(changed, "engine", None) == FILE
    assert with_value("", "engine", "a") == 'engine = "a"\n'
    assert with_value("# a comment", "engine", "a") == '# a comment\nengine = "a"\n'


def test_a_value_that_is_there_is_replaced_and_its_comment_stays() -> None:
    text = "context = 8192\r\n  engine = 'old'  # try\r\n[serve]\r\nport = 1\r\n"
    assert with_value(text, "engine", "new") == text.replace("  engine = 'old'", 'engine = "new"')
    assert with_value(text, "engine", None) == "context = 8192\r\n[serve]\r\nport = 1\r\n"


def test_taking_out_what_is_not_there_changes_nothing() -> None:
    assert with_value(FILE, "engine", None) == FILE


@given(st.text(min_size=1))
def test_any_text_is_read_as_it_was_written_or_refused(value: str) -> None:
    try:
        changed = with_value(FILE, "engine", value)
    except UsageError:
        assert not value.isprintable()
        return
    assert tomllib.loads(changed) == {**tomllib.loads(FILE), "engine": value}
    assert with_value(with_value(changed, "engine", "other"), "engine", None) in (FILE,)


@pytest.mark.parametrize(
    ("key", "value"),
    [("offline", True), ("context", 16), ("serve.port", 9000), ("serve.pin", ("a", "b # c")),
     ("hub.ca_cert", "/x"), ("serve.strict", False), ("serve.host", "127.0.0.1")],
)  # fmt: skip
@pytest.mark.parametrize(
    "text", ["", FILE, FILE.replace("\n", "\r\n"), "[serve]", "# x\n[hub]\n\n[ serve ] # y\n"]
)
def test_a_value_of_any_kind_and_table_is_set_and_taken_out(
    text: str, key: str, value: SettingValue
) -> None:
    changed = with_value(text, key, value)
    (setting,) = (each for each in settings_table() if each.key == key)
    assert getattr(parse(changed), setting.field) == value
    without = parse(with_value(changed, key, None))
    assert getattr(without, setting.field) == setting.default
    kept = [line for line in text.splitlines() if setting.key.rpartition(".")[2] not in line]
    assert set(kept) <= set(changed.splitlines())
    with pytest.raises(UsageError):
        with_value(text, key, 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ['engine = """\nold"""\n', '"engine" = "old"\n'])
def test_what_is_written_unusually_is_left_to_a_person(text: str) -> None:
    with pytest.raises(UsageError, match=r'Change it by hand: engine = "new"'):
        with_value(text, "engine", "new")
    with pytest.raises(UsageError, match="Change it by hand: delete engine"):
        with_value(text, "engine", None)


def test_a_file_with_an_error_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("contxt = 1\n")
    with pytest.raises(UsageError, match="line 1: 'contxt' is not a setting"):
        change("engine", "a", path)
    assert path.read_text() == "contxt = 1\n"


def test_a_file_is_made_where_there_is_none(tmp_path: Path) -> None:
    path = change("engine", "a", tmp_path / "new" / "settings.toml")
    assert load(path).engine == "a"


@pytest.mark.skipif(os.name != "posix", reason="POSIX links and modes")
def test_a_link_stays_one_and_a_private_file_private(tmp_path: Path) -> None:
    target, link = tmp_path / "dotfiles.toml", tmp_path / "settings.toml"
    target.write_text(FILE)
    target.chmod(0o600)
    link.symlink_to(target)
    change("engine", "a", link)
    assert link.is_symlink()
    assert load(target).engine == "a"
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_is_said_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"settings\.toml cannot be changed: "):
        change("engine", "a", tmp_path / "file" / "settings.toml")
