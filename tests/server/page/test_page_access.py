"""Who gets the page, and how its link becomes a key."""

import asyncio
import base64
import hashlib
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.fake import Script
from localllm.server.access.key_ring import KeyRing
from localllm.server.access.page_sessions import (
    LINK_VALID_S,
    PageSessions,
    connection_uid,
    is_same_user,
)
from localllm.server.page.document import SCRIPTS, page_document
from tests.server.bodies import chat_body
from tests.server.server_under_test import KEY, HttpResponse, ServerUnderTest, start_server

BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"


async def get_root(
    server: ServerUnderTest, headers: str = "", host: str = "localhost"
) -> HttpResponse:
    head = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
    response = await server.raw(head.encode())
    start, _, body = response.partition(b"\r\n\r\n")
    return HttpResponse(status=int(start.split()[1]), head=start.decode().lower(), body=body)


async def test_a_browser_gets_the_page_and_other_clients_what_they_look_for(
    server: ServerUnderTest,
) -> None:
    page = await get_root(server, BROWSER)
    assert (page.status, page.body) == (200, page_document().body)
    for header in ("x-content-type-options: nosniff", "referrer-policy: no-referrer",
                   "cross-origin-opener-policy: same-origin", "cache-control: no-store",
                   "permissions-policy: camera=()", "frame-ancestors 'none'"):  # fmt: skip
        assert header in page.head
    assert (await get_root(server)).body == b"Ollama is running"


@pytest.mark.parametrize(
    ("headers", "host", "status"),
    [
        ("", "rebound.example", 403),
        ("Sec-Fetch-Site: cross-site\r\n", "localhost", 403),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
         "localhost", 403),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
         "localhost", 200),
        ("Origin: https://evil.example\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
         "localhost", 403),
    ],
)  # fmt: skip
async def test_another_site_may_link_to_the_page_and_no_more(
    server: ServerUnderTest, headers: str, host: str, status: int
) -> None:
    assert (await get_root(server, BROWSER + headers, host)).status == status


def test_the_policy_names_what_stands_in_the_page() -> None:
    document = page_document()
    policy = document.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    html = document.body.decode()
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    # Nothing in it is loaded from elsewhere, or makes markup of text.
    assert re.findall(r'(?:src|href)="([^"]*)"', html.partition("<script>")[0]) == ["data:,"]
    script = html.partition("<script>")[2]
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                 "new Function", "srcdoc", "DOMParser"):  # fmt: skip
        assert word not in script
    folder = Path(page_document.__wrapped__.__code__.co_filename).parent
    assert {each.name for each in folder.glob("*.js")} == set(SCRIPTS)


async def redeem(server: ServerUnderTest, token: str, extra: str = "") -> HttpResponse:
    body = f'{{"token": "{token}"}}'.encode()
    head = (
        f"POST /page/session HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{extra}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    response = await server.raw(head.encode() + body)
    start, _, content = response.partition(b"\r\n\r\n")
    return HttpResponse(status=int(start.split()[1]), head=start.decode(), body=content)


async def test_a_link_is_exchanged_once_for_a_key_that_generates_and_nothing_else(
    smollm2: Path, tmp_path: Path
) -> None:
    keys = KeyRing(KEY)
    async with start_server(Script(), smollm2, tmp_path / "data", key=keys) as server:
        token = keys.pages.create_link()
        foreign = await redeem(server, token, "Origin: https://evil.example\r\n")
        assert foreign.status == 403
        # A link is no key; of many that try it at once one gets a key.
        assert (await server.request("GET /v1/models", key=token)).status == 401
        answers = await asyncio.gather(*(redeem(server, token) for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [200] + [403] * 7
        (given_,) = [answer for answer in answers if answer.status == 200]
        key = str(given_.document["key"])
        assert key not in (token, KEY)
        allowed = {
            path: (await server.request(f"GET {path}", key=key)).status
            for path in ("/v1/models", "/metrics", "/admin/status")
        }
        assert allowed == {"/v1/models": 200, "/metrics": 403, "/admin/status": 403}
        body = json.dumps(chat_body()).encode()
        chat = await server.request("POST /v1/chat/completions", body, key=key)
        assert chat.status == 200


def test_a_link_ends_after_a_minute() -> None:
    now = 0.0
    pages = PageSessions(lambda: now)
    old, new = pages.create_link(), ""
    now = LINK_VALID_S - 1
    new = pages.create_link()
    now = LINK_VALID_S
    assert pages.redeem(old) is None
    assert pages.redeem(new) is not None
    assert pages.redeem(new) is None
    assert pages.redeem("") is None


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2DBF 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0
   1: 0100007F:9C40 0100007F:2DBF 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0
   2: 0100007F:2DBF 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0
   3: 0100007F:9C41 0100007F:2DBF 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0
"""
SERVER = ("127.0.0.1", 11711)


@pytest.mark.skipif(sys.byteorder != "little", reason="the table was recorded on a little endian")
def test_the_user_at_the_other_end_is_found_in_the_kernels_table() -> None:
    assert connection_uid(TABLE, ("127.0.0.1", 40000), SERVER) == 1001
    assert connection_uid(TABLE, SERVER, ("127.0.0.1", 40000)) == 1000
    assert connection_uid(TABLE, ("127.0.0.1", 40001), SERVER) is None  # it was closed
    assert connection_uid(TABLE, ("127.0.0.1", 40002), SERVER) is None
    mapped = TABLE.replace("0100007F:", "0000000000000000FFFF00000100007F:")
    assert connection_uid(mapped, ("127.0.0.1", 40000), SERVER) == 1001
    six = TABLE.replace("0100007F:", "00000000000000000000000001000000:")
    assert connection_uid(six, ("::1", 40000), ("::1", 11711)) == 1001


@settings(max_examples=30)
@given(st.text(max_size=300), st.integers(0, 65535))
def test_any_table_is_read_without_an_error(text: str, port: int) -> None:
    assert connection_uid(text, ("127.0.0.1", port), SERVER) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_of_this_user_is_known(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with listener, socket.create_connection(listener.getsockname()[:2]) as client:
        near, far = client.getsockname()[:2], listener.getsockname()[:2]
        assert is_same_user(near, far)
        assert not is_same_user((near[0], 1), far)
        table = "tcp6" if family is socket.AF_INET6 else "tcp"
        uid = connection_uid(Path(f"/proc/net/{table}").read_text(), near, far)
        assert uid == os.geteuid()
