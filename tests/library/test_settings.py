from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.messages import NO_EFFORT, Effort
from localllm.errors import ExitCode, UsageError
from localllm.library.files import paths
from localllm.library.files.settings import Settings, find_setting, load, parse

FULL = """\
offline = true
reserve_bytes = 1073741824   # 1 GiB
context = 8192

[serve]
host = "127.0.0.2"
port = 0
request_timeout_s = 300

[hub]
endpoints = ["https://mirror.example", "https://huggingface.co"]
ca_cert = "/etc/ours.pem"
"""


def test_every_setting_is_read() -> None:
    assert parse(FULL) == Settings(
        offline=True,
        reserve_bytes=1 << 30,
        context=8192,
        host="127.0.0.2",
        port=0,
        request_timeout_s=300,
        endpoints=("https://mirror.example", "https://huggingface.co"),
        ca_cert="/etc/ours.pem",
    )


def test_without_a_file_the_defaults_hold(home: Path) -> None:
    assert load(environment={}) == Settings()


def test_the_file_of_the_user_is_read_and_the_environment_wins(home: Path) -> None:
    paths.settings_file().write_text("offline = true\n")
    assert load(environment={}).offline
    assert not load(environment={"LOCALLLM_OFFLINE": "0"}).offline
    paths.settings_file().write_text("")
    assert load(environment={"LOCALLLM_OFFLINE": "1"}).offline


def test_a_misspelt_switch_in_the_environment_is_an_error(home: Path) -> None:
    with pytest.raises(UsageError, match="LOCALLLM_OFFLINE is 'ture'"):
        load(environment={"LOCALLLM_OFFLINE": "ture"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ofline = true", "line 1: 'ofline' is not a setting. Did you mean offline?"),
        ("\n\n[serve]\nprt = 1", "line 4: 'serve.prt' is not a setting. Did you mean serve.port?"),
        ("[unknown]\nx = 1", "line 1: 'unknown' is not a setting. The settings are: offline"),
        ("[serve]\nport = 65536", "line 2: 'serve.port' is 65536 and must be from 0 to 65535"),
        ("[serve]\nrequest_timeout_s = 0", "is 0 and must be from 1 to 604800"),
        ("serve.port = true", "line 1: 'serve.port' must be a whole number"),
        ("context = 15", "line 1: 'context' is 15 and must be from 16 to 16777216"),
        ("reserve_bytes = -1", "line 1: 'reserve_bytes' is -1 and must be from 0"),
        ("reserve_bytes = 1.5", "line 1: 'reserve_bytes' must be a whole number"),
        ('offline = "yes"', "line 1: 'offline' must be true or false"),
        ('[serve]\nhost = ""', "line 2: 'serve.host' must be a text"),
        ("serve = 1", "line 1: 'serve' is not a setting"),
        ('[hub]\nendpoints = "https://x"', "line 2: 'hub.endpoints' must be a list of texts"),
        ("[hub]\nendpoints = [1]", "line 2: 'hub.endpoints' must be a list of texts"),
        ('[hub]\nendpoints = [""]', "line 2: 'hub.endpoints' must be a list of texts"),
        (
            'reasoning_effort = "lots"',
            "'reasoning_effort' must be a text: none, minimal, low, medium, high, xhigh",
        ),
        (
            '[rope_scaling]\n"m" = "yarm"',
            "'rope_scaling' must be a table of texts: none, linear, yarn",
        ),
        ("[hub]\nca_cert = true", "line 2: 'hub.ca_cert' must be a text"),
        ("a = ", "is not valid TOML: Invalid value (at"),
        ('"\\u001b[2Jx" = 1', ": 'x' is not a setting"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text)
    assert message in str(error.value)
    assert error.value.exit_code == ExitCode.USAGE


def test_a_file_that_is_no_text_is_an_error(home: Path) -> None:
    paths.settings_file().write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        load(environment={})
    paths.settings_file().unlink()
    paths.settings_file().mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        load(environment={})


@settings(deadline=None)
@given(st.text())
def test_any_text_gives_settings_or_a_usage_error(text: str) -> None:
    try:
        parse(text)
    except UsageError as error:
        assert "settings.toml" in str(error)


def test_the_words_of_an_effort_are_the_engine_s() -> None:
    for word in (NO_EFFORT, *Effort):
        assert parse(f'reasoning_effort = "{word}"').reasoning_effort == word
    assert find_setting("reasoning_effort").words == (NO_EFFORT, *Effort)
