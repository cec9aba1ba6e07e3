import logging
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from localllm.errors import HubError, Offline, UsageError
from localllm.library.files import paths
from localllm.library.files.settings import Settings
from localllm.library.http.client import (
    READ_S,
    Access,
    access_from,
    bounded_timeouts,
    describe_error,
    open_client,
)
from localllm.library.http.retry_policy import retry_after_s
from localllm.library.http.urls import DEFAULT_ENDPOINT, file_url
from tests.hub import Drop, FakeHub, Redirect, Truncate
from tests.hub.certificate import loopback_certificate
from tests.hub.socks import SocksProxy

SECRET = "hf_member"


def with_token(hub: FakeHub) -> Access:
    return Access(endpoints=(hub.endpoint,), token=SECRET)


# --- what the settings and the environment say ---


def test_without_settings_the_hub_itself_is_asked() -> None:
    found = access_from(Settings(), environment={})
    assert found.endpoints == (DEFAULT_ENDPOINT,)
    assert found.offline is None
    assert found.token is None
    assert found.ca_file is None


def test_mirrors_come_from_the_settings_and_one_from_the_environment() -> None:
    mirrors = Settings(endpoints=("https://one.example/", "http://two.example:8080/hub"))
    assert access_from(mirrors, environment={}).endpoints == (
        "https://one.example",
        "http://two.example:8080/hub",
    )
    abroad = access_from(Settings(endpoints=("https://bücher.example",)), environment={})
    assert abroad.endpoints == ("https://xn--bcher-kva.example",)
    only = access_from(mirrors, environment={"HF_ENDPOINT": " https://three.example/ "})
    assert only.endpoints == ("https://three.example",)


@pytest.mark.parametrize(
    "endpoint",
    [
        "huggingface.co", "http://", "://x", "ftp://x.example", "https://x.example:99999", "http://x:0",
        "http://[bad", "https://a b", "https://x.example/?token=hf_secret", "https://x.example#a",
        "https://user:hf_secret@x.example", "https://x.example\n.evil", "file:///etc", "https://%00",
        "https://a..example", "https://" + "a" * 64 + ".example", "https://" + "a." * 130 + "org",
    ],
)  # fmt: skip
def test_an_endpoint_that_is_none_is_a_usage_error_without_secrets(endpoint: str) -> None:
    with pytest.raises(UsageError, match="HF_ENDPOINT is ") as error:
        access_from(Settings(), environment={"HF_ENDPOINT": endpoint})
    assert "hf_secret" not in str(error.value)
    with pytest.raises(UsageError, match=r"\[hub\] endpoints is "):
        access_from(Settings(endpoints=(endpoint,)), environment={})


