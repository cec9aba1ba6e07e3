"""The server that runs in the process of the terminal app, on the models that the app has loaded.

It is the server of `localllm serve` with the app's pool: one loaded model answers the chat and the
clients. It handles no signals, ends no engine and writes no log; its end is the app's, or comes
before it.
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.core.text import single_line
from localllm.core.units import parse_bytes
from localllm.errors import LocalLLMError, ServeError
from localllm.library.files import paths, settings
from localllm.library.files.settings import Settings
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.observer import PoolObserver
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import FOREVER, PoolModels
from localllm.server.local.listening import ListenChoice, Listening, access_to, listening
from localllm.server.local.place import one_server
from localllm.server.local.pool_models import PoolOptions, pool_models

if TYPE_CHECKING:  # the HTTP server is loaded when it is started
    from localllm.server.app import Access, Monitoring
    from localllm.server.listen import StopSignals
    from localllm.server.monitoring.activity import Activity

LAST_WORDS_S = 2.0
"""For the errors of answers that were cut off to reach their clients."""


class ServerState(StrEnum):
    """The state of a server."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class PortTaken(ServeError):
    """Another program listens on the port."""


class Exposed(ServeError):
    """The address of the settings is reached from other machines, without TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """How a running server is reached. `key` is the owner's, `key_file` where it is kept, None: it
    came from the environment."""

    url: str
    loopback: bool
    key: str
    key_file: Path | None

    def __repr__(self) -> str:
        return f"ServerAddress(url={self.url!r})"  # the key stays out of tracebacks


class AppServer:
    """Starts and stops the server, and says what it does.

    `changed` is called in the loop when the state does. `problem` says why it could not go on.
    """

    def __init__(
        self,
        pool: ModelPool,
        *,
        load_settings: Callable[[], Settings] = settings.load,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.pool = pool
        self.state = ServerState.STOPPED
        self.address: ServerAddress | None = None
        self.activity: Activity | None = None
        self.problem: str | None = None
        self.warnings: tuple[str, ...] = ()
        self._slots: int | None = None
        self._load_settings = load_settings
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._stop: StopSignals | None = None
        self._ready: asyncio.Future[None] | None = None

    async def start(self, *, port: int | None = None) -> None:
        """Serve on the address of the settings, at `port` (None: that of the settings, 0: any).

        Raises RunsAlready, PortTaken, Exposed and other ServeErrors, and UsageError.
        """
        if self._task is not None:
            return
        self._set(ServerState.STARTING)
        self.problem, self.warnings = None, ()
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(port))
        self._task.add_done_callback(self._ended)
        await asyncio.shield(self._ready)

    async def stop(self, *, at_once: bool = False) -> None:
        """Take no more requests, give those that run a few seconds to end, and cut off the rest.

        `at_once`: cut them off now. Returns when the server has ended.
        """
        if self._task is None:
            return
        if self._stop is None:  # it has not begun to listen
            self._task.cancel()
        else:
            self._begin_stop(self._stop)
            if at_once:
                await self._abort(self._stop)
        with contextlib.suppress(asyncio.CancelledError, LocalLLMError):
            await asyncio.shield(self._task)

    async def end_request(self, number: int) -> bool:
        """End the answer to a running request; its client gets an error. False: there is none."""
        found = () if self.activity is None else self.activity.engine_requests((number,))
        for model, request_id in found:
            await self.pool.runtime.cancel(model, request_id)
        return bool(found)

    async def set_slots(self, slots: int) -> None:
        """Load the models in memory anew, each for so many answers at once, when those that run
        have ended; and those that are loaded later as well. Raises what loading raises."""
        user = await asyncio.to_thread(self._load_settings)
        self._slots = slots
        if self.address is not None:
            self.pool.models = await asyncio.to_thread(
                pool_models, self.pool.runtime, (), self._options(user), user
            )
        for each in self.pool.runtime.resident():
            if each.loaded.parallel != slots:
                await self.pool.unload(each.model.name)
                await self.pool.load(each.model.name)

    def _options(self, user: Settings) -> PoolOptions:
        """Say how models are loaded for clients: for several at once, and kept, as the app keeps
        all, unless the settings say how long."""
        keep_alive_s = FOREVER if user.keep_alive is None else None
        return PoolOptions(choice=LoadChoice(parallel=self._slots), keep_alive_s=keep_alive_s)

    async def _run(self, port: int | None) -> None:
        user = await asyncio.to_thread(self._load_settings)
        await asyncio.to_thread(_import_server)
        from localllm.server.app import Monitoring
        from localllm.server.listen import StopSignals
        from localllm.server.monitoring.activity import Activity

        warnings: list[str] = []
        async with contextlib.AsyncExitStack() as stack:
            place = stack.enter_context(one_server(None, warn=warnings.append))
            at = await _open(stack, ListenChoice(port=port), user, warnings)
            address = _address(at)
            self.activity = Activity()
            monitoring = Monitoring(activity=self.activity)
            access = access_to(
                at,
                names=(user.host, *user.allowed_hosts),
                cors_origins=user.cors_origins,
                run_key=place.key,
            )
            stack.callback(access.keys.write_used)
            before = self.pool.models, self.pool.observer
            stack.callback(self._restore_pool, *before)
            runtime = self.pool.runtime
            self.pool.models = await asyncio.to_thread(
                pool_models, runtime, (), self._options(user), user
            )
            self.pool.observer = monitoring.metrics
            if user.max_memory is not None:
                stack.callback(setattr, runtime, "max_memory_bytes", runtime.max_memory_bytes)
                runtime.max_memory_bytes = parse_bytes(user.max_memory)
            stack.enter_context(
                place.published(
                    url=at.url,
                    socket=None,
                    key_file=address.key_file,
                    certificate=None if at.tls is None else at.tls.certificate,
                    log_file=None,
                    in_app=True,
                )
            )
            self._stop = StopSignals()
            self.address, self.warnings = address, tuple(warnings)
            self._set(ServerState.RUNNING)
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
            await self._serve(at, access, monitoring, user, self._stop, stack)

    async def _serve(  # the parts of one server
        self,
        at: Listening,
        access: "Access",
        monitoring: "Monitoring",
        user: Settings,
        stop: "StopSignals",
        stack: contextlib.AsyncExitStack,
    ) -> None:
        from localllm.server.app import RequestRules, create_app
        from localllm.server.batch.service import BatchService
        from localllm.server.batch.store import BatchStore
        from localllm.server.listen import serve

        batches = BatchService(BatchStore(directory=paths.batch_dir()))
        app = create_app(
            self.pool,
            access=access,
            monitoring=monitoring,
            deadline_s=user.request_timeout_s,
            rules=RequestRules(strict=user.strict),
            batches=batches,
            stop=lambda: self._begin_stop(stop),
        )
        batches.start()
        stack.push_async_callback(batches.close)
        if at.tls is not None:
            renewing = asyncio.create_task(at.tls.keep_fresh())
            stack.callback(renewing.cancel)
        await serve(
            app,
            at.sockets,
            stop,
            abort_requests=lambda: self._abort(stop),
            tls=None if at.tls is None else at.tls.server,
        )

    def _begin_stop(self, stop: "StopSignals") -> None:
        stop.should_exit.set()
        if self.state is ServerState.RUNNING:
            self._set(ServerState.STOPPING)

    async def _abort(self, stop: "StopSignals") -> None:
        """Cancel what the engines compute for clients; the app's own chats go on."""
        activity = self.activity
        if activity is not None:
            for model, request_id in activity.engine_requests():
                await self.pool.runtime.cancel(model, request_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await activity.until_answered()
        stop.force_exit.set()

    def _restore_pool(self, models: PoolModels, observer: PoolObserver | None) -> None:
        self.pool.models, self.pool.observer = models, observer

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        ready, self._ready = self._ready, None
        self._task = self._stop = self.address = None
        if ready is not None and not ready.done():
            if error is not None:
                ready.set_exception(error)
            else:
                ready.cancel()
        elif error is not None:
            self.problem = single_line(str(error))
        self._set(ServerState.STOPPED)

    def _set(self, state: ServerState) -> None:
        self.state = state
        self._changed()


def _import_server() -> None:
    """Import the HTTP server, which takes a moment: in a thread, so that the screen goes on."""
    import localllm.server.app
    import localllm.server.batch.service
    import localllm.server.listen  # noqa: F401


async def _open(
    stack: contextlib.AsyncExitStack, choice: ListenChoice, user: Settings, warnings: list[str]
) -> Listening:
    """Open the sockets. Raises PortTaken, Exposed, other ServeErrors, and UsageError."""
    from localllm.server.listen import find_addresses

    addresses = await asyncio.to_thread(find_addresses, user.host, user.port)
    if not all(each.loopback for each in addresses) and user.tls_cert is None:
        raise Exposed(f"{user.host} is reached from other machines, and there is no TLS.")
    try:
        return stack.enter_context(
            listening(choice, user, inform=warnings.append, warn=warnings.append)
        )
    except ServeError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            port = user.port if choice.port is None else choice.port
            raise PortTaken(f"Another program listens on port {port}.") from cause
        raise


def _address(at: Listening) -> ServerAddress:
    """Describe where it listens: by port and with a key, as the app always does."""
    if at.url is None or at.address is None or at.key is None:
        raise ServeError("The server has no address.")
    return ServerAddress(
        url=at.url, loopback=at.address.loopback, key=at.key.text, key_file=at.key.file
    )
