"""The command line: its verbs, and the way from an error to a message and an exit status.

One file per verb; a verb's module is imported only when it runs, so `localllm --version` loads
none of the engine, the server or the terminal app.
"""

import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click
from click.shell_completion import CompletionItem

from localllm import __version__
from localllm.errors import ExitCode, LocalLLMError, UsageError
from localllm.policy.active import active_policy

if TYPE_CHECKING:
    from localllm.tui.frame_state import FrameState
    from localllm.tui.services import AppServices

VERBS: dict[str, tuple[str, str]] = {
    "hardware": (
        "localllm.cli.commands.hardware",
        "What this machine has and what the engine can use.",
    ),
    "suggest": ("localllm.cli.commands.suggest", "Models and quants that fit here, ranked."),
    "size": ("localllm.cli.commands.size", "The memory one model needs."),
    "search": ("localllm.cli.commands.search", "Find GGUF repositories on the Hub."),
    "pull": ("localllm.cli.commands.pull", "Download a model from the Hub."),
    "import": ("localllm.cli.commands.import_", "Adopt a GGUF file that is on this disk."),
    "ls": ("localllm.cli.commands.ls", "Installed models."),
    "show": ("localllm.cli.commands.show", "Everything known of one model."),
    "verify": ("localllm.cli.commands.verify", "Prove that models are what was recorded of them."),
    "rm": ("localllm.cli.commands.rm", "Remove a model from the library."),
    "run": ("localllm.cli.commands.run", "One answer, or a conversation on a terminal."),
    "serve": ("localllm.cli.commands.server.serve", "The local API."),
    "batch": (
        "localllm.cli.commands.server.batch",
        "Run the requests of a file, and go on after a stop.",
    ),
    "ps": ("localllm.cli.commands.server.ps", "The running server and the models in its memory."),
    "load": (
        "localllm.cli.commands.server.load",
        "Bring a model into the memory of the running server.",
    ),
    "unload": (
        "localllm.cli.commands.server.load:unload_command",
        "Free a model's memory in the running server.",
    ),
    "stop": ("localllm.cli.commands.server.stop", "End the running server."),
    "launch": (
        "localllm.cli.commands.server.launch",
        "Start a coding agent against the local server.",
    ),
    "key": ("localllm.cli.commands.server.key", "Keys of the local API: create, list, revoke."),
    "bench": (
        "localllm.cli.commands.bench",
        "Prompt and decode rates, stored to correct the estimates.",
    ),
    "doctor": ("localllm.cli.commands.setup.doctor", "Check this installation, to a real answer."),
    "engine": (
        "localllm.cli.commands.setup.engine",
        "Builds of llama.cpp, and whether each can be the engine.",
    ),
    "config": ("localllm.cli.commands.setup.config", "The settings that hold, and where from."),
    "policy": (
        "localllm.cli.commands.setup.policy",
        "What the administrator of this machine has decided.",
    ),
    "completions": (
        "localllm.cli.commands.setup.completions",
        "The script that completes words in a shell.",
    ),
}
"""Verb -> (module that holds `command`, or module:name; one line for --help)."""

_GARBAGE_THRESHOLD = 50_000
"""New objects between two looks for garbage; Python's default is 700."""

EXIT_CODES_HELP = (
    "\b\nExit status: 0 ok, 1 failed, 2 usage or configuration, 3 does not fit,"
    "\n4 engine crashed, 5 not found or not installed, 6 refused by the policy, 130 interrupted."
)


