import httpx2
import pytest

from localllm.library.http.hosts import is_loopback
from localllm.library.http.proxies import proxy_for
from localllm.library.http.urls import (
    file_url,
    printable_url,
)

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://huggingface.co", None),
        ({"HTTPS_PROXY": PROXY}, "https://huggingface.co", PROXY),
        ({"https_proxy": "proxy.example:3128"}, "https://huggingface.co", PROXY),
        ({"ALL_PROXY": PROXY}, "https://huggingface.co", PROXY),
        ({"HTTPS_PROXY": PROXY}, "http://mirror.example", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "huggingface.co"}, "https://huggingface.co", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "a.b, .hf.co"}, "https://cdn.hf.co/x", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, "https://huggingface.co", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8, x/y"}, "https://11.1.2.3", PROXY),
        ({"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, "http://127.0.0.1:8000", None),
        ({"HTTP_PROXY": PROXY}, "http://localhost:8000", None),
        ({"HTTPS_PROXY": PROXY}, "https://[::1]:8000", None),
    ],
)
def test_the_way_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(httpx2.URL(url))
    assert (found.url if found else None) == proxy


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1", "2130706433", "0.0.0.0", "::1",
     "[::1]", "::", "::ffff:127.0.0.1"],
)  # fmt: skip
def test_this_machine_is_known_by_all_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["huggingface.co", "8.8.8.8", "::2", "", "1.2.3.4.5", "localhost.example", "10.0.0.1"]
)
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_is_shown_without_what_is_secret_in_it() -> None:
    signed = "https://user:hf_secret@cdn.example/a/b.gguf?X-Signature=sig1#x"
    assert printable_url(signed) == "https://cdn.example/a/b.gguf"
    assert printable_url("hf_secret@host:1/x") == "host:1/x"
    assert printable_url("https://user:hf_secret@host/a://b@c") == "https://host/a://b@c"
    assert printable_url("https://a.example/\x1b[2J\nb?c") == "https://a.example/ b"
    assert len(printable_url("https://a.example/" + "b" * 9999)) == 200


def test_a_files_address_keeps_odd_names_in_one_piece() -> None:
    url = file_url("https://h", "org/m", "refs/pr/1", "a b/ü#?%.gguf")
    assert url == "https://h/org/m/resolve/refs%2Fpr%2F1/a%20b/%C3%BC%23%3F%25.gguf"
