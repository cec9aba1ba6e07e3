"""How the verbs name one of this user's servers and find it (`server/local/place.py`)."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from localllm.errors import NotFound
from localllm.library.files import paths
from localllm.library.files.server_file import RunningServer, find_server, instance_name
from localllm.server.local.place import server_file

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


def server_log_file(instance: str | None) -> Path:
    """Return the log of an instance without a terminal. Raises UsageError for what is no name."""
    return paths.server_log_file(instance_name(instance))
