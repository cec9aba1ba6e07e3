"""A model on its way into memory."""

from dataclasses import replace
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Center, Vertical
from textual.content import Content
from textual.widgets import ProgressBar, Static

from localllm.core.units import format_bytes
from localllm.errors import DoesNotFit, EngineCrashed, LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import CHAT, LoadChoice, NotGenerative
from localllm.runtime.model_pool.pool_model import FOREVER, PoolModel
from localllm.runtime.runtime import Fit, ResidentModel
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.dialog import (
    Dialog,
    crash_dialog,
    failure_dialog,
    no_chat_dialog,
    too_big_dialog,
)
from localllm.tui.widgets.key_hints import KeyHints
from localllm.tui.widgets.labels import Brand

WATCH_S = 0.25


class LoadScreen(WorkScreen[ResidentModel | None]):
    """Load as soon as it is shown; the result is the resident model, or None when given up.

    The errors of a load are handled here: by a retry, a load in spite of the numbers, or None.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape", "cancel", N_("Cancel"), id="load.cancel", tooltip=N_("Stop loading; go back")
        )
    ]

    def __init__(self, model: InstalledModel, choice: LoadChoice = CHAT) -> None:
        super().__init__()
        self._model = model
        self._choice = choice

    def compose(self) -> ComposeResult:
        yield Brand()
        with Vertical(id="loading"):
            yield Static(literal.line(self._model.name), id="loading-name")
            yield Static(literal.line(_subject(self._model)), id="loading-subject")
            with Center():
                yield ProgressBar(total=1.0, show_eta=False, id="loading-bar")
            yield Static(Content(_("starting the engine…")), id="loading-need")
            yield Static(Content(), id="loading-plan")
        yield KeyHints()

    def on_mount(self) -> None:
        self.load_model()

    @work(exclusive=True, group="load", exit_on_error=False)
    async def load_model(self, *, force: bool = False) -> None:
        fit: Fit | None = None
        try:
            self._model = self.runtime.resolve(self._model.name)  # is the file still the one?
            plan = await self.runtime.plan(self._model, self._choice)
            names = tuple(resident.model.name for resident in self.runtime.resident())
            fit = await self.runtime.fit_in(await self.runtime.outlook(), plan, unloading=names)
            self._show_need(fit)
            resident = await self._load(force=force)
        except NotGenerative as error:
            await self._show_dialog(no_chat_dialog(self._model, error))
        except DoesNotFit as error:
            await self._show_dialog(too_big_dialog(self._model, fit, str(error)))
        except EngineCrashed as error:
            await self._show_dialog(crash_dialog(error))
        except LocalLLMError as error:
            await self._show_dialog(
                failure_dialog(_("{name} cannot be loaded").format(name=self._model.name), error)
            )
        else:
            self.leave(resident)

    async def _load(self, *, force: bool) -> ResidentModel | None:
        """Let the pool load it, which frees other models if they have to give way."""
        pool = self.services.pool
        given = PoolModel(model=self._model, choice=self._choice, keep_alive_s=FOREVER, force=force)
        pool.models.give(given)
        watching = self.set_interval(WATCH_S, self._show_progress)
        try:
            return (await pool.load(self._model.name, cancellable=True)).resident
        finally:
            watching.stop()
            if self._choice == CHAT:
                pool.models.withdraw(self._model.name)
            else:  # forced once, not for every later load
                pool.models.give(replace(given, force=False))

    def _show_progress(self) -> None:
        state = self.services.pool.load_state(self._model.name)
        if state is None:
            return
        self.query_one(ProgressBar).update(progress=state.progress or 0.0)
        self._show_subject(testing=state.testing_devices)
        self.query_one("#loading-plan", Static).update(literal.line(state.plan))

    async def _show_dialog(self, dialog: Dialog) -> None:
        match await self.ask(dialog):
            case "anyway":
                self.load_model(force=True)
            case "restart":
                self.load_model()
            case _:
                self.leave(None)

    def _show_subject(self, *, testing: bool) -> None:
        words = _("comparing the GPU with the CPU…") if testing else _subject(self._model)
        self.query_one("#loading-subject", Static).update(literal.line(words))

    def _show_need(self, fit: Fit) -> None:
        need, free = format_bytes(fit.total_bytes), format_bytes(fit.free_bytes)
        self.query_one("#loading-need", Static).update(
            Content(
                _("needs {need} · {free} free · {context} tokens of context").format(
                    need=need, free=free, context=fit.settings.context
                )
            )
        )

    def action_cancel(self) -> None:
        """Give up. The worker ends with this screen, and closes the load behind it."""
        self.leave(None)


def _subject(model: InstalledModel) -> str:
    size = format_bytes(model.size_bytes)
    return size if model.quant is None else f"{model.quant} · {size}"
