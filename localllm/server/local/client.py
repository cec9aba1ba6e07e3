"""The client of this user's own server, for the verbs that talk to it.

It reaches the address that the server has written down and no other: no proxy, no redirect, and of
certificates only the server's own.
"""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import httpx2

from localllm.core.text import single_line
from localllm.errors import ExitCode, LocalLLMError, ServeError
from localllm.library.files.server_file import RunningServer, is_alive

ANSWER_S = 15.0
"""For what needs no model: a server that does not answer by then hangs."""

_CONNECT_S = 5.0
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_EXIT_CODES = {
    "model_not_found": ExitCode.NOT_FOUND,
    "insufficient_memory": ExitCode.DOES_NOT_FIT,
    "does_not_fit": ExitCode.DOES_NOT_FIT,
    "engine_crashed": ExitCode.ENGINE_CRASHED,
}


class ServerRefused(LocalLLMError):
    """The server has answered with an error."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = _EXIT_CODES.get(code, ExitCode.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model as `/admin/models` describes it, and the whole `document`. `keep_alive_s` is negative
    for ever."""

    name: str
    aliases: tuple[str, ...]
    quant: str | None
    state: str
    size_bytes: int
    estimated_bytes: int | None
    context: int | None
    slots: int | None
    requests: int
    last_used_s: float | None
    keep_alive_s: float
    expires_in_s: float | None
    pinned: bool
    progress: float | None
    plan: str | None
    kept: str | None
    document: dict[str, object]

    @classmethod
    def parse(cls, document: object) -> "ModelStatus":
        """Read what the server has sent. Raises ServeError for a server of another version."""
        names = [each.name for each in fields(cls) if each.name != "document"]
        if not isinstance(document, dict) or not all(name in document for name in names):
            raise ServeError(
                "The server is of another version than this program. Start it again: "
                "localllm stop, localllm serve --detach"
            )
        return cls(document=document, **{name: document[name] for name in names})


class ServerClient:
    """Requests to one server; made by `connected`."""

    def __init__(self, server: RunningServer, http: httpx2.AsyncClient) -> None:
        self.server = server
        self._http = http

    async def get(self, path: str) -> dict[str, object]:
        """Read a document. Raises ServerRefused, ServeError."""
        return self._document(await self.send("GET", path, limit_s=ANSWER_S))

    async def models(self) -> tuple[ModelStatus, ...]:
        """List the models that requests can name. Raises ServerRefused, ServeError."""
        listed = (await self.get("/admin/models")).get("models")
        return tuple(map(ModelStatus.parse, listed if isinstance(listed, list) else ()))

    async def post(
        self, path: str, body: Mapping[str, object], *, limit_s: float | None = ANSWER_S
    ) -> dict[str, object]:
        """Send a document and read one, within `limit_s` (None: whenever it comes).

        Raises ServerRefused, ServeError.
        """
        response = await self.send("POST", path, json.dumps(body).encode(), limit_s=limit_s)
        return self._document(response)

    async def send(
        self, method: str, path: str, body: bytes | None = None, *, limit_s: float | None = None
    ) -> httpx2.Response:
        """Send a request and read the whole answer, whatever its status. Raises ServeError."""
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            async with asyncio.timeout(limit_s):
                return await self._http.request(method, path, content=body, headers=headers)
        except TimeoutError:
            raise ServeError(
                f"The server at {self.server.where} (process {self.server.pid}) has not answered "
                f"within {limit_s:.0f} s. `localllm stop` ends it."
            ) from None
        except httpx2.HTTPError as error:
            raise ServeError(self._failure(error)) from error

    def _failure(self, error: httpx2.HTTPError) -> str:
        if not is_alive(self.server):
            return "The server has ended meanwhile. Start it: localllm serve --detach"
        where = f"{self.server.where} (process {self.server.pid})"
        return f"The server at {where} cannot be reached: {single_line(str(error))[:200]}."

    def _document(self, response: httpx2.Response) -> dict[str, object]:
        try:
            document = response.json()
        except ValueError:
            document = None
        if response.is_success and isinstance(document, dict):
            return document
        raise refusal(response.status_code, document)


def refusal(status: int, document: object) -> ServerRefused:
    """Make the error of an answer: its own message, where it has one."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return ServerRefused(
            f"What answers there is no server of localllm (status {status}).", code="no_server"
        )
    return ServerRefused(single_line(error["message"]), code=str(error.get("code")))


@asynccontextmanager
async def connected(server: RunningServer) -> AsyncIterator[ServerClient]:
    """Connect to a server, over its Unix socket where it has one. Raises ServeError."""
    if server.socket is not None:
        transport = httpx2.AsyncHTTPTransport(uds=server.socket)
    elif server.certificate is not None:
        transport = httpx2.AsyncHTTPTransport(verify=pinned_context(Path(server.certificate)))
    else:
        transport = httpx2.AsyncHTTPTransport()
    async with httpx2.AsyncClient(
        transport=transport,
        base_url="http://localhost" if server.socket is not None else server.url or "",
        headers={"authorization": f"Bearer {server.key}"},
        timeout=httpx2.Timeout(None, connect=_CONNECT_S),
        follow_redirects=False,
        trust_env=False,
    ) as http:
        yield ServerClient(server, http)


def pinned_context(certificate: Path) -> ssl.SSLContext:
    """Trust the first certificate of a PEM file, the server's own, and nothing else.

    Which names it is for makes no difference then. Raises ServeError.
    """
    try:
        found = _PEM.search(certificate.read_bytes())
        if found is None:
            raise ServeError(f"{certificate} holds no certificate.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be a root
        context.load_verify_locations(cadata=found[0].decode("ascii"))
    except (OSError, ValueError) as error:
        if isinstance(error, ServeError):
            raise
        raise ServeError(
            f"The server's certificate {certificate} cannot be read: {error}."
        ) from error
    return context
