"""The user's endpoint, proxy, certificate and token for the Hub, and messages about bad ones."""

from pathlib import Path

import pytest

from localllm.errors import ExitCode
from tests.cli.hub_processes import localllm
from tests.hub import FakeHub
from tests.hub.certificate import loopback_certificate

REPO = "org/quince-GGUF"
NOWHERE = "http://127.0.0.1:9"
SECRET = "hf_verysecret"


def write_settings(home: Path, text: str) -> None:
    (home / "config" / "settings.toml").write_text(text)


@pytest.mark.parametrize(
    "verb", [("search", "x"), ("pull", REPO), ("show", REPO), ("size", f"{REPO}:Q4_0")]
)
def test_an_endpoint_that_is_none_is_a_usage_error(hub: FakeHub, verb: tuple[str, ...]) -> None:
    done = localllm(hub, *verb, HF_ENDPOINT=f"https://user:{SECRET}@")
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "HF_ENDPOINT is 'https://'" in done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HF_TOKEN", f"{SECRET} {SECRET}", "token in HF_TOKEN cannot be one"),
        ("HF_HUB_ETAG_TIMEOUT", "soon", "begins with HF_ cannot be used"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem", "SSL_CERT_FILE or SSL_CERT_DIR cannot be used"),
    ],
)
def test_a_variable_that_cannot_be_used_is_a_usage_error(
    hub: FakeHub, variable: str, value: str, message: str
) -> None:
    done = localllm(hub, "search", "x", COLUMNS="1000", **{variable: value})
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert message in done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.requests == ()


def test_endpoints_of_the_settings_are_asked_in_their_order(hub: FakeHub, home: Path) -> None:
    hub.add_repo(REPO, {})
    write_settings(home, f'[hub]\nendpoints = ["{NOWHERE}", "{hub.endpoint}"]\n')
    done = localllm(hub, "search", "quince", HF_ENDPOINT="", HF_TOKEN="hf_good")
    assert done.returncode == ExitCode.OK, done.stderr
    assert REPO in done.stdout
    assert [each.token for each in hub.requests] == ["hf_good"]


def test_a_certificate_of_the_settings_is_trusted(home: Path) -> None:
    with FakeHub(tls=True) as hub:
        hub.add_repo(REPO, {})
        refused = localllm(hub, "search", "quince", COLUMNS="1000")
        assert refused.returncode == ExitCode.FAILED
        assert "not trusted here" in refused.stderr
        assert "ca_cert" in refused.stderr
        write_settings(home, f'[hub]\nca_cert = "{loopback_certificate().as_posix()}"\n')
        done = localllm(hub, "search", "quince")
        assert done.returncode == ExitCode.OK, done.stderr
        assert REPO in done.stdout


def test_a_proxy_is_not_asked_for_this_machine(hub: FakeHub) -> None:
    hub.add_repo(REPO, {})
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), NOWHERE)
    done = localllm(hub, "search", "quince", **proxies)
    assert done.returncode == ExitCode.OK, done.stderr


def test_a_token_that_the_hub_does_not_know_is_said_and_not_shown(hub: FakeHub) -> None:
    hub.add_repo(REPO, {})
    done = localllm(hub, "search", "quince", HF_TOKEN=SECRET, COLUMNS="1000")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "does not know your token" in done.stderr
    assert SECRET not in done.stdout + done.stderr
