"""Where downloads come from: the Hub, or in a test something else.

The app never asks the network by itself, and everything here blocks.
"""

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from localllm.core.recommend import Candidate, Preferences
from localllm.errors import Offline
from localllm.library.files import paths, settings
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.store.store import Store
from localllm.translation import _

if TYPE_CHECKING:  # what asks the network is loaded when somebody looks at a download
    from localllm.library.download.progress import Progress
    from localllm.library.http.client import Access
    from localllm.library.hub.hub import Hub, SearchHit
    from localllm.runtime.hub_models import HubModels
    from localllm.runtime.pull import Pulled, PullPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """A file of a repository that somebody wants. `quant` is its label or the file's own name;
    `size_bytes` is what it is expected to have, and `revision` the commit where it was begun."""

    repository: str
    quant: str
    size_bytes: int
    revision: str | None = None

    @property
    def title(self) -> str:
        """A short name: the repository's without its owner, and the quant."""
        name = self.repository.rpartition("/")[2].removesuffix("-GGUF").removesuffix("-gguf")
        quant = self.quant.rpartition("/")[2]
        return quant.removesuffix(".gguf") if "." in quant else f"{name} {quant}"

    def same_file(self, other: "DownloadRequest") -> bool:
        return (self.repository, self.quant) == (other.repository, other.quant)


def request_of(candidate: Candidate) -> DownloadRequest:
    """Return the download of a candidate. Not by the catalogue's name, which stands for several
    repositories: it comes from the one that was shown."""
    repository, _, name = candidate.file.partition(":")
    return DownloadRequest(
        repository=repository, quant=name or candidate.quant, size_bytes=candidate.size_bytes
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPreview:
    """The facts of a download that are known before anybody is asked.

    `refusal` says why it cannot even be tried (the network is switched off), or None.
    """

    host: str
    directory: Path
    free_bytes: int | None
    license: str | None
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAccess:
    """Whom a search would ask, and why nobody can be asked, or None."""

    host: str
    refusal: str | None = None


class DownloadSource(Protocol):
    """Where downloads come from. All of them block, and raise LocalLLMError.

    `access` and `preview` read this disk only; `pull` ends soon after `stop` is set, with an error,
    and what came stays on the disk. `search` and `read_repository` ask the Hub.
    """

    def access(self) -> HubAccess: ...

    def preview(self, request: DownloadRequest) -> DownloadPreview: ...

    def plan_pull(self, request: DownloadRequest) -> "PullPlan": ...

    def pull(
        self, plan: "PullPlan", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled": ...

    def search(self, text: str) -> "tuple[SearchHit, ...]": ...

    def read_repository(self, repository: str) -> "HubModels": ...


class HubSource:
    """The Hub as this user's settings and environment name it, read anew for each call: what was
    switched off may be switched on meanwhile."""

    def access(self) -> HubAccess:
        from localllm.library.http import client as network

        access, refusal = _access(), None
        try:
            network.require_online(access)
        except Offline:
            refusal = access.offline or ""
        return HubAccess(
            host=" or ".join(urlsplit(each).netloc for each in access.endpoints), refusal=refusal
        )

    def preview(self, request: DownloadRequest) -> DownloadPreview:
        hub = self.access()
        entries = (each for each in read_catalogue() if request.repository in each.repos)
        directory = paths.hub_dir(paths.data_dir())
        return DownloadPreview(
            host=hub.host,
            directory=directory,
            free_bytes=_free_bytes(directory),
            license=next((entry.license for entry in entries), None),
            refusal=None if hub.refusal is None else offline_sentence(hub.refusal),
        )

    def plan_pull(self, request: DownloadRequest) -> "PullPlan":
        from localllm.runtime.find_model import OnHub
        from localllm.runtime.pull import plan_pull

        shown = OnHub(repository=request.repository, quant=request.quant)
        return plan_pull(
            shown,
            revision=request.revision,
            hub=_hub(),
            machine=None,
            preferences=Preferences(),
        )

    def pull(
        self, plan: "PullPlan", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled":
        from localllm.runtime.pull import pull

        store = Store.default()
        return pull(plan, access=_access(), store=store, on_progress=on_progress, stop=stop)

    def search(self, text: str) -> "tuple[SearchHit, ...]":
        return _hub().search(text, limit=50)

    def read_repository(self, repository: str) -> "HubModels":
        from localllm.runtime.hub_models import read_repository

        return read_repository(_hub(), repository)


def offline_sentence(switch: str) -> str:
    """Say that the network is off, by which switch, and what to do."""
    return _(
        "The network is switched off ({switch}). Nothing was tried. Switch it on in Settings, or"
        " import a file."
    ).format(switch=switch)


def _hub() -> "Hub":
    from localllm.library.hub.hub import Hub

    return Hub(_access())


def _access() -> "Access":
    from localllm.library.http import client as network

    return network.access_from(settings.load())


def _free_bytes(directory: Path) -> int | None:
    """Measure what is free where a directory is or will be."""
    for each in (directory, *directory.parents):
        with suppress(OSError):
            return shutil.disk_usage(each).free
    return None
