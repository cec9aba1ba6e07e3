"""A SOCKS5 proxy on loopback that leads every name to one place, as `ssh -D` leads to a network."""

import contextlib
import socket
import struct
import threading
from types import TracebackType

_VERSION, _NO_LOGIN, _PASSWORD, _NONE_ACCEPTED = 5, 0, 2, 255
_DOMAIN, _CONNECT, _REFUSED = 3, 1, 5


class SocksProxy:
    """Serves until it is closed. `password`: who gives another one is refused. `asked` are the
    names that clients wanted."""

    def __init__(self, target: tuple[str, int] | None, *, password: str | None = None) -> None:
        self.asked: list[str] = []
        self._target = target
        self._password = password
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> "SocksProxy":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):
            if not self._greet(client):
                return
            _, command, _, kind = _exactly(client, 4)
            assert (command, kind) == (_CONNECT, _DOMAIN)
            name = _exactly(client, _exactly(client, 1)[0]).decode()
            (port,) = struct.unpack(">H", _exactly(client, 2))
            self.asked.append(f"{name}:{port}")
            status = 0 if self._target else _REFUSED
            client.sendall(bytes([_VERSION, status, 0, 1]) + bytes(6))
            if self._target is not None:
                with socket.create_connection(self._target) as upstream:
                    threading.Thread(target=_copy, args=(upstream, client), daemon=True).start()
                    _copy(client, upstream)

    def _greet(self, client: socket.socket) -> bool:
        _, count = _exactly(client, 2)
        offered = _exactly(client, count)
        wanted = _NO_LOGIN if self._password is None else _PASSWORD
        if wanted not in offered:
            client.sendall(bytes([_VERSION, _NONE_ACCEPTED]))
            return False
        client.sendall(bytes([_VERSION, wanted]))
        if self._password is None:
            return True
        _exactly(client, 1)
        _exactly(client, _exactly(client, 1)[0])
        right = _exactly(client, _exactly(client, 1)[0]).decode() == self._password
        client.sendall(bytes([1, 0 if right else 1]))
        return right


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
