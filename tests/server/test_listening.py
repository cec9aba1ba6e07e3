"""Where `localllm serve` listens: who is let in there, and what has to be typed out."""

import os
import stat
from pathlib import Path

import pytest

from localllm.errors import UsageError
from localllm.library.files.settings import Settings
from localllm.server.key import ApiKey
from localllm.server.listen import Address
from localllm.server.local.listening import (
    ListenChoice,
    certificate_files,
    check_exposure,
    choose_key,
    listening,
    unsafe,
)

LOOPBACK = Address(ip="127.0.0.1", port=11711)
EVERYWHERE = Address(ip="0.0.0.0", port=11711)
NOTHING = ListenChoice()
UNIX = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")


def test_the_key_comes_from_the_option_the_environment_or_a_new_file(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = choose_key(NOTHING, None)
    assert made is not None
    assert made.file == home / "config" / "api-key"
    monkeypatch.setenv("LOCALLLM_API_KEY", "")
    assert choose_key(NOTHING, None) == made
    monkeypatch.setenv("LOCALLLM_API_KEY", "from-the-environment")
    named = choose_key(NOTHING, None)
    assert named is not None
    assert (named.text, named.file) == ("from-the-environment", None)
    (tmp_path / "key").write_text("from-the-option\n")
    given = choose_key(ListenChoice(api_key_file=tmp_path / "key"), None)
    assert given is not None
    assert given.text == "from-the-option"
    assert choose_key(ListenChoice(no_auth=True), None) is None


def test_a_short_key_does_not_guard_an_address_that_others_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCALLLM_API_KEY", "short")
    assert choose_key(NOTHING, None) is not None
    with pytest.raises(UsageError, match="16"):
        choose_key(ListenChoice(insecure_lan=True), EVERYWHERE)


@pytest.mark.parametrize("no_auth", [False, True])
@pytest.mark.parametrize("has_tls", [False, True])
@pytest.mark.parametrize("insecure", [False, True])
def test_others_get_in_with_key_and_tls_or_when_it_is_typed_out(
    no_auth: bool, has_tls: bool, insecure: bool
) -> None:
    choice = ListenChoice(no_auth=no_auth, insecure_lan=insecure)
    check_exposure(choice, None, has_tls=has_tls)  # on this machine alone everything goes
    if insecure or (has_tls and not no_auth):
        check_exposure(choice, EVERYWHERE, has_tls=has_tls)
    else:
        with pytest.raises(UsageError, match="--insecure-lan") as raised:
            check_exposure(choice, EVERYWHERE, has_tls=has_tls)
        assert "0.0.0.0" in str(raised.value)


def test_a_certificate_and_its_key_belong_together(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    assert certificate_files(NOTHING, Settings()) is None
    both = certificate_files(NOTHING, Settings(tls_cert=str(cert), tls_key=str(key)))
    assert both is not None
    assert (both.certificate, both.key) == (cert, key)
    given = certificate_files(
        ListenChoice(tls_cert=key, tls_key=cert), Settings(tls_cert=str(cert), tls_key=str(key))
    )
    assert given is not None
    assert given.certificate == key
    for choice, settings in (
        (ListenChoice(tls_cert=cert), Settings()),
        (ListenChoice(tls_key=key), Settings(tls_cert=str(cert))),
        (NOTHING, Settings(tls_key=str(key))),
    ):
        with pytest.raises(UsageError, match="belong together"):
            certificate_files(choice, settings)


def test_what_is_less_safe_is_named() -> None:
    key = ApiKey(text="a-key-of-the-tests")
    assert list(unsafe(LOOPBACK, key, insecure=False)) == []
    assert list(unsafe(None, key, insecure=False)) == []
    (loud,) = unsafe(EVERYWHERE, key, insecure=True)
    assert loud.startswith("listening on 0.0.0.0")
    assert "can be read on the way" in loud
    assert key.text not in loud
    (exposed,) = unsafe(Address(ip="0.0.0.0", port=1, tls=True), key, insecure=False)
    assert "can be read" not in exposed
    (keyless,) = unsafe(LOOPBACK, None, insecure=False)
    assert keyless.startswith("no API key")


@UNIX
def test_a_socket_takes_the_place_of_the_port_unless_one_is_given(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(ListenChoice(socket=path), Settings(), inform=print, warn=print) as alone:
        assert (alone.url, len(alone.sockets)) == (None, 1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    loopback = Settings(host="127.0.0.1")
    with listening(ListenChoice(socket=path, port=0), loopback, inform=print, warn=print) as both:
        assert both.url is not None
        assert len(both.sockets) == 2