@pytest.mark.parametrize(
    ("settings", "offline", "environment", "who"),
    [
        (Settings(), True, {}, "--offline"),
        (Settings(offline=True), False, {"LOCALLLM_OFFLINE": "1"}, "LOCALLLM_OFFLINE"),
        (Settings(offline=True), False, {}, "offline in settings"),
        (Settings(), False, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (Settings(), False, {"LOCALLLM_OFFLINE": "0", "HF_HUB_OFFLINE": "0"}, None),
    ],
)
def test_who_switched_the_network_off_is_known(
    settings: Settings, offline: bool, environment: dict[str, str], who: str | None
) -> None:
    assert access_from(settings, offline=offline, environment=environment).offline == who


def test_offline_nothing_is_opened(hub: FakeHub) -> None:
    off = Access(endpoints=(hub.endpoint,), offline="--offline", token=SECRET)
    with pytest.raises(Offline, match=r"switched off \(--offline\)"):
        open_client(off)
    assert hub.requests == ()


# --- what leaves ---


def test_only_a_short_list_of_headers_leaves(hub: FakeHub) -> None:
    talkative = {
        "User-Agent": "unknown/None; hf_hub/2.4.0; agent/x", "X-Amzn-Trace-Id": "1",
        "Cookie": "a=b", "Referer": "https://x.example", "Accept-Encoding": "gzip, br",
        "Range": "bytes=0-1", "Authorization": "Bearer somebody-elses",
    }  # fmt: skip
    with open_client(Access(endpoints=(hub.endpoint,))) as client:
        client.get(f"{hub.endpoint}/api/models", headers=talkative)
    (request,) = hub.requests
    assert request.headers == {
        "host": hub.endpoint.removeprefix("http://"),
        "accept": "*/*",
        "connection": "keep-alive",
        "range": "bytes=0-1",
        "user-agent": "localllm/0.1.0",
        "accept-encoding": "identity",
    }


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_is_ever_sent_but_questions(hub: FakeHub, method: str) -> None:
    with open_client(with_token(hub)) as client, pytest.raises(HubError, match="only GET and HEAD"):
        client.request(method, f"{hub.endpoint}/v1/telemetry", content=b"x")
    assert hub.requests == ()


def test_a_cookie_is_never_given_back(hub: FakeHub) -> None:
    with open_client(Access(endpoints=(hub.endpoint,))) as client:
        client.cookies.set("id", "1")
        client.get(f"{hub.endpoint}/api/models")
    assert "cookie" not in hub.requests[0].headers


def test_nothing_is_waited_for_for_ever() -> None:
    for timeouts in ({}, {"connect": None, "read": None, "write": None, "pool": None}):
        assert all(0 < value <= READ_S for value in bounded_timeouts(timeouts).values())
    assert bounded_timeouts({"read": 2.5})["read"] == 2.5


# --- the token ---


def test_the_token_goes_to_the_endpoint_and_not_across_its_redirect(hub: FakeHub) -> None:
    commit = hub.add_repo("org/m", {"m.gguf": b"x" * 100}, gated="auto")
    url = file_url(hub.endpoint, "org/m", commit, "m.gguf")
    with open_client(with_token(hub), follow_redirects=True) as client:
        assert client.get(url).content == b"x" * 100
    assert [each.token for each in hub.requests] == [SECRET]
    assert "authorization" not in hub.cdn_requests[0].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_another_port_is_another_host(hub: FakeHub, status: int) -> None:
    with FakeHub() as stranger, open_client(with_token(hub), follow_redirects=True) as client:
        hub.faults.add(Redirect(f"{stranger.endpoint}/api/models", status))
        assert client.get(f"{hub.endpoint}/api/models").status_code == 200
        assert hub.requests[0].token == SECRET
        assert [each.token for each in stranger.requests] == [None]


def test_no_caller_can_take_the_token_elsewhere(hub: FakeHub) -> None:
    with FakeHub() as stranger, open_client(with_token(hub)) as client:
        client.get(stranger.endpoint, headers={"Authorization": f"Bearer {SECRET}"})
        client.get(stranger.endpoint, auth=("user", SECRET))
        client.get(stranger.endpoint.replace("http://", f"http://user:{SECRET}@"))
        assert all("authorization" not in each.headers for each in stranger.requests)
        assert SECRET not in repr(stranger.requests)


def test_a_token_that_was_given_up_for_a_redirect_back_is_given_again(hub: FakeHub) -> None:
    hub.add_repo("org/m", {}, private=True)
    with FakeHub() as stranger, open_client(with_token(hub), follow_redirects=True) as client:
        stranger.faults.add(Redirect(f"{hub.endpoint}/api/models/org/m"))
        assert client.get(f"{stranger.endpoint}/x").status_code == 200
        assert [each.token for each in stranger.requests] == [None]
        assert [each.token for each in hub.requests] == [SECRET]


def test_the_token_is_asked_for_only_when_an_endpoint_is(hub: FakeHub) -> None:
    lookups: list[str] = []

    def find() -> str | None:
        lookups.append("token")
        return SECRET

    lazily = Access(endpoints=(hub.endpoint,), find_token=find)
    with open_client(lazily) as client:
        client.get(hub.cdn)
        assert lookups == []
        client.get(f"{hub.endpoint}/api/models")
    assert lookups == ["token"]
    assert hub.requests[0].token == SECRET


def test_a_token_shows_up_nowhere(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    commit = hub.add_repo("org/m", {"m.gguf": b"x" * 1000}, gated="auto")
    found = with_token(hub)
    texts = [repr(found), str(found)]
    hub.faults.add(Truncate(10), times=1)
    hub.faults.add(Drop(10), times=2)
    with open_client(found) as client:
        moved = client.get(file_url(hub.endpoint, "org/m", commit, "m.gguf"))
        texts += [repr(moved), repr(moved.request.headers), str(moved.next_request)]
        for _ in range(2):
            with pytest.raises(httpx2.TransportError) as broken:
                client.get(moved.headers["location"])
            texts += [describe_error(broken.value), str(broken.value), repr(broken.value)]
    everything = "\n".join([*texts, caplog.text, *map(str, caplog.records)])
    assert SECRET not in everything
    assert "X-Signature" not in caplog.text


# --- where it may lead ---


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "http://cdn.example/x?X-Signature=sig1",
            "leads to http://cdn.example/x, which is not enc",
        ),
        ("ftp://cdn.example/x", "which is no http"),
        ("file:///etc/passwd", "which is no http"),
        ("https://cdn.example:99999/x", "which is no http"),
        ("https://a..example/x", "which is no http"),
        ("https://%s.example/x" % ("a" * 64), "which is no http"),
    ],
)
def test_a_redirect_to_what_is_not_encrypted_is_not_followed(
    hub: FakeHub, address: str, message: str
) -> None:
    hub.faults.add(Redirect(address))
    with (
        open_client(with_token(hub), follow_redirects=True) as client,
        pytest.raises(HubError, match=message) as refused,
    ):
        client.get(hub.endpoint)
    assert "sig1" not in str(refused.value)


