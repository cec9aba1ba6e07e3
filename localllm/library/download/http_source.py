"""Range requests for one file: endpoints in their order, redirects, signed URLs, ETags, the token.

Everything about the server of one download is here, and nothing about its disk: `fetch.py` brings
the two together.
"""

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
    Content,
    FileChanged,
    RangeResponse,
    Redirect,
    Rejected,
    Retryable,
    Unauthorized,
    classify_response,
    usable_in_if_range,
)
from localllm.library.download.part_file import RestartRequired
from localllm.library.download.target import DownloadTarget
from localllm.library.http.access_errors import TOKEN_HELP
from localllm.library.http.client import CONNECT_S, Access, open_client
from localllm.library.http.connection_file import Purpose
from localllm.library.http.retry_policy import retry_after_s
from localllm.library.http.urls import file_url, printable_url

_MAX_REDIRECTS = 8
_SHA256 = re.compile(r"[0-9a-f]{64}")


class AttemptFailed(Exception):
    """This attempt brought no bytes, or no more; another one may.

    `retry_after_s` is the delay that the server asks for.
    """

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class EndpointFailed(Exception):
    """This endpoint will not give the file, for the reason of `error`."""

    def __init__(self, error: HubError | NotFound) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeBody:
    """A response's body: the bytes of the file from `start` to `end`.

    `whole_file`: the server ignored the range. `exact`: no more bytes come than were requested, so
    the connection can be reused when all of them were read.
    """

    start: int
    end: int
    whole_file: bool
    exact: bool
    response: httpx2.Response


