"""The guard itself: what it must see, and what it must leave alone."""

import socket

import pytest

from tests.offline.watched import Guard

ATTEMPTS = {
    "a connection": "import socket; socket.create_connection(('192.0.2.1', 9), 1)",
    "a connection without an error": "import socket; socket.socket().connect_ex(('192.0.2.1', 9))",
    "a name": "import socket; socket.getaddrinfo('hub.example', 443)",
    "an old way to ask for a name": "import socket; socket.gethostbyname('hub.example')",
    "a datagram": (
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))"
    ),
    "IPv6": "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 9))",
    "urllib": "import urllib.request; urllib.request.urlopen('http://192.0.2.1/')",
    "asyncio": "import asyncio; asyncio.run(asyncio.open_connection('hub.example', 443))",
    "a child of a child": (
        "import subprocess, sys; code = 'import socket; socket.gethostbyname(\"hub.example\")';"
        " wrap = f'import subprocess, sys; subprocess.run([sys.executable, \"-c\", {code!r}])';"
        " subprocess.run([sys.executable, '-c', wrap])"
    ),
}


@pytest.mark.parametrize("code", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_it_sees_an_attempt(guard: Guard, code: str) -> None:
    ended = guard.run(["-c", code])
    assert len(ended.seen.attempts) == 1, ended


def test_it_leaves_this_machine_alone(guard: Guard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('localhost', {port})); print('in')"
        ended = guard.run(["-c", code])
    assert (ended.code, ended.out, ended.seen.attempts) == (0, "in\n", ())


def test_it_sees_which_packages_are_loaded(guard: Guard) -> None:
    ended = guard.run(["-c", "import huggingface_hub"])
    assert "huggingface_hub" in ended.seen.imported
