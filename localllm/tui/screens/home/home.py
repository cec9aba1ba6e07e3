"""The first screen: this machine, the installed models that fit it, and others that would."""

import asyncio
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical

from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.translation import _
from localllm.tui.places import HOME
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.dialog import failure_dialog
from localllm.tui.screens.model_status import model_status
from localllm.tui.screens.models.download import DownloadResult, DownloadScreen
from localllm.tui.screens.models.import_file import ImportScreen
from localllm.tui.widgets.listing import ListEndPassed
from localllm.tui.widgets.machine import MachinePanel
from localllm.tui.widgets.models import ModelChosen, ModelList, ModelRow, ModelRows, UnloadWanted
from localllm.tui.widgets.suggestions import SuggestionChosen, SuggestionRows, Suggestions

_CHANGE_S = 20.0
"""For two sentences that are shown once."""


class HomeScreen(PlaceScreen):
    """This machine, its models and suggestions; enter opens a model."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "r",
            "reread",
            "Refresh",
            id="home.refresh",
            tooltip="Read the library and the free memory again",
        ),
        Binding(
            "i",
            "import",
            "Import a GGUF file",
            id="home.import",
            tooltip="Make a file of this disk part of the library",
        ),
    ]

    place = HOME

    def __init__(self) -> None:
        super().__init__()
        self._suggesting = False
        self._stale = False
        self._added = ""

    def compose_place(self) -> ComposeResult:
        with Container(id="home"):
            yield MachinePanel()
            with Vertical(id="library"):
                yield ModelList()
                yield Suggestions()

    def on_mount(self) -> None:
        self.read_machine()
        self.call_after_refresh(self._renew_suggestions)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.read_library()

    @work(exclusive=True, group="machine", exit_on_error=False)
    async def read_machine(self, *, fresh: bool = False) -> None:
        hardware = await self.runtime.hardware(fresh=fresh)
        await self.query_one(MachinePanel).show(hardware)
        if (change := await self.runtime.engine_change()) is not None:
            self.notify(change, title="Engine", timeout=_CHANGE_S, markup=False)

    @work(exclusive=True, group="library", exit_on_error=False)
    async def read_library(self) -> None:
        try:
            models = self.runtime.installed()
        except LocalLLMError as error:
            self.open(failure_dialog("The library cannot be read", error))
            return
        added, self._added = self._added, ""
        await self.query_one(ModelList).show(models, at=added or None)
        for row in self.query(ModelRow):
            row.show(await model_status(self.runtime, row.model))

    @on(ModelChosen)
    def _model_chosen(self, event: ModelChosen) -> None:
        self.frame.open_chat(event.model)

    @on(UnloadWanted)
    def _unload_wanted(self, event: UnloadWanted) -> None:
        self.unload(event.model)

    @work(group="unload", exit_on_error=False)
    async def unload(self, model: InstalledModel) -> None:
        """Free a model's memory when it has answered what it was asked."""
        if await self.services.pool.unload(model.name):
            self.show_status(_("{model} is unloaded.").format(model=model.name))
        self.read_library()

    # --- what else would fit ---

    def _renew_suggestions(self) -> None:
        """Compute the suggestions again. A computation in a thread cannot be stopped: it is left to
        end, and is followed by one more."""
        self._stale = True
        if not self._suggesting:
            self._suggesting = True
            self.read_suggestions()

    @work(exclusive=True, group="suggestions", exit_on_error=False)
    async def read_suggestions(self) -> None:
        try:
            while self._stale:
                self._stale = False
                await self._show_suggestions()
        finally:
            self._suggesting = False

    async def _show_suggestions(self) -> None:
        suggestions = self.query_one(Suggestions)
        hardware = await self.runtime.hardware()
        try:
            models = self.runtime.installed()
            plans = await asyncio.to_thread(self.services.suggest, hardware, models)
        except LocalLLMError as error:
            suggestions.show_message(str(error))
            return
        await suggestions.show(plans)
        if self.focused is None and self.is_current:
            suggestions.enter()

    @on(SuggestionChosen)
    def _suggestion_chosen(self, event: SuggestionChosen) -> None:
        if self.is_current:  # not for a second key while the window opens
            self.open(DownloadScreen(event.plan), self._download_ended)

    def _download_ended(self, result: DownloadResult | None) -> None:
        if result is None:
            return
        self._show_added(result.model)
        if result.wants_import:
            self.action_import()
        elif result.run and result.model is not None:
            self.post_message(ModelChosen(result.model))

    @on(ListEndPassed)
    def _list_end_passed(self, event: ListEndPassed) -> None:
        if event.down and self.focused is self.query_one(ModelRows):
            self.query_one(Suggestions).enter()
        elif not event.down and self.focused is self.query_one(SuggestionRows):
            self.query_one(ModelList).enter()

    # --- keys ---

    def action_reread(self) -> None:
        self.read_machine(fresh=True)
        self.read_library()
        self._renew_suggestions()

    def action_import(self) -> None:
        self.open(ImportScreen(), self._show_added)

    def _show_added(self, model: InstalledModel | None) -> None:
        """Show a model that was not there before, if there is one, with the cursor on it."""
        if model is not None:
            self._added = model.name
            self.read_library()
            self._renew_suggestions()
