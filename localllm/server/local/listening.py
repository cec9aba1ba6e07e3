"""Where a server listens, and what keeps others out there: key, TLS, Unix socket.

Other machines get in only with a key and over TLS, unless somebody types out that they may do
without (`--insecure-lan`).
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.library.files.settings import Settings
from localllm.policy.active import active_policy, require

if TYPE_CHECKING:  # the HTTP server is loaded when it is used
    from localllm.server.access.tls import CertificateFiles, RenewedContext
    from localllm.server.app import Access
    from localllm.server.key import ApiKey
    from localllm.server.listen import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenChoice:
    """What the command line says about listening; None where it says nothing. `insecure_lan`:
    other machines may do without TLS, and without a key where there is none."""

    host: str | None = None
    port: int | None = None
    socket: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    api_key_file: Path | None = None
    no_auth: bool = False
    insecure_lan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """The sockets of a server, open. `address` None: only on the Unix socket `path`."""

    sockets: tuple[socket.socket, ...]
    address: "Address | None"
    path: Path | None
    key: "ApiKey | None"
    tls: "RenewedContext | None"

    @property
    def url(self) -> str | None:
        """The URL for clients on this machine; None on a Unix socket alone."""
        return None if self.address is None else self.address.url


@contextlib.contextmanager
def listening(
    choice: ListenChoice,
    settings: Settings,
    *,
    inform: Callable[[str], None],
    warn: Callable[[str], None],
) -> Iterator[Listening]:
    """Open what `choice` and the settings say; close it afterwards.

    `inform` gets a sentence for each thing that is less safe than the defaults, `warn` one when
    renewed certificates cannot be used. Raises UsageError for what would let others in,
    PolicyRefused for what the policy forbids, ServeError for what cannot be listened on.
    """
    from localllm.server.access.tls import RenewedContext
    from localllm.server.access.unix_socket import unix_socket
    from localllm.server.listen import bound_address, find_addresses, open_sockets

    by_socket_only = choice.socket is not None and choice.host is None and choice.port is None
    host = settings.host if choice.host is None else choice.host
    port = settings.port if choice.port is None else choice.port
    addresses = () if by_socket_only else find_addresses(host, port)
    files = None if by_socket_only else certificate_files(choice, settings)
    exposed = next((each for each in addresses if not each.loopback), None)
    check_exposure(choice, exposed, has_tls=files is not None)
    key = choose_key(choice, exposed)
    for each in addresses:
        require(
            active_policy().allows_listening(
                each.ip, tls=files is not None, has_key=key is not None
            )
        )
    if choice.socket is not None:  # it knows its clients by their user
        require(active_policy().allows_listening(None, tls=False, has_key=True))
    tls = None if files is None else RenewedContext(files, warn)
    with contextlib.ExitStack() as stack:
        opened = open_sockets(addresses) if addresses else ()
        sockets = [stack.enter_context(sock) for sock in opened]
        address = bound_address(sockets[0], tls=tls is not None) if sockets else None
        if choice.socket is not None:
            sockets.append(stack.enter_context(unix_socket(choice.socket)))
        insecure = exposed is not None and choice.insecure_lan
        for warning in unsafe(address, key, insecure=insecure):
            inform(f"WARNING: {warning}")
        yield Listening(
            sockets=tuple(sockets), address=address, path=choice.socket, key=key, tls=tls
        )


def access_to(
    at: Listening, *, names: Iterable[str], cors_origins: Iterable[str], run_key: str
) -> "Access":
    """Say who may come in where a server listens.

    `names` are those of this machine in requests; pages of `cors_origins` may use the server;
    `run_key` is the owner's while this process runs.
    """
    from localllm.server.access.key_ring import KeyRing
    from localllm.server.access.named_keys import KeyFile
    from localllm.server.app import Access
    from localllm.server.security import HostPolicy, server_names

    ip = at.address.ip if at.address is not None else "127.0.0.1"
    known = server_names((*names, socket.gethostname()), has_key=at.key is not None)
    return Access(
        hosts=HostPolicy.bound_to(ip, known),
        keys=KeyRing(
            None if at.key is None else at.key.text,
            KeyFile(paths.keys_file(), paths.keys_used_file()),
            run=run_key,
        ),
        cors_origins=frozenset(cors_origins),
    )


def certificate_files(choice: ListenChoice, settings: Settings) -> "CertificateFiles | None":
    """Find certificate and key: the options, else the settings. Raises UsageError for one
    without the other."""
    from localllm.server.access.tls import CertificateFiles

    pair: tuple[Path | None, Path | None] = (choice.tls_cert, choice.tls_key)
    if pair == (None, None):
        texts = (settings.tls_cert, settings.tls_key)
        pair = (_path(texts[0]), _path(texts[1]))
    match pair:
        case (None, None):
            return None
        case (Path() as certificate, Path() as key):
            return CertificateFiles(certificate=certificate, key=key)
    raise UsageError("A certificate and its key belong together: give --tls-cert and --tls-key.")


def _path(text: str | None) -> Path | None:
    return None if text is None else paths.absolute(Path(text))


def check_exposure(choice: ListenChoice, exposed: "Address | None", *, has_tls: bool) -> None:
    """Refuse to let other machines in without a key and TLS. `exposed`: an address that they
    reach, None: there is none. Raises UsageError."""
    if choice.no_auth and choice.api_key_file is not None:
        raise UsageError("--no-auth and --api-key-file exclude each other.")
    if exposed is None or choice.insecure_lan:
        return
    if choice.no_auth:
        raise UsageError(
            f"--no-auth would let every machine that reaches {exposed.ip} use this one. Leave it "
            "out, or listen on 127.0.0.1; --insecure-lan does it all the same."
        )
    if not has_tls:
        raise UsageError(
            f"On {exposed.ip} others could read what is asked and answered, and the key: there is "
            "no TLS. Give --tls-cert and --tls-key (docs/sharing.md says how they are made), or "
            "listen on 127.0.0.1 behind an SSH tunnel; --insecure-lan does it all the same."
        )


def choose_key(choice: ListenChoice, exposed: "Address | None") -> "ApiKey | None":
    """Find the owner's key: the option, the environment, or the file made at the first start.

    Raises UsageError when other machines could guess it.
    """
    from localllm.server import key as keys

    if choice.no_auth:
        return None
    environment = os.environ.get("LOCALLLM_API_KEY")
    if choice.api_key_file is not None:
        key = keys.from_file(choice.api_key_file)
    elif environment:
        key = keys.from_environment(environment)
    else:
        key = keys.read_or_create(paths.key_file())
    if exposed is not None and len(key.text) < keys.SHORTEST_KEY_BEYOND_LOOPBACK:
        raise UsageError(
            f"The API key has {len(key.text)} characters; to listen on {exposed.ip}, where other "
            f"machines can try keys, it needs {keys.SHORTEST_KEY_BEYOND_LOOPBACK}."
        )
    return key


def unsafe(address: "Address | None", key: "ApiKey | None", *, insecure: bool) -> Iterator[str]:
    """Say what is less safe than the defaults. `insecure`: with --insecure-lan."""
    if key is None:
        yield "no API key: every program and user of this machine can use the API."
    elif key.warning is not None:
        yield key.warning
    if address is None or address.loopback:
        return
    who = f"whoever reaches port {address.port}"
    who += " can use it" if key is None else " and has an API key can use it"
    if insecure and not address.tls:
        who += "; what is asked, what is answered and the key can be read on the way"
    yield f"listening on {address.ip}, not only on this machine: {who}."
