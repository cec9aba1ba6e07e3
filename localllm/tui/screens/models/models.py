"""The place of the models: every installed one, and what it needs here."""

from textual import on, work
from textual.app import ComposeResult
from textual.containers import VerticalScroll

from localllm.errors import LocalLLMError
from localllm.tui.places import MODELS
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.dialog import failure_dialog
from localllm.tui.screens.model_status import model_status
from localllm.tui.widgets.models import ModelChosen, ModelList, ModelRow


class ModelsScreen(PlaceScreen):
    """The installed models; enter opens one."""

    place = MODELS

    def compose_place(self) -> ComposeResult:
        with VerticalScroll(id="installed", can_focus=False):
            yield ModelList()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.read_library()

    @work(exclusive=True, group="library", exit_on_error=False)
    async def read_library(self) -> None:
        """Show what is installed now."""
        try:
            models = self.runtime.installed()
        except LocalLLMError as error:
            self.open(failure_dialog("The library cannot be read", error))
            return
        await self.query_one(ModelList).show(models)
        for row in self.query(ModelRow):
            row.show(await model_status(self.runtime, row.model))

    @on(ModelChosen)
    def _model_chosen(self, event: ModelChosen) -> None:
        self.frame.open_chat(event.model)
