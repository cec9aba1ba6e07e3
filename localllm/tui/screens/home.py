"""The first screen: this machine, the installed models that fit it, and others that would."""

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widgets import Footer

from localllm.core.hardware import HardwareInfo
from localllm.core.recommend import FitPlan
from localllm.errors import LocalLLMError
from localllm.library.store.installed import FileState, InstalledModel
from localllm.runtime.load_policy import CHAT, NotGenerative
from localllm.runtime.runtime import Runtime
from localllm.tui.conversation import Conversation
from localllm.tui.downloads import Downloads
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.dialog import failure_dialog
from localllm.tui.screens.download import DownloadResult, DownloadScreen
from localllm.tui.screens.import_file import ImportScreen
from localllm.tui.screens.loading import LoadScreen
from localllm.tui.widgets.labels import Brand
from localllm.tui.widgets.listing import ListEndPassed
from localllm.tui.widgets.machine import MachinePanel
from localllm.tui.widgets.models import (
    ModelChosen,
    ModelList,
    ModelRow,
    ModelRows,
    ModelStatus,
    StatusKind,
)
from localllm.tui.widgets.suggestions import SuggestionChosen, SuggestionRows, Suggestions

Suggest = Callable[[HardwareInfo, tuple[InstalledModel, ...]], Sequence[FitPlan]]
"""Plan what else fits a machine that has these models. Blocks; raises LocalLLMError."""


_CHANGE_S = 20.0
"""For two sentences that are shown once."""


class HomeScreen(WorkScreen[None]):
    """This machine, its models and suggestions; enter opens a model.

    Each model's conversation stays while the program runs, in memory only.
    """

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

    def __init__(
        self,
        runtime: Runtime,
        *,
        clock: Callable[[], float],
        suggest: Suggest,
        downloads: Downloads,
    ) -> None:
        super().__init__(runtime)
        self._clock = clock
        self._downloads = downloads
        self._suggest = suggest
        self._suggesting = False
        self._stale = False
        self._added = ""
        self._opening = False
        self._conversations: dict[str, Conversation] = {}

    def compose(self) -> ComposeResult:
        yield Brand(remark=Content("everything stays on this machine"))
        with Container(id="home"):
            yield MachinePanel()
            with Vertical(id="library"):
                yield ModelList()
                yield Suggestions()
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.read_machine()
        self.call_after_refresh(self._renew_suggestions)

    def on_screen_resume(self) -> None:
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
            self.app.push_screen(failure_dialog("The library cannot be read", error))
            return
        added, self._added = self._added, ""
        await self.query_one(ModelList).show(models, at=added or None)
        for row in self.query(ModelRow):
            row.show(await self._status(row.model))

    async def _status(self, model: InstalledModel) -> ModelStatus:
        if (problem := model.problem) is not None:
            missing = model.state is FileState.MISSING
            kind = StatusKind.MISSING if missing else StatusKind.CHANGED
            return ModelStatus(kind=kind, remark=f"{problem}.")
        try:
            fit = await self.runtime.fit(await self.runtime.plan(model, CHAT))
        except NotGenerative as error:
            return ModelStatus(kind=StatusKind.NO_CHAT, remark=f"It is {error.reason}.")
        except LocalLLMError as error:
            return ModelStatus(kind=StatusKind.UNREADABLE, remark=str(error))
        if fit.fits:
            return ModelStatus(kind=StatusKind.FITS, fit=fit)
        return ModelStatus(kind=StatusKind.TOO_BIG, fit=fit, remark=fit.advice or "")

    @on(ModelChosen)
    def _model_chosen(self, event: ModelChosen) -> None:
        if not self._opening:  # enter, twice in the same moment
            self._opening = True
            self.open_model(event.model)

    @work(exclusive=True, group="open", exit_on_error=False)
    async def open_model(self, model: InstalledModel) -> None:
        """Load a model, chat with it, and free it on the way back."""
        try:
            await self._open(model)
        finally:
            self._opening = False
        self.read_library()

    async def _open(self, model: InstalledModel) -> None:
        name = model.name
        resident = await self.app.push_screen_wait(LoadScreen(self.runtime, model))
        if resident is None:
            return
        earlier = self._conversations.get(name, Conversation())
        self._conversations[name] = await self.app.push_screen_wait(
            ChatScreen(self.runtime, resident, earlier, clock=self._clock)
        )
        await self.runtime.unload(name)

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
            plans = await asyncio.to_thread(self._suggest, hardware, models)
        except LocalLLMError as error:
            suggestions.show_message(str(error))
            return
        await suggestions.show(plans)
        if self.focused is None and self.is_current:
            suggestions.enter()

    @on(SuggestionChosen)
    def _suggestion_chosen(self, event: SuggestionChosen) -> None:
        if self.is_current:  # not for a second key while the window opens
            screen = DownloadScreen(self.runtime, self._downloads, event.plan)
            self.app.push_screen(screen, self._download_ended)

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
        self.app.push_screen(ImportScreen(self.runtime), self._show_added)

    def _show_added(self, model: InstalledModel | None) -> None:
        """Show a model that was not there before, if there is one, with the cursor on it."""
        if model is not None:
            self._added = model.name
            self.read_library()
            self._renew_suggestions()
