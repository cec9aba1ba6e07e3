"""`localllm load` and `unload`: which models are in the memory of the running server."""

import asyncio

import click
from rich.progress import BarColumn, Progress, TextColumn

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.local_server.running import instance_option, running_server
from localllm.cli.output import info, print_json, stderr
from localllm.core.text import single_line
from localllm.core.units import format_bytes, parse_keep_alive
from localllm.library.files.server_file import RunningServer
from localllm.server.local.client import ModelStatus, ServerClient, connected

_LOOK_EVERY_S = 0.25


@click.command()
@click.argument("model", shell_complete=model_names)
@click.option(
    "--keep-alive",
    metavar="TIME",
    callback=lambda _c, _p, value: None if value is None else parse_keep_alive(value),
    help="How long it stays in memory after its last request: 10m, 300 (seconds), 0, or -1 for "
    "ever (default: as the server has it).",
)
@click.option("--pin/--no-pin", default=None, help="Never unload it for another model, or again.")
@instance_option
@options.JSON
@options.QUIET
def command(
    model: str,
    keep_alive: float | None,
    pin: bool | None,
    instance: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Bring MODEL into the memory of the running server; what is idle may have to give way.

    Exit status 3 when it does not fit. Ctrl+C gives up waiting; a load that has begun goes on.
    """
    body: dict[str, object] = {"model": model, "pin": pin}
    if keep_alive is not None:
        body["keep_alive"] = -1 if keep_alive == float("inf") else keep_alive
    loaded = asyncio.run(_load(running_server(instance), body, quiet=quiet))
    if as_json:
        print_json(loaded.document)
    elif not quiet:
        size = loaded.estimated_bytes
        taken = "" if size is None else f" ({format_bytes(size)})"
        context = "" if loaded.context is None else f", {loaded.context} tokens of context"
        info(f"{single_line(loaded.name)} is in memory{taken}{context}.")
        if loaded.plan is not None:
            info(f"  {single_line(loaded.plan)}", wrap=True)


async def _load(server: RunningServer, body: dict[str, object], *, quiet: bool) -> ModelStatus:
    async with connected(server) as client:
        watching = asyncio.create_task(_watch(client, str(body["model"]), quiet=quiet))
        try:
            return ModelStatus.parse(await client.post("/admin/load", body, limit_s=None))
        finally:
            watching.cancel()
            await asyncio.wait((watching,))


async def _watch(client: ServerClient, asked: str, *, quiet: bool) -> None:
    """Show how far the load is, on a terminal."""
    console = stderr()
    if quiet or not console.is_terminal:
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(f"Loading {single_line(asked)}", total=1.0)
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for model in await client.models():
                if model.progress is not None:
                    name = single_line(model.name)
                    bar.update(task, completed=model.progress, description=f"Loading {name}")


@click.command(name="unload")
@click.argument("model", shell_complete=model_names)
@instance_option
@options.JSON
@options.QUIET
def unload_command(model: str, instance: str | None, as_json: bool, quiet: bool) -> None:
    """Free the memory of MODEL in the running server, when its requests are done.

    The next request for it loads it again.
    """
    done = asyncio.run(_unload(running_server(instance), model))
    if as_json:
        print_json(done)
    elif not quiet:
        name = single_line(str(done["model"]))
        info(f"{name} is unloaded." if done["unloaded"] else f"{name} was not in memory.")


async def _unload(server: RunningServer, model: str) -> dict[str, object]:
    async with connected(server) as client:
        return await client.post("/admin/unload", {"model": model}, limit_s=None)
