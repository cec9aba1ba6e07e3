"""`serve --open`: the link reaches a browser, or the person."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from localllm.cli.commands.server import serve
from localllm.errors import UsageError
from localllm.server.access.key_ring import KeyRing
from localllm.server.page.browser import has_window_system, page_link

URL = "http://127.0.0.1:11711"


def test_the_token_stays_out_of_what_a_browser_sends() -> None:
    assert page_link(URL, "a-token") == "http://127.0.0.1:11711/#t=a-token"
    assert page_link("https://[::1]:8443", None) == "https://[::1]:8443/"


@pytest.mark.parametrize(
    ("platform", "environment", "windows"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_a_browser_needs_a_window(
    platform: str, environment: dict[str, str], windows: bool
) -> None:
    assert has_window_system(platform, environment) is windows


@pytest.mark.skipif(os.name != "posix", reason="BROWSER is a command of a shell's")
async def test_the_browser_gets_the_link_or_the_person_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(
        f"#!{sys.executable}\nimport sys\nprint('noise')\n"
        f"open({str(seen)!r}, 'w').write(sys.argv[1])\n"
    )
    browser.chmod(0o755)
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setenv("BROWSER", str(browser))
    await serve.open_page(URL, KeyRing("key"))
    assert seen.read_text().startswith(f"{URL}/#t=")
    output = capsys.readouterr()
    assert (output.out, "opens in the browser" in output.err) == ("", True)
    assert "#t=" not in output.err
    seen.unlink()
    monkeypatch.setenv("BROWSER", "/bin/false")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    await serve.open_page(URL, KeyRing("key"))
    assert f"  {URL}/#t=" in capsys.readouterr().err
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("BROWSER", str(browser))
    await serve.open_page(URL, KeyRing("key"))
    assert f"  {URL}/#t=" in capsys.readouterr().err
    assert not seen.exists()


def test_no_browser_opens_a_unix_socket(tmp_path: Path) -> None:
    run = CliRunner().invoke(
        serve.command, ["starter", "--open", "--socket", str(tmp_path / "socket")]
    )
    assert isinstance(run.exception, UsageError)
    assert "--port" in str(run.exception)
