"""`localllm stop`: end the running server when its answers are written."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import click

from localllm.cli import options
from localllm.cli.local_server.running import instance_option, running_server
from localllm.cli.output import info, print_json
from localllm.errors import ServeError
from localllm.library.files.server_file import RunningServer, find_server, is_alive
from localllm.server.local.client import connected
from localllm.server.local.place import server_file

_LOOK_EVERY_S = 0.05


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for its end.",
)
@instance_option
@options.JSON
@options.QUIET
def command(timeout_s: float, instance: str | None, as_json: bool, quiet: bool) -> None:
    """End the running server, and wait until it is gone.

    Answers that are being written get 5 seconds to end, as at SIGTERM.
    """
    server = running_server(instance)
    stop_server(server)
    if not wait_for_end(server, server_file(instance), timeout_s):
        raise ServeError(
            f"The server (process {server.pid}) has been told to stop and still runs after "
            f"{timeout_s:g} s. Wait, or end it: {kill_command(server.pid, sys.platform)}"
        )
    if as_json:
        print_json({"stopped": True, "pid": server.pid, "url": server.url})
    elif not quiet:
        info(f"The server at {server.where} has ended.")


def stop_server(server: RunningServer) -> None:
    """Tell the server to stop: by a signal, which reaches it also while it answers nobody. Windows
    has none, and one in the app would end the app, so these by a request. Raises ServeError."""
    if server.in_app or sys.platform == "win32":
        asyncio.run(_request_stop(server))
        return
    try:
        os.kill(server.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except OSError as error:
        raise ServeError(f"Process {server.pid} cannot be stopped: {error.strerror}.") from error


async def _request_stop(server: RunningServer) -> None:
    async with connected(server) as client:
        await client.post("/admin/stop", {})


def wait_for_end(server: RunningServer, file: Path, timeout_s: float) -> bool:
    """Wait until the server is gone: its process, or in the app its `file`. False when it is not
    after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while find_server(file) == server if server.in_app else is_alive(server):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def kill_command(pid: int, platform: str) -> str:
    """Return the command that ends a process which does not listen."""
    return f"taskkill /F /PID {pid}" if platform == "win32" else f"kill -9 {pid}"
