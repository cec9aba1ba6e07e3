"""Downloads of the app: what the Hub offers, and the transfers, in threads beside the app.

The app is given a `Source` and never asks the network by itself; a test gives it another one.
The threads do not keep the program from ending.
"""

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from localllm.core.recommend import Candidate, FitPlan, Preferences
from localllm.errors import Offline
from localllm.library.files import paths, settings
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.store.store import Store

if TYPE_CHECKING:  # what asks the network is loaded when somebody looks at a download
    from localllm.library.download.progress import Progress
    from localllm.library.http.client import Access
    from localllm.runtime.pull import Choice, Pulled

import asyncio
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from localllm.library.download.progress import Progress
    from localllm.runtime.pull import Choice, Pulled


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
        from localllm.library.http import client as network

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
        from localllm.library.hub.hub import Hub
        from localllm.runtime.pull import choose

        # Not by the catalogue's name, which stands for several repositories: it comes from the one
        # that was shown.
        return choose(
            repository(plan.candidate),
            quant=plan.candidate.quant,
            revision=None,
            hub=Hub(_access()),
            machine=None,
            preferences=Preferences(),
        )

    def pull(
        self, choice: "Choice", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled":
        from localllm.runtime.pull import pull

        store = Store.default()
        return pull(choice, access=_access(), store=store, on_progress=on_progress, stop=stop)


def _access() -> "Access":
    from localllm.library.http import client as network

    return network.access_from(settings.load())


def _free_bytes(directory: Path) -> int | None:
    """What is free where a directory is or will be."""
    for each in (directory, *directory.parents):
        with suppress(OSError):
            return shutil.disk_usage(each).free
    return None


T = TypeVar("T")

STOP_S = 5.0
"""How long the end of the program waits for a transfer to write down what it has. One that is cut
off harder leaves something to go on from as well."""


class Fetcher:
    """The one that the whole app shares: it knows every transfer that runs."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pulling: dict[asyncio.Future[Pulled], threading.Event] = {}

    async def offer(self, plan: FitPlan) -> Offer:
        """What can be said before the network is asked. Raises UsageError."""
        return await asyncio.to_thread(self._source.offer, plan)

    async def choose(self, plan: FitPlan) -> "Choice":
        """Ask the Hub for the files of a plan. Raises HubError, NotFound, UsageError."""
        return await _beside(partial(self._source.choose, plan))

    async def pull(
        self, choice: "Choice", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled":
        """Download; whoever gives this up stops the transfer. Raises HubError, StoreError.

        `on_progress` is called in the transfer's thread.
        """
        pulling = _beside(partial(self._source.pull, choice, on_progress=on_progress, stop=stop))
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


def _beside(call: Callable[[], T]) -> asyncio.Future[T]:
    """Run a blocking call in a daemon thread. The loop waits for its own threads at the end of the
    program, and this call may be waiting for a server that says nothing."""
    running = _Call(call)
    threading.Thread(target=running.run, name="localllm-hub", daemon=True).start()
    return running.future


class _Call(Generic[T]):
    """Whatever comes of a call, a result or an error, is given to the loop that waits for it."""

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
        if self.future.done():  # given up
            return
        if error is None:
            self.future.set_result(self._results[0])
        else:
            self.future.set_exception(error)
