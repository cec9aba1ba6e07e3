"""The one server of a user: it says where it is, and a second one is refused
(`library/files/server_file.py`)."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from localllm import __version__
from localllm.errors import ServeError
from localllm.library.files import paths
from localllm.library.files.server_file import (
    RunningServer,
    find_server,
    instance_name,
    new_run_key,
    only_server,
    own_process_start,
    published,
)

Warn = Callable[[str], None]


class RunsAlready(ServeError):
    """Another server of this user runs, or is about to start or stop (`other` None)."""

    def __init__(self, message: str, other: RunningServer | None) -> None:
        super().__init__(message)
        self.other = other


def server_file(instance: str | None) -> Path:
    """Return the file of an instance. Raises UsageError for what is no name."""
    return paths.server_file(instance_name(instance))


@contextlib.contextmanager
def one_server(instance: str | None, *, warn: Warn) -> Iterator["Place"]:
    """Be the only server of this user and this instance; what is yielded says where it is.

    Raises RunsAlready when another one runs. Where the directory cannot be written, the server is
    served all the same, and other programs do not find it; `warn` gets the sentence.
    """
    file = server_file(instance)
    place = Place(file, warn=warn)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_server(file))
        except TimeoutError as error:
            other = find_server(file)
            raise RunsAlready(_runs_already(other), other) from error
        except OSError as error:
            warn(_not_found(f"{file.parent}", error))
            place = Place(warn=warn)
        yield place


class Place:
    """Where a server says how it is reached. `file` None: nowhere."""

    def __init__(self, file: Path | None = None, *, warn: Warn = lambda _: None) -> None:
        self.file = file
        self._warn = warn
        self.key = new_run_key()

    @contextlib.contextmanager
    def published(
        self,
        *,
        url: str | None,
        socket: Path | None,
        key_file: Path | None,
        certificate: Path | None,
        log_file: Path | None,
        in_app: bool = False,
    ) -> Iterator[None]:
        """Say where the server is, while the block runs."""
        if self.file is None:
            yield
            return
        server = RunningServer(
            pid=os.getpid(),
            process_started=own_process_start(),
            started_at=time.time(),
            version=__version__,
            key=self.key,
            url=url,
            socket=_text(socket),
            key_file=_text(key_file),
            certificate=_text(certificate),
            log_file=_text(log_file),
            in_app=in_app,
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(published(self.file, server))
            except OSError as error:
                self._warn(_not_found(f"{self.file}", error))
            yield


def _text(path: Path | None) -> str | None:
    return None if path is None else str(paths.absolute(path))


def _not_found(where: str, error: OSError) -> str:
    return (
        f"{where} cannot be written ({error.strerror or error}): localllm ps, load, unload and "
        "stop will not find this server."
    )


def _runs_already(other: RunningServer | None) -> str:
    if other is None:
        return (
            "Another server of yours is starting or stopping. Wait for it, or start a second one "
            "beside it with --instance NAME."
        )
    return (
        f"A server of yours runs already, at {other.where} (process {other.pid}). It loads every "
        "installed model that a request names. `localllm stop` ends it; --instance NAME starts a "
        "second one beside it."
    )
