"""`localllm launch`: start a coding agent or another client against the local server."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.local_server.agents import (
    AGENTS,
    ANY_PROGRAM,
    Agent,
    Launch,
    Target,
    make_command_launch,
    make_launch,
    masked,
    shell_lines,
)
from localllm.cli.local_server.detached import child_command
from localllm.cli.local_server.process import find_program, run_launch
from localllm.cli.local_server.running import instance_option, running_server
from localllm.cli.output import info, print_json, print_line, warn, write_stderr
from localllm.core.text import single_line
from localllm.errors import ExitCode, LocalLLMError, NotFound, UsageError
from localllm.library.files.server_file import RunningServer
from localllm.policy.active import active_policy, require
from localllm.server.local.client import ModelStatus, connected


class StartFailed(LocalLLMError):
    """The server that was started has ended; it has said why."""

    def __init__(self, status: int) -> None:
        super().__init__("The server could not be started.")
        self.exit_code = ExitCode(status) if status in tuple(ExitCode) else ExitCode.FAILED


@click.command()
@click.argument("agent", metavar="AGENT")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS]...")
@click.option(
    "--model",
    "wanted",
    metavar="MODEL",
    shell_complete=model_names,
    help="The model to use (default: the one in memory, or the only one that is installed).",
)
@click.option(
    "--ctx",
    "context",
    type=click.IntRange(min=16),
    metavar="N",
    help="Context of each answer, when the server has to be started.",
)
@click.option(
    "--print", "print_only", is_flag=True, help="Start nothing but the server; show the variables."
)
@click.option("--show-key", is_flag=True, help="With --print: the key, too.")
@instance_option
@options.JSON
def command(
    agent: str,
    arguments: tuple[str, ...],
    wanted: str | None,
    context: int | None,
    print_only: bool,
    show_key: bool,
    instance: str | None,
    as_json: bool,
) -> int:
    """Start AGENT (claude, codex, opencode, aider, goose, qwen, continue, llm, open-webui, zed), or
    with `env -- COMMAND` any program, against the local server.

    Variables are set for that one process, and files that it needs are gone when it has ended: no
    configuration is changed. A server is started if none runs, and goes on afterwards.
    """
    chosen = choose_agent(agent)
    require(active_policy().allows_launch(agent))
    shows = print_only or as_json or (chosen is None and not arguments)
    path = ""
    if not shows:
        program = arguments[0] if chosen is None else chosen.program
        path = find_program(program, None if chosen is None else chosen.install)
    server = find_or_start(instance, wanted, context)
    model = asyncio.run(_model(server, wanted))
    target = target_of(server, model)
    if chosen is None:
        launch = make_command_launch(target, arguments)
    else:
        launch = make_launch(chosen, target, arguments)
        _say_limits(chosen, model)
    if shows:
        show(agent, launch if show_key else masked(launch, target.key), as_json=as_json)
        return ExitCode.OK
    return run_launch(path, launch)


def choose_agent(name: str) -> Agent | None:
    """Find an agent's row; None for ANY_PROGRAM. Raises NotFound, with those that there are."""
    if name == ANY_PROGRAM:
        return None
    if name not in AGENTS:
        raise NotFound(
            f"{single_line(name)[:40]!r} is not in the list: {', '.join(AGENTS)}. For any other "
            "program: localllm launch env -- COMMAND"
        )
    return AGENTS[name]


def find_or_start(instance: str | None, model: str | None, context: int | None) -> RunningServer:
    """Find the running server, or start one without a terminal. Raises StartFailed."""
    try:
        return running_server(instance)
    except NotFound:
        pass
    info("No server runs: starting one.")
    words = ["serve", *([model] if model else []), "--detach", "--quiet", "--json"]
    words += ["--ctx", str(context)] if context else []
    words += ["--instance", instance] if instance else []
    # Its parent ends before the agent begins, so no agent has a child that it does not know.
    done = subprocess.run(
        child_command(words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    write_stderr(done.stderr.decode("utf-8", "replace"))
    if done.returncode:
        raise StartFailed(done.returncode)
    server = running_server(instance)
    named = f" --instance {instance}" if instance else ""
    info(f"It goes on when the program has ended; `localllm stop{named}` ends it.")
    return server


async def _model(server: RunningServer, wanted: str | None) -> ModelStatus:
    async with connected(server) as client:
        return choose_model(await client.models(), wanted)


def choose_model(models: Sequence[ModelStatus], wanted: str | None) -> ModelStatus:
    """Choose the model of an agent. Raises NotFound, UsageError when a choice is to be made."""
    names = ", ".join(single_line(each.name) for each in models)
    if wanted is not None:
        for each in models:
            if wanted.lower() in (each.name.lower(), *(alias.lower() for alias in each.aliases)):
                return each
        raise NotFound(
            f"The server has no {single_line(wanted)[:80]!r}. It has: {names or 'none'}."
        )
    if not models:
        raise NotFound("No model is installed. Try: localllm suggest")
    loaded = [each for each in models if each.state != "unloaded"]
    if len(models) == 1 or len(loaded) == 1:
        return (loaded or list(models))[0]
    raise UsageError(f"Which model? The server has: {names}. Try --model NAME.")


def target_of(server: RunningServer, model: ModelStatus) -> Target:
    """Say where an agent finds the server. The key is the owner's, which outlives a restart, where
    it is in a file; else that of this run. Raises UsageError."""
    if server.url is None:
        raise UsageError(
            "The server listens on a Unix socket only, which these programs do not know. Start it "
            "with --port as well."
        )
    key = server.key
    if server.key_file is not None:
        from localllm.server.key import from_file

        key = from_file(Path(server.key_file)).text
    return Target(origin=server.url, key=key, model=model.name, certificate=server.certificate)


def show(agent: str, launch: Launch, *, as_json: bool) -> None:
    """Print what would be set and started."""
    if as_json:
        print_json(
            {
                "agent": agent,
                "command": list(launch.command),
                "environment": dict(launch.environment),
                "files": dict(launch.files),
            }
        )
        return
    for line in shell_lines(launch.environment, sys.platform):
        print_line(line, wrap=False)
    if launch.files:
        info(
            f"{agent} needs files too ({', '.join(launch.files)}), which exist only while "
            "`localllm launch` runs it; --json shows them."
        )


def _say_limits(agent: Agent, model: ModelStatus) -> None:
    if agent.note is not None:
        info(agent.note)
    if agent.context is not None and model.context is not None and model.context < agent.context:
        warn(
            f"{single_line(model.name)} is loaded with {model.context} tokens of context; "
            f"{agent.program} needs about {agent.context} for its own prompt and a task. Start the "
            f"server so: localllm stop, localllm serve NAME --ctx {agent.context} --detach"
        )
