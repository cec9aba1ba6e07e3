"""What the Hub says about models: search hits, a repository's files, a file's header.

The only module that imports huggingface_hub, and only when a question is asked. Bytes of models
come through `download`. Everything that the Hub says is outside text: names are checked here,
once, and texts are one line.
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
from localllm.library.download.target import Conditions
from localllm.library.files import paths
from localllm.library.http.access_errors import TokenRefused, denial
from localllm.library.http.client import Access, open_client, problem, shown_url
from localllm.library.http.client import file_url as file_url
from localllm.library.http.retrying_transport import ANSWER_S, AnswersOnly, Clock, NoAnswer, persist
from localllm.library.hub import file_list
from localllm.library.hub.file_list import HubFile as HubFile
from localllm.library.hub.remote_header import IMPATIENT, HeaderCacheKey, read_header

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

MAX_FOUND = 100
_MAX_TEXT = 200
_EXPAND = ["downloads", "gated", "lastModified", "likes", "tags"]
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # also keeps it from asking /api/agent-harnesses
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # the gate adds the token, and where it may go
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_VERBOSITY": "error",
}
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_SESSION = threading.Lock()
"""huggingface_hub has one client for the whole process."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One hit of a search. None: the Hub did not say."""

    name: str
    downloads: int | None
    likes: int | None
    updated: str | None
    gated: bool
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepo:
    """A repository at one commit, as `endpoint` lists it. `gated`: its files want a token of
    somebody who accepted its terms."""

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
    """The Hub, or its mirrors in order; nothing is asked before a method is called.

    Every method raises Offline while the network is off (but gives a header that is in the cache),
    AccessDenied where a token is wanted, NotFound for what is not there and HubError for a Hub
    that does not answer as one. `warnings` are sentences for the user about what was asked.
    """

    def __init__(
        self,
        access: Access,
        *,
        cache_dir: Path | None = None,
        clock: Clock | None = None,
        conditions: Conditions = IMPATIENT,
    ) -> None:
        self._access = access
        self._cache = paths.hub_headers_dir(cache_dir or paths.cache_dir())
        self._clock = clock or Clock()
        self._conditions = conditions
        self._warnings: list[str] = []

    @property
    def access(self) -> Access:
        """The access as it proved usable: without a token that an endpoint did not know."""
        return self._access

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def search(self, text: str, *, limit: int = 20) -> tuple[Found, ...]:
        """Find repositories that hold GGUF files, the most downloaded first."""
        words = single_line(text)[:_MAX_TEXT]
        most = max(1, min(limit, MAX_FOUND))

        def ask(api: "HfApi") -> "list[ModelInfo]":
            hits = api.list_models(
                search=words or None,
                filter="gguf",
                sort="downloads",
                limit=most,
                expand=_EXPAND,  # type: ignore[arg-type]  # its Literal is not exported
            )
            return list(hits)

        _, hits = self._ask(ask, "models", f"a search for {words!r}")
        return tuple(_found(hit) for hit in hits if file_list.repo_problem(hit.id) is None)

    def repo(self, name: str, revision: str | None = None) -> HubRepo:
        """List the files of ORG/REPO at a branch, tag or commit (None: its main branch).

        Raises UsageError for what cannot be a repository's name or a revision, HubError naming
        the file for a listing that holds a name that must not become a path.
        """
        if (wrong := file_list.repo_problem(name)) is not None:
            raise UsageError(f"{single_line(name)[:80]!r} names no repository: {wrong}.")
        if revision is not None and _REVISION.fullmatch(revision) is None:
            raise UsageError(f"{single_line(revision)[:80]!r} cannot be a revision.")
        what = f"{name} at {revision}" if revision else name
        endpoint, info = self._ask(
            lambda api: api.model_info(name, revision=revision, files_metadata=True), name, what
        )
        return _repo(name, endpoint, info)

    def header(self, repo: HubRepo, file: str) -> ModelSpec:
        """Read the header of a model's file, of all parts of a split one, and nothing else.

        It moves under 16 MB however large the model is, and nothing when the header is in the
        cache. Raises GgufError for what is no GGUF file.
        """
        first = dict.fromkeys((repo.endpoint, *self._access.endpoints))
        endpoints = tuple(each for each in first if each in self._access.endpoints)
        mark = HeaderCacheKey(
            repo=repo.name,
            commit=repo.commit,
            access=replace(self._access, endpoints=endpoints),
            kept=self._cache,
            conditions=self._conditions,
        )
        return read_header(file_list.parts(repo.files, file, repo.name), mark)

    def _ask(self, ask: "Callable[[HfApi], T]", repo: str, what: str) -> tuple[str, T]:
        """Ask each endpoint until one answers: it, and what it said."""
        failed: list[HubError | NotFound] = []
        for endpoint in self._access.endpoints:
            try:
                return endpoint, self._with_token(endpoint, ask, repo, what)
            except (HubError, NotFound) as error:
                if isinstance(error, Offline):
                    raise
                failed.append(error)
        raise _most_telling(failed)

    def _with_token(self, endpoint: str, ask: "Callable[[HfApi], T]", repo: str, what: str) -> T:
        """Ask, and again without the token when the endpoint does not know it."""
        try:
            return self._once(self._access, endpoint, ask, repo, what)
        except TokenRefused as error:
            without = replace(self._access, token=None, find_token=None)
            try:
                answer = self._once(without, endpoint, ask, repo, what)
            except NotFound as missing:
                raise AccessDenied(f"{missing} {error}") from error
            self._access = without
            self._warnings.append(str(error))
            return answer

    def _once(
        self, access: Access, endpoint: str, ask: "Callable[[HfApi], T]", repo: str, what: str
    ) -> T:
        until = self._clock.now() + ANSWER_S

        def attempt() -> T:
            with _session(access, endpoint, self._clock, until) as api:
                return _answer(lambda: ask(api), access, endpoint, repo, what)

        try:
            return persist(attempt, clock=self._clock, until=until)
        except NoAnswer as error:
            raise HubError(f"{shown_url(endpoint)} does not give {what}: {error}.") from error


