"""Downloads of the app: what the Hub offers, and the transfers, in threads beside the app.

The app is given a `DownloadSource` and never asks the network by itself; a test gives it another
one. The threads are daemons: they do not keep the program from ending.
"""

import asyncio
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from localllm.core.recommend import Candidate, FitPlan, Preferences
from localllm.errors import Offline
from localllm.library.files import paths, settings
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.store.store import Store

if TYPE_CHECKING:  # what asks the network is loaded when somebody looks at a download
    from localllm.library.download.progress import Progress
    from localllm.library.http.client import Access
    from localllm.runtime.pull import Pulled, PullPlan

T = TypeVar("T")

STOP_S = 5.0
"""How long the end of the program waits for a transfer to write down what it has. One that is cut
off harder leaves something to go on from as well."""


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


def repository(candidate: Candidate) -> str:
    """Return the ORG/REPO of a candidate that the catalogue knows."""
    return candidate.file.removesuffix(f":{candidate.quant}")


class DownloadSource(Protocol):
    """Where downloads come from. All three block, and raise LocalLLMError.

    `preview` reads this disk only; `pull` ends soon after `stop` is set, with an error, and what
    came stays on the disk.
    """

    def preview(self, plan: FitPlan) -> DownloadPreview: ...

    def plan_pull(self, plan: FitPlan) -> "PullPlan": ...

    def pull(
        self, plan: "PullPlan", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled": ...


class HubSource:
    """The Hub as this user's settings and environment name it, read anew for each call: what was
    switched off may be switched on meanwhile."""

    def preview(self, plan: FitPlan) -> DownloadPreview:
        from localllm.library.http import client as network

        access, refusal = _access(), None
        try:
            network.require_online(access)
        except Offline as error:
            refusal = str(error)
        entries = (each for each in read_catalogue() if each.name == plan.candidate.model)
        directory = paths.hub_dir(paths.data_dir())
        return DownloadPreview(
            host=" or ".join(urlsplit(each).netloc for each in access.endpoints),
            directory=directory,
            free_bytes=_free_bytes(directory),
            license=next((entry.license for entry in entries), None),
            refusal=refusal,
        )

    def plan_pull(self, plan: FitPlan) -> "PullPlan":
        from localllm.library.hub.hub import Hub
        from localllm.runtime.find_model import OnHub
        from localllm.runtime.pull import plan_pull

        # Not by the catalogue's name, which stands for several repositories: it comes from the one
        # that was shown.
        shown = OnHub(repository=repository(plan.candidate), quant=plan.candidate.quant)
        return plan_pull(
            shown, revision=None, hub=Hub(_access()), machine=None, preferences=Preferences()
        )

    def pull(
        self, plan: "PullPlan", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled":
        from localllm.runtime.pull import pull

        store = Store.default()
        return pull(plan, access=_access(), store=store, on_progress=on_progress, stop=stop)


def _access() -> "Access":
    from localllm.library.http import client as network

    return network.access_from(settings.load())


def _free_bytes(directory: Path) -> int | None:
    """Measure what is free where a directory is or will be."""
    for each in (directory, *directory.parents):
        with suppress(OSError):
            return shutil.disk_usage(each).free
    return None


class Downloads:
    """Every transfer of the app, so that its end can stop them all."""

    def __init__(self, source: DownloadSource) -> None:
        self._source = source
        self._pulling: dict[asyncio.Future[Pulled], threading.Event] = {}

    async def preview(self, plan: FitPlan) -> DownloadPreview:
        """Look up what is known before the network is asked. Raises UsageError."""
        return await asyncio.to_thread(self._source.preview, plan)

    async def plan_pull(self, plan: FitPlan) -> "PullPlan":
        """Ask the Hub for the files of a plan. Raises HubError, NotFound, UsageError."""
        return await _in_daemon_thread(partial(self._source.plan_pull, plan))

    async def pull(
        self, plan: "PullPlan", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled":
        """Download; cancelling this stops the transfer. Raises HubError, StoreError.

        `on_progress` is called in the transfer's thread.
        """
        pulling = _in_daemon_thread(
            partial(self._source.pull, plan, on_progress=on_progress, stop=stop)
        )
        self._pulling[pulling] = stop
        pulling.add_done_callback(self._ended)
        try:
            return await asyncio.shield(pulling)
        except asyncio.CancelledError:
            stop.set()
            raise

    def _ended(self, pulling: "asyncio.Future[Pulled]") -> None:
        del self._pulling[pulling]
        pulling.exception()  # whoever waited has it; nobody may have

    async def close(self) -> None:
        """Stop every transfer and wait until it has written down what it has."""
        for stop in self._pulling.values():
            stop.set()
        if self._pulling:
            await asyncio.wait(self._pulling, timeout=STOP_S)


def _in_daemon_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """Run a blocking call in a daemon thread. The loop waits for its own threads at the end of the
    program, and this call may be waiting for a server that says nothing."""
    running = _ThreadCall(call)
    threading.Thread(target=running.run, name="localllm-hub", daemon=True).start()
    return running.future


class _ThreadCall(Generic[T]):
    """A call in another thread, whose result or error is given to the loop that waits for it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()

    def run(self) -> None:
        with self:
            self._results.append(self._call())

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, error)
        return True

    def _settle(self, error: BaseException | None) -> None:
        if self.future.done():  # cancelled
            return
        if error is None:
            self.future.set_result(self._results[0])
        else:
            self.future.set_exception(error)
