"""The two ports, and the object that a test drives them with."""

import hashlib
import http.server
import socket
import ssl
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tests.hub.cdn import Cdn
from tests.hub.certificate import loopback_certificate
from tests.hub.content import Content, Given, content
from tests.hub.endpoint import Endpoint
from tests.hub.faults import CDN, HUB, Faults
from tests.hub.record import Record, Request
from tests.hub.repo import Repo

LOOPBACK = "127.0.0.1"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients leave in the middle: that is what the tests are about

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        # Bytes that wait in a large buffer count as sent although a killed client never had them.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 << 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address


class FakeHub:
    """A Hub and its CDN, running inside a `with`.

    `tokens` are the tokens that are known, `members` those that may read gated repositories.
    `page` is how many entries a listing gives at once; `link_uses` how often a signed address
    works (None: always). `faults` may be changed at any time. With `tls` both ports speak HTTPS
    with the certificate `loopback_certificate()`.
    """

    def __init__(self, *, port: int = 0, cdn_port: int = 0, tls: bool = False) -> None:
        self._scheme = "https" if tls else "http"
        self.faults = Faults()
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = {"hf_good", "hf_member"}
        self.members: set[str] = {"hf_member"}
        self.page = 1000
        self.link_uses: int | None = None
        self.generation = 0
        self.closing = threading.Event()
        self.hub_record, self.cdn_record = Record(), Record()
        self._etags: dict[tuple[str, str, str], int] = {}
        self._uses: dict[str, int] = {}
        self._lock = threading.Lock()
        self._hub = self._server(port, Endpoint, HUB, self.hub_record)
        self._cdn = self._server(cdn_port, Cdn, CDN, self.cdn_record)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(loopback_certificate())
            for server in (self._hub, self._cdn):
                server.socket = context.wrap_socket(server.socket, server_side=True)

    def __enter__(self) -> Self:
        for server in (self._hub, self._cdn):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://{LOOPBACK}:{self._hub.server_address[1]}"

    @property
    def cdn(self) -> str:
        return f"{self._scheme}://{LOOPBACK}:{self._cdn.server_address[1]}"

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests to the endpoint, in order."""
        return self.hub_record.seen

    @property
    def cdn_requests(self) -> tuple[Request, ...]:
        return self.cdn_record.seen

    @property
    def bytes_sent(self) -> int:
        """Body bytes of both ports."""
        return sum(each.sent for each in (*self.requests, *self.cdn_requests))

    def add_repo(
        self,
        name: str,
        files: Mapping[str, Given],
        *,
        gated: str | bool = False,
        private: bool = False,
        license: str | None = "apache-2.0",  # noqa: A002  # the Hub's own word
        tags: tuple[str, ...] = (),
        downloads: int = 0,
        likes: int = 0,
        updated: str = "2026-11-01T12:00:00.000Z",
    ) -> str:
        """Publish a repository. Gives back the commit."""
        repo = Repo(
            name=name, private=private, gated=gated, license=license, tags=tags,
            downloads=downloads, likes=likes, updated=updated,
        )  # fmt: skip
        self.repos[name] = repo
        return repo.commit({path: content(each) for path, each in files.items()})

    def change(self, name: str, files: Mapping[str, Given]) -> str:
        """Publish a new commit that holds these files; the old one stays. Gives it back."""
        return self.repos[name].commit({path: content(each) for path, each in files.items()})

    def replace(self, name: str, file: str, given: Given, *, commit: str | None = None) -> None:
        """Put another content in the place of a file without a new commit, as nobody should: its
        hash and every ETag change."""
        repo = self.repos[name]
        repo.commits[commit or repo.head][file] = content(given)

    def restamp(self, name: str, file: str) -> None:
        """Give a file another ETag on the CDN; its content stays."""
        key = (name, self.repos[name].head, file)
        self._etags[key] = self._etags.get(key, 0) + 1

    def expire_links(self) -> None:
        """Let every signed address that was given out so far answer 403."""
        self.generation += 1

    def cdn_etag(self, name: str, commit: str, file: str) -> str:
        """The CDN's own ETag: not the sha256."""
        stamp = self._etags.get((name, commit, file), 0)
        sha256 = self.repos[name].commits[commit][file].sha256
        return f'"{hashlib.md5(f"{sha256}{stamp}".encode()).hexdigest()}"'

    def link(self, name: str, commit: str, file: str) -> str:
        """A signed address on the CDN."""
        signature = self.signature(f"{name}/{commit}/{file}", self.generation)
        path = quote(f"/{name}/{commit}/{file}", errors="surrogatepass")
        return f"{self.cdn}{path}?X-Expires=3600&X-Signature={signature}"

    @staticmethod
    def signature(what: str, generation: int) -> str:
        text = f"secret {generation} {what}".encode("utf-8", "surrogatepass")
        return "sig" + hashlib.sha256(text).hexdigest()[:32]

    def link_is_spent(self, signature: str) -> bool:
        """Count a use of a signed address; true when it was used too often."""
        with self._lock:
            self._uses[signature] = self._uses.get(signature, 0) + 1
            return self.link_uses is not None and self._uses[signature] > self.link_uses

    def file(self, name: str, commit: str, file: str) -> Content | None:
        repo = self.repos.get(name)
        return repo.commits.get(commit, {}).get(file) if repo else None

    def _server(
        self, port: int, kind: type[Endpoint] | type[Cdn], name: str, record: Record
    ) -> _Server:
        handler = type(
            kind.__name__,
            (kind,),
            {
                "hub": self,
                "port_name": name,
                "faults": self.faults,
                "record": record,
                "closing": self.closing,
            },
        )
        return _Server((LOOPBACK, port), handler)