@contextmanager
def _session(access: Access, endpoint: str, clock: Clock, until: float) -> "Iterator[HfApi]":
    """huggingface_hub, made to use the one client; alone, for it has one for the process."""
    with _SESSION:
        hub = _library()
        client = open_client(
            access,
            follow_redirects=True,
            around=lambda gate: AnswersOnly(gate, endpoint, clock, until),
        )
        hub.set_client_factory(lambda: client)
        try:
            yield hub.HfApi(endpoint=endpoint, token=False)
        finally:
            hub.close_session()
            client.close()


def _library() -> ModuleType:
    """Import huggingface_hub, with everything switched off that nobody asked for.

    Raises UsageError for a variable of its own (HF_ENDPOINT, HF_HUB_ETAG_TIMEOUT) that it cannot
    read: it fails while being imported then.
    """
    os.environ.update(_QUIET)
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ValueError as error:
        raise UsageError(
            f"A variable of the environment that begins with HF_ cannot be used: {error}."
        ) from error
    constants.HF_HUB_DISABLE_TELEMETRY = True  # if it was imported before we said so
    return huggingface_hub


def _answer(ask: Callable[[], T], access: Access, endpoint: str, repo: str, what: str) -> T:
    """Ask once, with huggingface_hub's errors made ours."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except LocalLLMError:
        raise
    except HfHubHTTPError as error:
        response = error.response
        denied = denial(
            response.status_code,
            code=response.headers.get("x-error-code", ""),
            message=response.headers.get("x-error-message", ""),
            sent_token=access.bearer() is not None,
            endpoint=endpoint,
            repo=repo,
            what=what,
        )
        raise denied or NoAnswer(f"it answers {response.status_code}", again=False) from error
    except httpx2.HTTPError as error:
        raise NoAnswer(problem(error), again=False) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NoAnswer("what it sends is not what the Hub would") from error


def _most_telling(failed: Sequence[HubError | NotFound]) -> HubError | NotFound:
    """One error for all endpoints."""
    if len(failed) == 1:
        return failed[0]
    together = " ".join(str(each) for each in failed)
    if any(isinstance(each, AccessDenied) for each in failed):
        return AccessDenied(together)
    if all(isinstance(each, NotFound) for each in failed):
        return NotFound(together)
    return HubError(together)


def _repo(name: str, endpoint: str, info: "ModelInfo") -> HubRepo:
    commit = info.sha
    if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
        raise HubError(f"{shown_url(endpoint)} does not say which commit of {name} it lists.")
    entries = [
        (each.rfilename, each.lfs.size if each.lfs else each.size, each.lfs and each.lfs.sha256)
        for each in info.siblings or ()
    ]
    tags = _texts(info.tags)
    return HubRepo(
        name=name,
        commit=commit,
        files=file_list.believed(name, entries),
        gated=bool(info.gated),
        license=_license(info, tags),
        tags=tags,
        downloads=_count(info.downloads),
        updated=_date(info.last_modified),
        endpoint=endpoint,
    )


def _found(info: "ModelInfo") -> Found:
    return Found(
        name=info.id,
        downloads=_count(info.downloads),
        likes=_count(info.likes),
        updated=_date(info.last_modified),
        gated=bool(info.gated),
        tags=_texts(info.tags),
    )


def _license(info: "ModelInfo", tags: tuple[str, ...]) -> str | None:
    """What the model card says, else the repository's tag."""
    said = getattr(info.card_data, "license", None)
    if isinstance(said, str) and said:
        return single_line(said)[:_MAX_TEXT]
    tagged = (tag.removeprefix("license:") for tag in tags if tag.startswith("license:"))
    return next(tagged, None)


def _texts(values: object) -> tuple[str, ...]:
    listed = values if isinstance(values, list) else []
    return tuple(single_line(each)[:_MAX_TEXT] for each in listed if isinstance(each, str))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _date(value: object) -> str | None:
    """ISO 8601 with its time zone."""
    return value.isoformat() if isinstance(value, datetime) else None
