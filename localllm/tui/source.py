"""Where the app gets models that are not on this disk: the Hub, through `pulling`.

The app is given a `Source` and never asks the network by itself; a test gives it another one.
"""

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from localllm.core.recommend import Candidate, FitPlan, Wish
from localllm.errors import Offline
from localllm.library import paths, settings
from localllm.library.catalogue_file import read_catalogue
from localllm.library.store import Store

if TYPE_CHECKING:  # what asks the network is loaded when somebody looks at a download
    from localllm.library.download import Progress
    from localllm.library.network import Access
    from localllm.pulling import Choice, Pulled


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What can be said of a download before anybody is asked.

    `refusal` says why it cannot even be tried (the network is switched off), or None.
    """

    host: str
    directory: Path
    free_bytes: int | None
    license: str | None
    refusal: str | None = None


def repository(candidate: Candidate) -> str:
    """ORG/REPO of a candidate that the catalogue knows."""
    return candidate.file.removesuffix(f":{candidate.quant}")


class Source(Protocol):
    """All three block, and raise LocalLLMError. `offer` reads this disk only; `pull` ends soon
    after `stop` is set, with an error, and what came is kept."""

    def offer(self, plan: FitPlan) -> Offer: ...

    def choose(self, plan: FitPlan) -> "Choice": ...

    def pull(
        self, choice: "Choice", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled": ...


class HubSource:
    """The Hub as this user's settings and environment name it, read anew for each call: what was
    switched off may be switched on meanwhile."""

    def offer(self, plan: FitPlan) -> Offer:
        from localllm.library import network

        access, refusal = _access(), None
        try:
            network.require_online(access)
        except Offline as error:
            refusal = str(error)
        entries = (each for each in read_catalogue() if each.name == plan.candidate.model)
        directory = paths.hub_dir(paths.data_dir())
        return Offer(
            host=" or ".join(urlsplit(each).netloc for each in access.endpoints),
            directory=directory,
            free_bytes=_free_bytes(directory),
            license=next((entry.license for entry in entries), None),
            refusal=refusal,
        )

    def choose(self, plan: FitPlan) -> "Choice":
        from localllm.library.hub import Hub
        from localllm.pulling import choose

        # Not by the catalogue's name, which stands for several repositories: it comes from the one
        # that was shown.
        return choose(
            repository(plan.candidate),
            quant=plan.candidate.quant,
            revision=None,
            hub=Hub(_access()),
            machine=None,
            wish=Wish(),
        )

    def pull(
        self, choice: "Choice", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled":
        from localllm.pulling import pull

        store = Store.default()
        return pull(choice, access=_access(), store=store, on_progress=on_progress, stop=stop)


def _access() -> "Access":
    from localllm.library import network

    return network.access(settings.load())


def _free_bytes(directory: Path) -> int | None:
    """What is free where a directory is or will be."""
    for each in (directory, *directory.parents):
        with suppress(OSError):
            return shutil.disk_usage(each).free
    return None
