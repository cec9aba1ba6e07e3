"""The Hub's metadata: search hits, a repository's list of files, a file's header.

The only module that imports huggingface_hub, and only when it is called: the import is slow. Bytes
of models come through `download/`. Everything that the Hub sends is untrusted: names are validated
here, and texts become one line.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import httpx2

from localllm.core.model.spec import ModelSpec
from localllm.core.text import single_line
from localllm.errors import AccessDenied, HubError, LocalLLMError, NotFound, Offline, UsageError
from localllm.library.download.target import DownloadOptions
from localllm.library.files import paths
from localllm.library.http.access_errors import InvalidToken, access_error
from localllm.library.http.client import Access, describe_error, open_client
from localllm.library.http.retrying_transport import (
    DEADLINE_S,
    Clock,
    EndpointTransport,
    UnusableResponse,
    retry,
)
from localllm.library.http.urls import printable_url
from localllm.library.hub import file_list
from localllm.library.hub.file_list import HubFile
from localllm.library.hub.remote_header import HEADER_OPTIONS, HeaderReader

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

MAX_HITS = 100
_MAX_TEXT = 200
_EXPAND = ["downloads", "gated", "lastModified", "likes", "tags"]
_HUB_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # also keeps it from asking /api/agent-harnesses
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # the outbound transport adds it, where it may go
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_VERBOSITY": "error",
}
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_CLIENT_LOCK = threading.Lock()
"""huggingface_hub has one HTTP client for the whole process."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """One hit of a search. None: the Hub does not state it."""

    name: str
    downloads: int | None
    likes: int | None
    updated: str | None
    gated: bool
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepo:
    """A repository at one commit, as `endpoint` lists it.

    `gated`: its files need the token of an account that accepted its terms.
    """

    name: str
    commit: str
    files: tuple[HubFile, ...]
    gated: bool
    license: str | None
    tags: tuple[str, ...]
    downloads: int | None
    updated: str | None
    endpoint: str


class Hub:
    """The Hub, or its mirrors in order. Sends nothing before a method is called.

    Every method raises Offline while the network is off (`header` only for one that is not in the
    cache), AccessDenied where a token is needed, NotFound for what does not exist, and HubError for
    an endpoint whose responses are not the Hub's. `warnings` are sentences for the user.
    """

    def __init__(
        self,
        access: Access,
        *,
        cache_dir: Path | None = None,
        clock: Clock | None = None,
        options: DownloadOptions = HEADER_OPTIONS,
    ) -> None:
        self._access = access
        self._cache = paths.hub_headers_dir(cache_dir or paths.cache_dir())
        self._clock = clock or Clock()
        self._options = options
        self._warnings: list[str] = []

    @property
    def access(self) -> Access:
        """The access that works: without the token when an endpoint did not know it."""
        return self._access

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def search(self, text: str, *, limit: int = 20) -> tuple[SearchHit, ...]:
        """Find repositories that hold GGUF files, the most downloaded first."""
        words = single_line(text)[:_MAX_TEXT]
        count = max(1, min(limit, MAX_HITS))

        def call(api: "HfApi") -> "list[ModelInfo]":
            hits = api.list_models(
                search=words or None,
                filter="gguf",
                sort="downloads",
                limit=count,
                expand=_EXPAND,  # type: ignore[arg-type]  # its Literal is not exported
            )
            return list(hits)

        _, hits = self._call(call, "models", f"a search for {words!r}")
        return tuple(_hit(hit) for hit in hits if file_list.repo_problem(hit.id) is None)

    def repo(self, name: str, revision: str | None = None) -> HubRepo:
        """List the files of ORG/REPO at a branch, tag or commit (None: its main branch).

        Raises UsageError for an impossible name of a repository or revision, HubError naming the
        file for a list with a name that must not become a path.
        """
        if (problem := file_list.repo_problem(name)) is not None:
            raise UsageError(f"{single_line(name)[:80]!r} names no repository: {problem}.")
        if revision is not None and _REVISION.fullmatch(revision) is None:
            raise UsageError(f"{single_line(revision)[:80]!r} cannot be a revision.")
        what = f"{name} at {revision}" if revision else name
        endpoint, info = self._call(
            lambda api: api.model_info(name, revision=revision, files_metadata=True), name, what
        )
        return _repo(name, endpoint, info)

    def header(self, repo: HubRepo, file: str) -> ModelSpec:
        """Read the header of a model's file, of all parts of a split one, and nothing else.

        It transfers under 16 MB however large the model is, and nothing when the header is cached.
        Raises GgufError for what is no GGUF file.
        """
        # The endpoint that listed the repository comes first: another may lack this commit.
        ordered = dict.fromkeys((repo.endpoint, *self._access.endpoints))
        endpoints = tuple(each for each in ordered if each in self._access.endpoints)
        reader = HeaderReader(
            repo=repo.name,
            commit=repo.commit,
            access=replace(self._access, endpoints=endpoints),
            cache_dir=self._cache,
            options=self._options,
        )
        return reader.read(file_list.parts(repo.files, file, repo.name))

    def _call(self, call: "Callable[[HfApi], T]", repo: str, what: str) -> tuple[str, T]:
        """Call the API of each endpoint until one succeeds; return that endpoint and the result."""
        errors: list[HubError | NotFound] = []
        for endpoint in self._access.endpoints:
            try:
                return endpoint, self._call_endpoint(endpoint, call, repo, what)
            except (HubError, NotFound) as error:
                if isinstance(error, Offline):
                    raise
                errors.append(error)
        raise _joined_error(errors)

    def _call_endpoint(
        self, endpoint: str, call: "Callable[[HfApi], T]", repo: str, what: str
    ) -> T:
        """Call one endpoint, and again without the token when the endpoint does not know it."""
        try:
            return self._call_with_retries(self._access, endpoint, call, repo, what)
        except InvalidToken as error:
            anonymous = replace(self._access, token=None, find_token=None)
            try:
                result = self._call_with_retries(anonymous, endpoint, call, repo, what)
            except NotFound as missing:
                raise AccessDenied(f"{missing} {error}") from error
            self._access = anonymous
            self._warnings.append(str(error))
            return result

    def _call_with_retries(
        self, access: Access, endpoint: str, call: "Callable[[HfApi], T]", repo: str, what: str
    ) -> T:
        deadline = self._clock.now() + DEADLINE_S

        def attempt() -> T:
            with _hub_api(access, endpoint, self._clock, deadline) as api:
                return _translating_errors(lambda: call(api), access, endpoint, repo, what)

        try:
            return retry(attempt, clock=self._clock, deadline=deadline)
        except UnusableResponse as error:
            raise HubError(f"{printable_url(endpoint)} does not give {what}: {error}.") from error


@contextmanager
def _hub_api(access: Access, endpoint: str, clock: Clock, deadline: float) -> "Iterator[HfApi]":
    """Give huggingface_hub's API on a client of ours; one thread at a time."""
    with _CLIENT_LOCK:
        hub = _import_huggingface_hub()
        client = open_client(
            access,
            follow_redirects=True,
            wrap=lambda transport: EndpointTransport(transport, endpoint, clock, deadline),
        )
        hub.set_client_factory(lambda: client)
        try:
            yield hub.HfApi(endpoint=endpoint, token=False)
        finally:
            hub.close_session()
            client.close()