class LazyGroup(click.Group):
    """A click group that imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        # What a module makes stays: looking for garbage among it takes a tenth of `suggest`. And
        # what a verb makes is mostly needed until its end.
        gc.disable()
        try:
            module, _, name = VERBS[cmd_name][0].partition(":")
            command = getattr(importlib.import_module(module), name or "command")
        finally:
            gc.freeze()
            gc.set_threshold(_GARBAGE_THRESHOLD)
            gc.enable()
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        # click's own would import every verb for its help.
        verbs = [
            CompletionItem(name, help=line)
            for name, (_, line) in VERBS.items()
            if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    epilog=EXIT_CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="localllm")
@click.option(
    "--accessible/--no-accessible",
    default=None,
    help="Plain lines for a screen reader: no colours, bars or repainting.",
)
@click.pass_context
def cli(ctx: click.Context, accessible: bool | None) -> int | None:
    """Run a language model on this machine. Without a command: the terminal app."""
    if accessible is not None:
        os.environ["ACCESSIBLE"] = "1" if accessible else "0"
    if ctx.invoked_subcommand != "policy":  # which has to look at one that cannot be used
        active_policy()
    if ctx.invoked_subcommand is None:
        return run_app()
    return None


def _print_failure(error: BaseException) -> None:
    """Say where the app ended, and never with which values: they can be what somebody typed."""
    from localllm.tui.failure import failure_of, lines_of

    hint = "Run again with LOCALLLM_TRACEBACK=1 for the lines of the program that led there."
    if os.environ.get("LOCALLLM_TRACEBACK"):
        hint = lines_of(error)
    _print_error(f"the app ended because of a bug: {failure_of(error)}\n{hint}")


def run_app() -> ExitCode:
    """Open the terminal app, or the accessible one. Raises UsageError where there is no terminal
    to draw on."""
    from localllm.cli.accessibility import accessible_because, accessible_setting
    from localllm.library.files.paths import saved_text
    from localllm.translation import set_language

    set_language(saved_text("language"))
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    because = accessible_because(setting=accessible_setting(), looks=terminal)
    if because is not None:
        from localllm.cli.accessible.app import run_accessible

        run_accessible(because)
        return ExitCode.OK
    if not terminal:
        raise UsageError(
            "The terminal app needs a terminal, and this is none. Use a verb instead, such as"
            " `localllm run starter PROMPT` or `localllm hardware --json`; `localllm --help`"
            " lists them. `localllm --accessible` needs no terminal."
        )
    # Only here: `localllm --version` and every verb start without Textual.
    from localllm.tui.app import LocalLLMApp
    from localllm.tui.terminal_background import is_light_background

    # A shell may have exported the size that its terminal had: Python believes it before the
    # terminal, and the app would not follow when that is resized.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    app = LocalLLMApp(_make_services, is_light=is_light_background())
    app.run()
    if app.refusal is not None:
        raise app.refusal
    if app.failure is not None:
        _print_failure(app.failure)
        return ExitCode.FAILED
    return ExitCode(app.return_code or 0)


def _make_services(frame: "FrameState") -> "AppServices":
    from localllm.tui.services import AppServices  # not before the app's first picture

    return AppServices.of_this_machine(frame)


def main() -> NoReturn:
    """Run the command line; the only place where an exception becomes an exit status."""
    try:
        if instruction := os.environ.get("_LOCALLLM_COMPLETE"):
            from localllm.cli.completion import complete  # nothing else needs it

            sys.exit(complete(cli, instruction))
        # Not cli.main(): it turns a broken pipe into exit status 1.
        with cli.make_context("localllm", sys.argv[1:]) as context:
            status = cli.invoke(context)
        code = status if isinstance(status, int) else ExitCode.OK
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.exceptions.Abort:
        code = ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = ExitCode.USAGE
    except LocalLLMError as error:
        _print_error(str(error))
        code = error.exit_code
    except BrokenPipeError:
        # The reader went away (`localllm ls | head -1`): not an error, and no second message
        # when Python flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    except Exception as error:
        if os.environ.get("LOCALLLM_TRACEBACK"):
            raise
        _print_error(
            f"unexpected {type(error).__name__}: {error}\n"
            "This is a bug in localllm. Run again with LOCALLLM_TRACEBACK=1 for the traceback."
        )
        code = ExitCode.FAILED
    sys.exit(int(code))


def _print_error(message: str) -> None:
    from localllm.cli import output  # `localllm --version` prints nothing with it

    output.error(message)
