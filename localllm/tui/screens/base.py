"""The base of all screens: work that fails in an unforeseen way is shown, never swallowed."""

from typing import TypeVar

from textual.screen import Screen
from textual.worker import Worker, WorkerState

from localllm.runtime.runtime import Runtime
from localllm.tui.screens.dialog import CLOSE, Dialog

Result = TypeVar("Result")


class WorkScreen(Screen[Result]):
    """A screen that holds the runtime and starts workers on it."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    def leave(self, result: Result) -> None:
        """Dismiss this screen, whatever is open over it, and only once."""
        if self in self.app.screen_stack:
            self.pop_until_active()
            self.dismiss(result)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            error = event.worker.error
            self.app.push_screen(
                Dialog(
                    title="This is a bug in localllm",
                    message=f"Unexpected {type(error).__name__}: {error}",
                    buttons=(CLOSE,),
                )
            )