def _import_huggingface_hub() -> ModuleType:
    """Import huggingface_hub with its telemetry, update check and implicit token switched off.

    Raises UsageError for a variable of its own (HF_ENDPOINT, HF_HUB_ETAG_TIMEOUT) that it cannot
    read: then its import fails.
    """
    os.environ.update(_HUB_ENVIRONMENT)
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ValueError as error:
        raise UsageError(
            f"A variable of the environment that begins with HF_ cannot be used: {error}."
        ) from error
    constants.HF_HUB_DISABLE_TELEMETRY = True  # in case another module imported it before
    return huggingface_hub


def _translating_errors(
    call: Callable[[], T], access: Access, endpoint: str, repo: str, what: str
) -> T:
    """Call, and turn huggingface_hub's errors into ours."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return call()
    except LocalLLMError:
        raise
    except HfHubHTTPError as error:
        response = error.response
        refusal = access_error(
            response.status_code,
            code=response.headers.get("x-error-code", ""),
            message=response.headers.get("x-error-message", ""),
            sent_token=access.bearer() is not None,
            endpoint=endpoint,
            repo=repo,
            what=what,
        )
        raise refusal or UnusableResponse(
            f"it answers {response.status_code}", retryable=False
        ) from error
    except httpx2.HTTPError as error:
        raise UnusableResponse(describe_error(error), retryable=False) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # huggingface_hub parses without checks: JSON of another shape fails anywhere in it.
        raise UnusableResponse("what it sends is not what the Hub would") from error


def _joined_error(errors: Sequence[HubError | NotFound]) -> HubError | NotFound:
    """Make one error of those of all endpoints."""
    if len(errors) == 1:
        return errors[0]
    message = " ".join(str(each) for each in errors)
    if any(isinstance(each, AccessDenied) for each in errors):
        return AccessDenied(message)
    if all(isinstance(each, NotFound) for each in errors):
        return NotFound(message)
    return HubError(message)


def _repo(name: str, endpoint: str, info: "ModelInfo") -> HubRepo:
    commit = info.sha
    if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
        raise HubError(f"{printable_url(endpoint)} does not say which commit of {name} it lists.")
    entries = [
        (each.rfilename, each.lfs.size if each.lfs else each.size, each.lfs and each.lfs.sha256)
        for each in info.siblings or ()
    ]
    tags = _texts(info.tags)
    # As the Hub spells it: it finds a name in any case, and two spellings are one repository.
    spelled = info.id if info.id.lower() == name.lower() else name
    return HubRepo(
        name=spelled,
        commit=commit,
        files=file_list.validated(name, entries),
        gated=bool(info.gated),
        license=_license(info, tags),
        tags=tags,
        downloads=_count(info.downloads),
        updated=_date(info.last_modified),
        endpoint=endpoint,
    )


def _hit(info: "ModelInfo") -> SearchHit:
    return SearchHit(
        name=info.id,
        downloads=_count(info.downloads),
        likes=_count(info.likes),
        updated=_date(info.last_modified),
        gated=bool(info.gated),
        tags=_texts(info.tags),
    )


def _license(info: "ModelInfo", tags: tuple[str, ...]) -> str | None:
    """Return the model card's license, else that of the repository's tag."""
    stated = getattr(info.card_data, "license", None)
    if isinstance(stated, str) and stated:
        return single_line(stated)[:_MAX_TEXT]
    tagged = (tag.removeprefix("license:") for tag in tags if tag.startswith("license:"))
    return next(tagged, None)


def _texts(values: object) -> tuple[str, ...]:
    listed = values if isinstance(values, list) else []
    return tuple(single_line(each)[:_MAX_TEXT] for each in listed if isinstance(each, str))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _date(value: object) -> str | None:
    """Format a time as ISO 8601 with its time zone."""
    return value.isoformat() if isinstance(value, datetime) else None
