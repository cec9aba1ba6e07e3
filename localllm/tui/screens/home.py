"""The first screen: what this machine has, and which installed model fits it."""

from collections.abc import Callable
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content
from textual.widgets import Footer

from localllm.core.load import LoadSettings
from localllm.errors import LocalLLMError
from localllm.library.store import InstalledModel, State
from localllm.runtime import Runtime
from localllm.tui.conversation import Conversation
from localllm.tui.messages import ModelChosen
from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.dialog import failure_dialog
from localllm.tui.screens.loading import LoadScreen
from localllm.tui.screens.work import WorkScreen
from localllm.tui.widgets.brand import Brand
from localllm.tui.widgets.machine import MachinePanel
from localllm.tui.widgets.models import ModelList, ModelRow, Standing, Verdict


class HomeScreen(WorkScreen[None]):
    """What this machine has and what fits it; enter opens a model.

    Conversations are kept by model while the program runs, in memory only.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "r",
            "reread",
            "Refresh",
            id="home.refresh",
            tooltip="Read the library and the free memory again",
        ),
    ]

    def __init__(self, runtime: Runtime, *, clock: Callable[[], float]) -> None:
        super().__init__(runtime)
        self._clock = clock
        self._opening = False
        self._conversations: dict[str, Conversation] = {}

    def compose(self) -> ComposeResult:
        yield Brand(remark=Content("everything stays on this machine"))
        with Container(id="home"):
            yield MachinePanel()
            yield ModelList()
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.read_machine()

    def on_screen_resume(self) -> None:
        self.read_library()

    @work(exclusive=True, group="machine", exit_on_error=False)
    async def read_machine(self) -> None:
        hardware = await self.runtime.hardware()
        await self.query_one(MachinePanel).show(hardware)

    @work(exclusive=True, group="library", exit_on_error=False)
    async def read_library(self) -> None:
        try:
            models = self.runtime.installed()
        except LocalLLMError as error:
            self.app.push_screen(failure_dialog("The library cannot be read", error))
            return
        await self.query_one(ModelList).show(models)
        for row in self.query(ModelRow):
            row.show(await self._standing(row.model))

    async def _standing(self, model: InstalledModel) -> Standing:
        if (problem := model.problem) is not None:
            gone = model.state is State.MISSING
            verdict = Verdict.MISSING if gone else Verdict.CHANGED
            return Standing(verdict=verdict, remark=f"{problem}.")
        try:
            fit = await self.runtime.fit(model, LoadSettings())
        except LocalLLMError as error:
            return Standing(verdict=Verdict.UNREADABLE, remark=str(error))
        if fit.fits:
            return Standing(verdict=Verdict.FITS, fit=fit)
        return Standing(verdict=Verdict.TOO_BIG, fit=fit, remark=fit.advice or "")

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
        resident = await self.app.push_screen_wait(LoadScreen(self.runtime, model, LoadSettings()))
        if resident is None:
            return
        earlier = self._conversations.get(name, Conversation())
        self._conversations[name] = await self.app.push_screen_wait(
            ChatScreen(self.runtime, resident, earlier, clock=self._clock)
        )
        await self.runtime.unload(name)

    def action_reread(self) -> None:
        self.read_library()
