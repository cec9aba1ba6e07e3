"""What the screens work with: one runtime, one pool of models, the downloads, the settings.

Screens reach them through `WorkScreen.services`; a test passes its own.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.chat.history.history import History
from localllm.core.catalogue.catalogue import Entry
from localllm.core.hardware import HardwareInfo
from localllm.core.speed.estimate import Estimate
from localllm.library.files import paths
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.files.settings import Settings
from localllm.library.files.settings import load as load_settings
from localllm.library.http.ledger import NetworkLedger, process_ledger
from localllm.library.store.installed import InstalledModel
from localllm.machine.load import SystemLoad
from localllm.machine.readings import Readings, read_machine
from localllm.runtime.load_policy import CHAT
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import FOREVER, OnDemand, PoolModels
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.runtime.suggest import SuggestionPreferences, Suggestions, suggestions
from localllm.server.local.app_server import AppServer
from localllm.translation import _, set_language
from localllm.tui.downloads import Downloads, HubSource
from localllm.tui.frame_state import FrameState

if TYPE_CHECKING:  # imported when somebody uses documents
    from localllm.chat.documents.service import Documents
    from localllm.library.encryption.key_store import KeyStore

Expect = Callable[[HardwareInfo, ResidentModel], Estimate]
"""Estimate the tokens/s of a model in memory. Blocks; raises LocalLLMError."""

Suggest = Callable[
    [HardwareInfo, tuple[InstalledModel, ...], SuggestionPreferences | None], Suggestions
]
"""Plan what else fits a machine that has these models. Blocks; raises LocalLLMError."""


@dataclass(slots=True, kw_only=True)
class AppServices:
    """What the app holds for all of its screens.

    `pool` is the way to a model in memory, for the chat, the server and everything else; a model
    stays there until another needs the room. `suggest` plans what else fits, `catalogue` reads all
    that can be had (both block), `read_machine` looks at memory, disk, temperature and battery.
    `clock` gives seconds, monotonic. `frame` is what the header and the status line show.
    `read_load` tells how busy the machine is and gets whether the GPU is asked; None: this
    machine's; `expect` likewise how fast it should write. `conversations` are kept as the person
    chose.
    `collections_dir` is where collections of documents are kept then. `ledger` knows what was sent.
    """

    runtime: Runtime
    pool: ModelPool
    downloads: Downloads
    settings: Settings
    suggest: Suggest = suggestions
    read_machine: Callable[[], Readings] = field(
        default_factory=lambda: lambda: read_machine(paths.data_dir())
    )
    catalogue: Callable[[], tuple[Entry, ...]] = read_catalogue
    clock: Callable[[], float] = time.monotonic
    frame: FrameState = field(default_factory=FrameState)
    read_load: Callable[[bool], SystemLoad] | None = None
    expect: Expect | None = None
    conversations: History = field(default_factory=History.in_memory)
    collections_dir: Path = field(default_factory=paths.collections_dir)
    ledger: NetworkLedger = field(default_factory=process_ledger)
    _documents: "Documents | None" = None
    _server: AppServer | None = None

    @property
    def documents(self) -> "Documents":
        """The collections of documents and what is done with them."""
        if self._documents is None:
            from localllm.chat.documents.collections import Collections
            from localllm.chat.documents.service import Documents

            collections = Collections(self.collections_dir, self._keys)
            self._documents = Documents(collections, self.pool)
            self._documents.observers.append(self._show_indexing)
        return self._documents

    def _show_indexing(self) -> None:
        """Say in the status line how far indexing has come."""
        assert self._documents is not None
        done, total = self._documents.progress
        text = _("indexing {done} of {total} files").format(done=done, total=total)
        self.frame.set_activity("documents", text if self._documents.running else "")

    def pause_indexing(self, *, paused: bool) -> None:
        """Let indexing wait, or go on; nothing happens before somebody used documents."""
        if self._documents is not None and paused:
            self._documents.pause()
        elif self._documents is not None:
            self._documents.resume()

    def _keys(self) -> "KeyStore | None":
        """Return the keys of what is kept encrypted; None where nothing is kept, or locked."""
        history = self.conversations
        return history.keys if history.is_on_disk and history.keys.is_unlocked else None

    @classmethod
    def of_this_machine(cls, frame: FrameState) -> "AppServices":
        """Make those of the real machine and the user's settings. Raises UsageError."""
        settings = load_settings()
        set_language(settings.language)
        frame.set_offline(offline=settings.offline)
        runtime = Runtime.of_this_machine()
        return cls(
            runtime=runtime,
            pool=app_pool(runtime),
            downloads=Downloads(HubSource()),
            settings=settings,
            frame=frame,
            conversations=History.of_this_user(settings),
        )

    @property
    def server(self) -> AppServer:
        """The server of this app, which is started in its place."""
        if self._server is None:
            self._server = AppServer(self.pool)
        return self._server

    async def close(self) -> None:
        """Stop the server, every transfer and all indexing, end every engine, write what is left
        of conversations."""
        if self._server is not None:
            await self._server.stop(at_once=True)
        if self._documents is not None:
            await self._documents.close()
        await asyncio.gather(
            self.downloads.close(),
            self.pool.close(),
            asyncio.to_thread(self.conversations.close),
        )


def app_pool(runtime: Runtime) -> ModelPool:
    """Make the pool of the app: every installed model, loaded when it is wanted as a chat's is, and
    kept until another one needs its memory."""
    on_demand = OnDemand(choice=CHAT, default_keep_alive_s=FOREVER)
    return ModelPool(runtime, PoolModels(runtime, (), on_demand=on_demand))
