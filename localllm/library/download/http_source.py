"""Where the bytes of one file come from: the endpoints in their order, and where these lead."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import httpx2

from localllm.core.text import single_line
from localllm.errors import AccessDenied, DownloadFailed, HubError, NotFound
from localllm.library.download.http_response import (
    Answer,
    Bytes,
    Changed,
    Moved,
    Refused,
    TryAgain,
    Unauthorized,
    read_answer,
    usable_in_if_range,
)
from localllm.library.download.part_file import StartOver
from localllm.library.download.target import DownloadTarget
from localllm.library.http.access_errors import TOKEN_HELP
from localllm.library.http.client import (
    CONNECT_S,
    Access,
    file_url,
    open_client,
    retry_after_s,
    shown_url,
)

_MAX_HOPS = 8
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Interrupted(Exception):
    """No bytes, or no more, this time; `asked_s` is how long the server wants to be left alone."""

    def __init__(self, why: str, *, asked_s: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.asked_s = asked_s


class NoBytesHere(Exception):
    """This endpoint will not give the file, for the reason of `error`."""

    def __init__(self, error: HubError | NotFound) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """An answer's bytes: those of the file from `start` to `end`.

    `whole`: the server did not look at the range. `exact`: nothing more will come than was asked
    for, so the connection can be used again when all of it was read.
    """

    start: int
    end: int
    whole: bool
    exact: bool
    response: httpx2.Response


class Source:
    """Opens ranges of one file. May be used by several threads at once.

    `etags` are the ETags that the bytes that are here came with, by endpoint. `turn` grows with
    every endpoint that is given up.
    """

    def __init__(self, wanted: DownloadTarget, access: Access, *, stall_s: float) -> None:
        self.etags: dict[str, str] = {}
        self.answered = False
        self.turn = 0
        self.received = 0
        self.note: str | None = None
        self.size = wanted.size_bytes
        self._wanted = wanted
        self._access = access
        self._clients = [open_client(access)]
        self._timeout = httpx2.Timeout(stall_s, connect=min(stall_s, CONNECT_S))
        self._link: tuple[int, httpx2.URL] | None = None
        self._refusals: list[HubError | NotFound] = []
        self._streams: set[socket.socket] = set()
        self._asking = 0
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """The endpoint that is asked now."""
        return self._access.endpoints[min(self.turn, len(self._access.endpoints) - 1)]

    @property
    def etag(self) -> str | None:
        """The ETag of the bytes from this endpoint, once it is known."""
        return self.etags.get(self.endpoint)

    @contextlib.contextmanager
    def open(self, start: int, end: int) -> Iterator[Body]:
        """Ask for the bytes from `start` to `end`.

        Raises Interrupted, NoBytesHere, StartOver, DownloadFailed, httpx2's errors, and what
        the client of network.py raises.
        """
        turn = self.turn
        response, answer = self._follow(start, end, turn)
        connection = _socket_of(response)
        with self._lock:
            self._streams |= connection
        try:
            self._keep_etag(answer.etag, turn)
            length = response.headers.get("content-length")
            yield Body(
                start=answer.start,
                end=answer.end,
                whole=answer.whole,
                exact=answer.end <= end and length == str(answer.end - answer.start),
                response=response,
            )
        finally:
            with self._lock:
                self._streams -= connection
            response.close()

    def say(self, note: str) -> None:
        """Let the front end know what is going on."""
        self.note = note

    def count(self, came: int) -> None:
        """Count bytes that came over the network."""
        with self._lock:
            self.received += came

    def give_up(self, turn: int, error: HubError | NotFound) -> None:
        """Go on with the next endpoint; raise the most telling error when there is none.

        Nothing happens when another thread gave this endpoint up already.
        """
        with self._lock:
            if turn != self.turn:
                return
            self._refusals.append(error)
            if turn + 1 == len(self._access.endpoints):
                raise next(
                    (each for each in self._refusals if isinstance(each, AccessDenied)), error
                )
            self.turn += 1
            self.answered = False
            self._link = None
            self.note = f"going on with {shown_url(self.endpoint)}"

    def start_with(self, turn: int) -> None:
        """Ask another endpoint from now on: number `turn` of the access, from 0."""
        with self._lock:
            self.turn = turn
            self._link = None

    def shut_down(self) -> None:
        """Wake every thread that waits for bytes; the connections are of no use after it."""
        with self._lock:
            for connection in self._streams:
                with contextlib.suppress(OSError):
                    # The plain socket's own: that of a TLS socket also changes what a reader uses.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connections, unless a thread still waits for an answer on one: that thread
        cannot be woken, and ends by itself when the answer comes or does not."""
        if not self._asking:
            for client in self._clients:
                client.close()

    @property
    def _anonymous(self) -> bool:
        """Whether the token was refused and is not sent any more."""
        return len(self._clients) > 1

    def _follow(self, start: int, end: int, turn: int) -> tuple[httpx2.Response, Bytes]:
        """Ask, and go where the answers lead, until one has the bytes."""
        wanted = self._wanted
        asked = httpx2.URL(
            file_url(self._access.endpoints[turn], wanted.repo, wanted.commit, wanted.name)
        )
        with self._lock:
            url = self._link[1] if self._link and self._link[0] == turn else asked
        for _ in range(_MAX_HOPS):
            etag, client = self.etags.get(self._access.endpoints[turn]), self._clients[-1]
            response = self._send(client, url, start, end, etag)
            answer = self._read(response, start, etag)
            if isinstance(answer, Bytes):
                self._keep_link(turn, url if url != asked else None)
                return response, answer
            response.close()
            if isinstance(answer, Unauthorized) and url == asked:
                self._after_refusal(answer, client)
            else:
                url = self._next(response, answer, asked)
        raise Interrupted(f"it leads from one address to the next {_MAX_HOPS} times")

    def _send(
        self, client: httpx2.Client, url: httpx2.URL, start: int, end: int, etag: str | None
    ) -> httpx2.Response:
        last = "" if end == self.size else end - 1
        headers = {"Range": f"bytes={start}-{last}"}
        if start and etag is not None and usable_in_if_range(etag):
            headers["If-Range"] = etag
        request = client.build_request("GET", url, headers=headers, timeout=self._timeout)
        with self._lock:
            self._asking += 1
        try:
            return client.send(request, stream=True)
        finally:
            with self._lock:
                self._asking -= 1

    def _read(self, response: httpx2.Response, start: int, etag: str | None) -> Answer:
        return read_answer(
            response.status_code, response.headers, start=start, size=self.size, etag=etag
        )

    def _next(self, response: httpx2.Response, answer: Answer, asked: httpx2.URL) -> httpx2.URL:
        """Where to ask next after an answer without bytes; raises when nowhere."""
        match answer:
            case Moved(to=to):
                self.answered = True
                self._check_listing(response)
                return _joined(response.url, to)
            case Unauthorized(status=status):
                return self._expired(status, asked)
            case Changed(why=why):
                raise StartOver(why)
            case TryAgain(why=why):
                raise Interrupted(why, asked_s=retry_after_s(response.headers))
            case Refused(why=why):
                raise NoBytesHere(DownloadFailed(f"{shown_url(response.url)}: {why}."))
        raise AssertionError(answer)

    def _expired(self, status: int, asked: httpx2.URL) -> httpx2.URL:
        """After a refusal beyond the endpoint: its signature is too old, so get another."""
        with self._lock:
            known, self._link = self._link, None
        if known is None:
            raise Interrupted(f"the address that the Hub gave answers {status}")
        return asked

    def _after_refusal(self, answer: Unauthorized, client: httpx2.Client) -> None:
        """After 401, 403 or 404 of an endpoint: let it be asked once without a token that it does
        not know, which it refuses even for what is public. Raises NoBytesHere."""
        with self._lock:
            if answer.status == 401 and answer.code is None:
                if client is not self._clients[-1]:
                    return  # another thread had the same answer
                if not self._anonymous and self._access.bearer():
                    nobody = replace(self._access, token=None, find_token=None)
                    self._clients.append(open_client(nobody))
                    self.note = "the Hub did not take the token; trying without it"
                    return
        raise NoBytesHere(self._denial(answer))

    def _denial(self, answer: Unauthorized) -> HubError | NotFound:
        repo, name = single_line(self._wanted.repo), single_line(self._wanted.name)
        page = f"{shown_url(self.endpoint)}/{repo}"
        refused = " The Hub did not take the token that localllm has." if self._anonymous else ""
        if answer.code == "GatedRepo" or answer.status == 403:
            how = "accept its terms with an account that has access" if answer.code else "log in"
            return AccessDenied(
                f"{repo} gives its files only to those it let in.{refused} Open {page} and"
                f" {how}, then give localllm a token of that account: {TOKEN_HELP}."
            )
        if answer.status == 401:
            return AccessDenied(
                f"{repo} is not at {shown_url(self.endpoint)}, or it is private.{refused}"
                f" Look at {page}; for a private one {TOKEN_HELP}."
            )
        return NotFound(
            f"{shown_url(self.endpoint)} has no {name} in {repo} at"
            f" {single_line(self._wanted.commit)[:12]} (it answers {answer.status})."
        )

    def _check_listing(self, response: httpx2.Response) -> None:
        """Hold what the endpoint says of the file against what its repository listed."""
        linked = response.headers.get("x-linked-etag", "").removeprefix("W/").strip('"').lower()
        sha256, size = self._wanted.sha256, response.headers.get("x-linked-size", "")
        other_hash = sha256 is not None and _SHA256.fullmatch(linked) and linked != sha256
        if other_hash or (size.isdigit() and int(size[:19]) != self.size):
            raise NoBytesHere(
                DownloadFailed(
                    f"{single_line(self._wanted.name)} is not the file that was listed: its"
                    " size or its sha256 is another now. Ask for it again."
                )
            )

    def _keep_link(self, turn: int, url: httpx2.URL | None) -> None:
        with self._lock:
            self.answered = True
            if turn == self.turn:
                self._link = None if url is None else (turn, url)

    def _keep_etag(self, etag: str | None, turn: int) -> None:
        if etag is not None:
            with self._lock:
                self.etags.setdefault(self._access.endpoints[turn], etag)


def _joined(base: httpx2.URL, to: str) -> httpx2.URL:
    try:
        return base.join(to)
    except (httpx2.InvalidURL, ValueError) as error:
        raise Interrupted("it leads to an address that is none") from error


def _socket_of(response: httpx2.Response) -> set[socket.socket]:
    """The socket that an answer comes from, as a set; empty when there is none to get at."""
    stream = response.extensions.get("network_stream")
    found = stream.get_extra_info("socket") if stream is not None else None
    return {found} if isinstance(found, socket.socket) else set()