class HttpSource:
    """Opens ranges of one file. May be used by several threads at once.

    `etags` are the ETags that the bytes that are here came with, by endpoint. `endpoint_index` is
    the current endpoint's place in the access; it only grows, by one when an endpoint is given up
    (`use_endpoint` apart). `responded` is true when the current endpoint has responded at all.
    `message` is the latest event for the progress display, until somebody takes it away.
    """

    def __init__(
        self,
        target: DownloadTarget,
        access: Access,
        *,
        stall_s: float,
        purpose: Purpose = Purpose.DOWNLOAD,
    ) -> None:
        self.etags: dict[str, str] = {}
        self.responded = False
        self.endpoint_index = 0
        self.received_bytes = 0
        self.message: str | None = None
        self.size = target.size_bytes
        self._target = target
        self._access = access
        self._purpose = purpose
        self._clients = [open_client(access, purpose=purpose)]
        self._timeout = httpx2.Timeout(stall_s, connect=min(stall_s, CONNECT_S))
        self._signed_url: tuple[int, httpx2.URL] | None = None  # with its endpoint's index
        self._errors: list[HubError | NotFound] = []
        self._sockets: set[socket.socket] = set()
        self._pending_requests = 0
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """The current endpoint."""
        return self._access.endpoints[self.endpoint_index]

    @property
    def etag(self) -> str | None:
        """The ETag of the bytes from this endpoint, as soon as it is known."""
        return self.etags.get(self.endpoint)

    @contextlib.contextmanager
    def open_range(self, start: int, end: int) -> Iterator[RangeBody]:
        """Request the bytes from `start` to `end`, and close the response afterwards.

        Raises AttemptFailed, EndpointFailed, RestartRequired, DownloadFailed, httpx2's errors, and
        what `http/client.py` raises.
        """
        index = self.endpoint_index
        response, content = self._follow_redirects(start, end, index)
        sockets = _socket_of(response)
        with self._lock:
            self._sockets |= sockets
        try:
            self._remember_etag(content.etag, index)
            length = response.headers.get("content-length")
            yield RangeBody(
                start=content.start,
                end=content.end,
                whole_file=content.whole_file,
                exact=content.end <= end and length == str(content.end - content.start),
                response=response,
            )
        finally:
            with self._lock:
                self._sockets -= sockets
            response.close()

    def count_received(self, count: int) -> None:
        """Count bytes that came over the network."""
        with self._lock:
            self.received_bytes += count

    def give_up(self, index: int, error: HubError | NotFound) -> None:
        """Go on with the endpoint after `index`.

        Raises the most telling error when there is none. Does nothing when another thread has
        given this endpoint up already: several fail at once when a server goes down.
        """
        with self._lock:
            if index != self.endpoint_index:
                return
            self._errors.append(error)
            if index + 1 == len(self._access.endpoints):
                # A repository that wants a token has the file; "not found" is another's view.
                raise next((each for each in self._errors if isinstance(each, AccessDenied)), error)
            self.endpoint_index += 1
            self.responded = False
            self._signed_url = None
            self.message = f"going on with {printable_url(self.endpoint)}"

    def use_endpoint(self, index: int) -> None:
        """Use the endpoint of this index of the access, from 0."""
        with self._lock:
            self.endpoint_index = index
            self._signed_url = None

    def shut_down(self) -> None:
        """Wake every thread that waits for bytes; the connections are of no use afterwards."""
        with self._lock:
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    # The plain socket's own: that of a TLS socket also changes what a reader uses.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connections, unless a thread still waits for a response's first byte on one:
        it cannot be woken, and ends by itself when the response comes or times out."""
        if not self._pending_requests:
            for client in self._clients:
                client.close()

    @property
    def _anonymous(self) -> bool:
        """True when the token was refused and is not sent any more."""
        return len(self._clients) > 1

    def _follow_redirects(
        self, start: int, end: int, index: int
    ) -> tuple[httpx2.Response, Content]:
        """Send the request, and again where the responses lead, until one has the bytes."""
        target = self._target
        file = httpx2.URL(
            file_url(self._access.endpoints[index], target.repo, target.commit, target.name)
        )
        with self._lock:
            # The CDN's URL is good for many ranges: it saves a request to the endpoint for each.
            known = self._signed_url
            url = known[1] if known and known[0] == index else file
        for _ in range(_MAX_REDIRECTS):
            etag, client = self.etags.get(self._access.endpoints[index]), self._clients[-1]
            response = self._send(client, url, start, end, etag)
            meaning = classify_response(
                response.status_code, response.headers, start=start, size=self.size, etag=etag
            )
            if isinstance(meaning, Content):
                self._remember_url(index, url if url != file else None)
                return response, meaning
            response.close()
            # The endpoint's own refusal is about access; one of the URL that it gave is expiry.
            if isinstance(meaning, Unauthorized) and url == file:
                self._drop_unknown_token(meaning, client)
            else:
                url = self._next_url(response, meaning, file)
        raise AttemptFailed(f"it leads from one address to the next {_MAX_REDIRECTS} times")

    def _send(
        self, client: httpx2.Client, url: httpx2.URL, start: int, end: int, etag: str | None
    ) -> httpx2.Response:
        last = "" if end == self.size else end - 1
        headers = {"Range": f"bytes={start}-{last}"}
        # With If-Range a server whose file has changed sends the new one whole (200), and the ETag
        # is compared; without it bytes of two versions would meet in one part file.
        if start and etag is not None and usable_in_if_range(etag):
            headers["If-Range"] = etag
        request = client.build_request("GET", url, headers=headers, timeout=self._timeout)
        with self._lock:
            self._pending_requests += 1
        try:
            return client.send(request, stream=True)
        finally:
            with self._lock:
                self._pending_requests -= 1

    def _next_url(
        self, response: httpx2.Response, meaning: RangeResponse, file: httpx2.URL
    ) -> httpx2.URL:
        """Return the URL to request after a response without bytes; raise when there is none."""
        match meaning:
            case Redirect(location=location):
                self.responded = True
                self._check_listing(response)
                return _joined(response.url, location)
            case Unauthorized(status=status):
                return self._renew_signed_url(status, file)
            case FileChanged(reason=reason):
                raise RestartRequired(reason)
            case Retryable(reason=reason):
                raise AttemptFailed(reason, retry_after_s=retry_after_s(response.headers))
            case Rejected(reason=reason):
                raise EndpointFailed(DownloadFailed(f"{printable_url(response.url)}: {reason}."))
        raise AssertionError(meaning)

    def _renew_signed_url(self, status: int, file: httpx2.URL) -> httpx2.URL:
        """Forget a URL that the CDN refuses: its signature has expired, the endpoint makes another.

        A new URL that is refused as well is a failed attempt, lest this go round for ever.
        """
        with self._lock:
            known, self._signed_url = self._signed_url, None
        if known is None:
            raise AttemptFailed(f"the address that the Hub gave answers {status}")
        return file

    def _drop_unknown_token(self, refusal: Unauthorized, client: httpx2.Client) -> None:
        """After a 401 without a code, request again without the token, once.

        The Hub refuses a token that it does not know even for public repositories. Raises
        EndpointFailed for every other refusal.
        """
        with self._lock:
            if refusal.status == 401 and refusal.code is None:
                if client is not self._clients[-1]:
                    return  # another thread had the same response
                if not self._anonymous and self._access.bearer():
                    anonymous = replace(self._access, token=None, find_token=None)
                    self._clients.append(open_client(anonymous, purpose=self._purpose))
                    self.message = "the Hub did not take the token; trying without it"
                    return
        raise EndpointFailed(self._access_error(refusal))

    def _access_error(self, refusal: Unauthorized) -> HubError | NotFound:
        repo, name = single_line(self._target.repo), single_line(self._target.name)
        page = f"{printable_url(self.endpoint)}/{repo}"
        token = " The Hub did not take the token that localllm has." if self._anonymous else ""
        if refusal.code == "GatedRepo" or refusal.status == 403:
            how = "accept its terms with an account that has access" if refusal.code else "log in"
            return AccessDenied(
                f"{repo} gives its files only to those it let in.{token} Open {page} and"
                f" {how}, then give localllm a token of that account: {TOKEN_HELP}."
            )
        if refusal.status == 401:
            return AccessDenied(
                f"{repo} is not at {printable_url(self.endpoint)}, or it is private.{token}"
                f" Look at {page}; for a private one {TOKEN_HELP}."
            )
        return NotFound(
            f"{printable_url(self.endpoint)} has no {name} in {repo} at"
            f" {single_line(self._target.commit)[:12]} (it answers {refusal.status})."
        )

    def _check_listing(self, response: httpx2.Response) -> None:
        """Compare the size and checksum that the redirect states with the listed ones.

        `X-Linked-ETag` is the SHA-256 of an LFS file, `X-Linked-Size` its length: a file that was
        replaced is refused before its first byte. Raises EndpointFailed.
        """
        linked = response.headers.get("x-linked-etag", "").removeprefix("W/").strip('"').lower()
        sha256, size = self._target.sha256, response.headers.get("x-linked-size", "")
        other_hash = sha256 is not None and _SHA256.fullmatch(linked) and linked != sha256
        if other_hash or (size.isdigit() and int(size[:19]) != self.size):
            raise EndpointFailed(
                DownloadFailed(
                    f"{single_line(self._target.name)} is not the file that was listed: its"
                    " size or its sha256 is another now. Ask for it again."
                )
            )

    def _remember_url(self, index: int, url: httpx2.URL | None) -> None:
        with self._lock:
            self.responded = True
            if index == self.endpoint_index:
                self._signed_url = None if url is None else (index, url)

    def _remember_etag(self, etag: str | None, index: int) -> None:
        # The first one: later ranges must be of the same file as the first bytes.
        if etag is not None:
            with self._lock:
                self.etags.setdefault(self._access.endpoints[index], etag)


def _joined(base: httpx2.URL, location: str) -> httpx2.URL:
    try:
        return base.join(location)
    except (httpx2.InvalidURL, ValueError) as error:
        raise AttemptFailed("it leads to an address that is none") from error


def _socket_of(response: httpx2.Response) -> set[socket.socket]:
    """Return a response's socket as a set; empty when httpx2 does not expose one."""
    stream = response.extensions.get("network_stream")
    found = stream.get_extra_info("socket") if stream is not None else None
    return {found} if isinstance(found, socket.socket) else set()
