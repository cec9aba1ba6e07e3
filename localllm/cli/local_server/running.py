"""The one server of a user: a second start is refused with where the first one is, and other verbs
find it (`library/files/server_file.py`)."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import click

from localllm import __version__
from localllm.cli.output import warn
from localllm.errors import NotFound, ServeError
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

Result = TypeVar("Result")


def instance_option(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a verb the option that names one of several servers."""
    option = click.option(
        "--instance",
        metavar="NAME",
        help="A server beside the usual one, which was started with this name.",
    )
    return option(command)


def running_server(instance: str | None) -> RunningServer:
    """Find the server that runs. Raises NotFound when none does."""
    found = find_server(server_file(instance))
    if found is None:
        named = "" if instance is None else f" --instance {instance}"
        what = "No server of yours runs" + ("" if instance is None else f" as {instance}")
        raise NotFound(f"{what}. Start one: localllm serve --detach{named}")
    return found


def server_file(instance: str | None) -> Path:
    """Return the file of an instance. Raises UsageError for what is no name."""
    return paths.server_file(instance_name(instance))


def server_log_file(instance: str | None) -> Path:
    """Return the log of an instance without a terminal. Raises UsageError for what is no name."""
    return paths.server_log_file(instance_name(instance))


@contextlib.contextmanager
def one_server(instance: str | None) -> Iterator["Place"]:
    """Be the only server of this user and this instance; what is yielded says where it is.

    Raises ServeError when another one runs. Where the directory cannot be written, the server is
    served all the same, and other verbs do not find it.
    """
    file = server_file(instance)
    place = Place(file)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_server(file))
        except TimeoutError as error:
            raise ServeError(_runs_already(file)) from error
        except OSError as error:
            warn(
                f"{file.parent} cannot be written ({error.strerror or error}): localllm ps, "
                "load, unload and stop will not find this server."
            )
            place = Place()
        yield place


class Place:
    """Where a server says how it is reached. `file` None: nowhere."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
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
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(published(self.file, server))
            except OSError as error:
                warn(f"{self.file} cannot be written ({error.strerror or error}): localllm ps, "
                     "load, unload and stop will not find this server.")  # fmt: skip
            yield


def _text(path: Path | None) -> str | None:
    return None if path is None else str(paths.absolute(path))


def _runs_already(file: Path) -> str:
    other = find_server(file)
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
