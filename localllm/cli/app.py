"""`localllm` alone: the terminal app."""

import sys

from localllm.errors import UsageError


def run_app() -> None:
    """Open the terminal app. Raises UsageError where there is no terminal to draw on."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "The terminal app needs a terminal, and this is none. Use a verb instead, such as"
            " `localllm run starter PROMPT` or `localllm hardware --json`; `localllm --help`"
            " lists them."
        )
    # Only here: `localllm --version` and every verb start without Textual.
    from localllm.runtime.runtime import Runtime
    from localllm.tui.app import LocalLLMApp

    LocalLLMApp(Runtime.of_this_machine()).run()
