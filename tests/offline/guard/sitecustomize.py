"""Python imports this before anything else when its directory is on PYTHONPATH, in every process
that inherits the environment. It writes down, and stops, each attempt to leave this machine.

Lines of JSON in the file that LOCALLLM_TEST_GUARD names: {"event", "what", "pid"}. Standard
library only, and nothing of localllm: it must not change what it watches.
"""

import ipaddress
import json
import os
import sys

LOG = os.environ["LOCALLLM_TEST_GUARD"]
NOTED_PACKAGES = ("huggingface_hub", "httpx2", "httpcore2", "hf_xet", "keyring")
INTERNET = (2, 10, 23, 24, 30)  # AF_INET, and AF_INET6 of Linux, Windows, the BSDs and macOS
ADDRESSES = ("socket.connect", "socket.sendto", "socket.sendmsg")
NAMES = (
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.getnameinfo",
)


def note(event: str, what: str) -> None:
    line = json.dumps({"event": event, "what": what, "pid": os.getpid()})
    descriptor = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def is_loopback(host: object) -> bool:
    if host is None or host in ("", b"", "localhost", b"localhost"):
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def stays_here(event: str, arguments: tuple[object, ...]) -> bool:
    if event in NAMES:
        first = arguments[0]
        return is_loopback(first[0] if isinstance(first, tuple) else first)
    connection, address = arguments[:2]
    if getattr(connection, "family", None) not in INTERNET or not isinstance(address, tuple):
        return True  # AF_UNIX, the kernel's own sockets, or one that is connected already
    return is_loopback(address[0])


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import":
        package = str(arguments[0])
        if package in NOTED_PACKAGES:
            note("import", package)
    elif (event in ADDRESSES or event in NAMES) and not stays_here(event, arguments):
        note("attempt", f"{event} {arguments[1:] if event in ADDRESSES else arguments!r}")
        raise OSError(f"the guard of the tests stopped {event}")


note("start", " ".join(sys.orig_argv[1:]))
sys.addaudithook(watch)