def test_a_hub_elsewhere_cannot_lead_to_a_service_of_this_machine(hub: FakeHub) -> None:
    for url in (
        hub.endpoint, "http://localhost:1", "https://[::1]/x", "https://127.9.9.9", "https://127.1",
        "https://0.0.0.0", "https://2130706433", "https://[::ffff:127.0.0.1]", "https://a.localhost",
    ):  # fmt: skip
        with open_client(Access()) as client, pytest.raises(HubError, match="on this machine"):
            client.get(url)
    assert hub.requests == ()


def test_a_mirror_without_encryption_is_asked_when_the_user_named_it(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/m", {})
    monkeypatch.setenv("HTTP_PROXY", hub.endpoint)  # stands in for the way to the mirror
    plain = Access(endpoints=("http://mirror.example",), token=SECRET)
    with open_client(plain) as client:
        assert client.get("http://mirror.example/api/models/org/m").status_code == 200
        with pytest.raises(HubError, match="not encrypted"):
            client.get("http://mirror.example:8080/api/models/org/m")
    assert [each.headers["host"] for each in hub.requests] == ["mirror.example"]


# --- proxies ---


def test_loopback_is_never_reached_through_a_proxy(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with open_client(with_token(hub)) as client:
        assert client.get(f"{hub.endpoint}/api/models").status_code == 200


def test_an_encrypted_request_goes_through_the_proxy_which_sees_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        seen: list[bytes] = []

        def refuse() -> None:
            connection, _ = proxy.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        port = proxy.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hf_secret@127.0.0.1:{port}")
        with (
            open_client(Access(token=SECRET)) as client,
            pytest.raises(httpx2.ProxyError) as refused,
        ):
            client.get(f"{DEFAULT_ENDPOINT}/api/models?search=secret")
        thread.join(10)
    where = f"the proxy http://127.0.0.1:{port} (HTTPS_PROXY)"
    assert describe_error(refused.value) == (
        f"{where} wants a login (407); write it as SCHEME://USER:PASSWORD@HOST:PORT"
    )
    (head,) = seen
    assert head.startswith(b"CONNECT huggingface.co:443 HTTP/1.1\r\n")
    assert SECRET.encode() not in head
    assert b"search" not in head
    assert b"python" not in head.lower()


@pytest.mark.parametrize("proxy", ["socks9://x", "socks4://user:hf_secret@x:1", "http://x:y"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, proxy: str, variable: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    with open_client(Access()) as client, pytest.raises(UsageError, match="The proxy") as error:
        client.get("https://huggingface.co/api/models")
    assert "hf_secret" not in str(error.value)
    assert f" of {variable} cannot be used: give an http://, https:// or socks5:// address" in str(
        error.value
    )


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_cannot_be_reached_is_named_and_not_the_hub(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    monkeypatch.setenv(variable, f"{scheme}://me:hf_secret@127.0.0.1:9")  # nobody listens there
    with open_client(Access()) as client, pytest.raises(httpx2.TransportError) as refused:
        client.get(f"{DEFAULT_ENDPOINT}/api/models")
    message = describe_error(refused.value)
    assert message == (
        f"no connection: Connection refused, through the proxy {scheme}://127.0.0.1:9 ({variable})"
    )


def answering_proxy(response: bytes) -> socket.socket:
    """A proxy that reads one request and answers so."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(response)

    threading.Thread(target=answer, daemon=True).start()
    return server


def test_a_proxy_that_refuses_or_wants_a_login_says_so_for_plain_requests_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = Access(endpoints=("http://mirror.example",))
    for status, url, words in (
        (b"407 Proxy Authentication Required", "http://mirror.example/", "wants a login (407)"),
        (b"403 Blocked by policy", "https://huggingface.co/", "(403 Blocked by policy)"),
        (b"502 \x1b[31mBad", "https://huggingface.co/", "refused the connection (502 "),
    ):
        with answering_proxy(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status) as proxy:
            for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
                monkeypatch.setenv(variable, f"127.0.0.1:{proxy.getsockname()[1]}")
            with open_client(plain) as client, pytest.raises(httpx2.ProxyError) as refused:
                client.get(url)
        message = describe_error(refused.value)
        assert words in message
        assert message.isprintable()


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks"])
def test_a_socks_proxy_is_used_and_resolves_the_names(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    hub.add_repo("org/m", {})
    host, port = hub.endpoint.removeprefix("http://").split(":")
    with SocksProxy((host, int(port))) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://{proxy.address}")
        with open_client(Access(endpoints=("http://mirror.invalid",))) as client:
            assert client.get("http://mirror.invalid/api/models/org/m").status_code == 200
        assert proxy.asked == ["mirror.invalid:80"]


def test_a_socks_proxy_that_wants_a_password_gets_it_and_no_message_does(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/m", {})
    host, port = hub.endpoint.removeprefix("http://").split(":")
    url = "http://mirror.invalid/api/models/org/m"
    with SocksProxy((host, int(port)), password="hf_secret") as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5://me:hf_secret@{proxy.address}")
        with open_client(Access(endpoints=("http://mirror.invalid",))) as client:
            assert client.get(url).status_code == 200
        for wrong in ("me:hf_wrong@", ""):
            monkeypatch.setenv("ALL_PROXY", f"socks5://{wrong}{proxy.address}")
            with (
                open_client(Access(endpoints=("http://mirror.invalid",))) as client,
                pytest.raises(httpx2.TransportError) as refused,
            ):
                client.get(url)
            message = describe_error(refused.value)
            assert f"the proxy socks5://{proxy.address} (ALL_PROXY)" in message
            assert "hf_" not in message


def test_a_socks_proxy_that_reaches_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with SocksProxy(None) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5://{proxy.address}")
        with open_client(Access()) as client, pytest.raises(httpx2.ProxyError) as refused:
            client.get("https://huggingface.co/")
    assert f"the proxy socks5://{proxy.address} (ALL_PROXY)" in describe_error(refused.value)


# --- certificates ---


def test_a_certificate_is_trusted_when_the_settings_or_the_environment_name_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeHub(tls=True) as hub:
        url = f"{hub.endpoint}/api/models"
        with (
            open_client(Access(endpoints=(hub.endpoint,))) as client,
            pytest.raises(httpx2.ConnectError) as refused,
        ):
            client.get(url)
        message = describe_error(refused.value)
        assert "not trusted here (self-signed certificate)" in message
        assert f"[hub] ca_cert in {paths.settings_file()}" in message
        with open_client(
            Access(endpoints=(hub.endpoint,), ca_file=loopback_certificate())
        ) as client:
            assert client.get(url).status_code == 200
        monkeypatch.setenv("SSL_CERT_FILE", str(loopback_certificate()))
        with open_client(Access(endpoints=(hub.endpoint,))) as client:
            assert client.get(url).status_code == 200


def test_the_settings_own_certificate_comes_beside_the_systems(tmp_path: Path) -> None:
    named = access_from(Settings(ca_cert=str(loopback_certificate())), environment={})
    assert named.ca_file == loopback_certificate()
    for file, why in (("none.pem", "No such file"), ("empty.pem", "no certificate in it")):
        (tmp_path / "empty.pem").write_text("nothing")
        with pytest.raises(UsageError, match=rf"\[hub\] ca_cert \(.*{file}\) of .*{why}"):
            open_client(Access(ca_file=tmp_path / file))


def test_a_bad_ssl_cert_file_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        open_client(Access())


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_bundles_of_requests_and_curl_are_trusted_too(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(loopback_certificate()))
    with FakeHub(tls=True) as hub, open_client(Access(endpoints=(hub.endpoint,))) as client:
        assert client.get(f"{hub.endpoint}/api/models").status_code == 200


def test_a_bundle_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, path, why in (
        ("CURL_CA_BUNDLE", tmp_path / "none.pem", "No such file"),
        ("REQUESTS_CA_BUNDLE", Path(__file__), "no certificate in it"),
    ):
        monkeypatch.setenv(variable, str(path))
        with pytest.raises(UsageError, match=rf"{variable} \(.*{path.name}\) cannot.*{why}"):
            open_client(Access())


@pytest.mark.parametrize(
    ("code", "stated", "words"),
    [
        (
            10,
            "certificate has expired",
            "not valid now (certificate has expired); look at the clock",
        ),
        (9, "certificate is not yet valid", "not valid now"),
        (62, "Hostname mismatch", "another host's (Hostname mismatch)"),
        (20, "unable to get local issuer certificate", "not trusted here (unable to get local"),
    ],
)
def test_a_refused_certificate_says_why_and_what_to_do(code: int, stated: str, words: str) -> None:
    cause = ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")
    cause.verify_code, cause.verify_message = code, stated
    error = httpx2.ConnectError("CERTIFICATE_VERIFY_FAILED")
    error.__cause__ = cause
    assert words in describe_error(error)


# --- texts ---


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0), ("120", 120.0), ("86400", 86400.0), (" 7 ", 7.0),
        ("Sat, 21 Nov 2026 08:00:30 GMT", 30.0), ("Sat, 21 Nov 2026 07:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2026 08:00:00 GMT", 86400.0), ("Sat, 21 Nov 2026 09:00:30 +0100", 30.0),
        ("", None), ("soon", None), ("-5", None), ("1.5", None), ("9" * 400, 999999999999.0),
        ("Sat, 99 Nov 2026 08:00:30 GMT", None), ("Sat, 21 Nov 99999 08:00:30 GMT", None),
        ("²", None), ("nan", None), ("inf", None),
    ],
)  # fmt: skip
def test_the_wait_a_server_asks_for(header: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
    headers = httpx2.Headers([(b"retry-after", header.encode())])
    assert retry_after_s(headers, now=now) == seconds
    assert retry_after_s(httpx2.Headers(), now=now) is None


def test_what_broke_is_said_in_words(hub: FakeHub) -> None:
    commit = hub.add_repo("org/m", {"m.gguf": b"x" * 1000})
    link = hub.link("org/m", commit, "m.gguf")
    message = []
    with open_client(with_token(hub)) as client:
        for fault, url in ((Truncate(9), link), (Drop(9), link), (None, "http://127.0.0.1:9/x")):
            if fault:
                hub.faults.add(fault, times=1)
            with pytest.raises(httpx2.TransportError) as broken:
                client.get(url)
            message.append(describe_error(broken.value))
    assert message == [
        "the answer broke off or is no HTTP",
        "the connection broke: Connection reset by peer",
        "no connection: Connection refused",
    ]
