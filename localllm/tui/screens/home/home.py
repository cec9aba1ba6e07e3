"""The first screen: this machine, the installed models, and the best ones for it.

What it shows follows its first picture, in the order in which it is known, so it imports nothing
of what computes it before.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical

from localllm.errors import LocalLLMError
from localllm.translation import N_, _
from localllm.tui.places import HOME
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.dialog import failure_dialog
from localllm.tui.screens.home.conversations import ConversationList, ConversationRows
from localllm.tui.screens.home.machine import MachinePanel
from localllm.tui.screens.home.preferences import PREFERENCE_BINDINGS, PreferenceLine
from localllm.tui.widgets.listing import ListEndPassed, StackedList
from localllm.tui.widgets.models import ModelChosen, ModelList, ModelRow, ModelRows, UnloadRequested
from localllm.tui.widgets.suggestions import SuggestionChosen, SuggestionList, SuggestionRows

if TYPE_CHECKING:
    from localllm.library.store.installed import InstalledModel
    from localllm.runtime.suggest import SuggestionPreferences
    from localllm.tui.screens.models.download import DownloadResult

_CHANGE_S = 20.0
"""For two sentences that are shown once."""

BROAD = 140
"""Columns from which there is room for more columns of the suggestions."""

READINGS_S = 5.0
"""How often memory, temperature and battery are read while they are seen; never a GPU."""


class HomeScreen(PlaceScreen):
    """This machine, its models and suggestions; enter opens a model."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *PREFERENCE_BINDINGS,
        Binding(
            "i",
            "import",
            N_("Import a file"),
            id="home.import",
            tooltip=N_("Use a GGUF file of this disk or of a stick; needs no network"),
        ),
        Binding(
            "r",
            "reread",
            N_("Refresh"),
            id="home.refresh",
            tooltip=N_("Read the library, the devices and the free memory again"),
        ),
    ]

    place = HOME

    def __init__(self) -> None:
        super().__init__()
        self._preferences: SuggestionPreferences | None = None
        self._suggesting = False
        self._stale = False
        self._added = ""

    def compose_place(self) -> ComposeResult:
        with Container(id="home"):
            yield MachinePanel()
            with Vertical(id="library"):
                yield ModelList()
                yield PreferenceLine()
                yield SuggestionList()
                yield ConversationList()

    def on_mount(self) -> None:
        self.call_after_refresh(self._begin)
        self.set_interval(READINGS_S, self._look_again)

    def _begin(self) -> None:
        self.read_machine()
        self.read_library()
        self._renew_suggestions()

    def on_resize(self, event: events.Resize) -> None:
        self.query_one("#home").set_class(event.size.width >= BROAD, "-broad")

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        if self.is_mounted:
            self.read_library()

    # --- the machine ---

    @work(exclusive=True, group="machine", exit_on_error=False)
    async def read_machine(self, *, fresh: bool = False) -> None:
        await self.services_ready()
        hardware = await self.runtime.hardware(fresh=fresh)
        readings = await asyncio.to_thread(self.services.read_machine)
        await self.query_one(MachinePanel).show(hardware, readings)
        if (change := await self.runtime.engine_change()) is not None:
            self.notify(change, title=_("Engine"), timeout=_CHANGE_S, markup=False)

    def _look_again(self) -> None:
        if self.is_current:
            self.read_again()

    @work(exclusive=True, group="readings", exit_on_error=False)
    async def read_again(self) -> None:
        """Look at what changes from minute to minute."""
        await self.services_ready()
        readings = await asyncio.to_thread(self.services.read_machine)
        self.query_one(MachinePanel).show_readings(readings)

    # --- what is installed ---

    @work(exclusive=True, group="library", exit_on_error=False)
    async def read_library(self) -> None:
        await self.services_ready()
        from localllm.tui.screens.model_status import model_status

        try:
            models = self.runtime.installed()
        except LocalLLMError as error:
            self.open(failure_dialog(_("The library cannot be read"), error))
            return
        added, self._added = self._added, ""
        await self.query_one(ModelList).show(models, at=added or None)
        for row in self.query(ModelRow):
            row.show(await model_status(self.runtime, row.model))
        await self._show_conversations()

    async def _show_conversations(self) -> None:
        with suppress(LocalLLMError):  # locked, or the disk fails: their own window says it
            summaries = await asyncio.to_thread(self.services.conversations.list)
            await self.query_one(ConversationList).show(summaries)

    @on(ConversationList.Chosen)
    def _conversation_chosen(self, event: ConversationList.Chosen) -> None:
        self.open_conversation(event.summary.id)

    @work(exclusive=True, group="conversation", exit_on_error=False)
    async def open_conversation(self, conversation_id: str) -> None:
        """Go on with a conversation, with its model."""
        try:
            conversation = await asyncio.to_thread(
                self.services.conversations.open, conversation_id
            )
            model = self.runtime.resolve(conversation.model)
        except LocalLLMError as error:
            self.open(failure_dialog(_("The conversation cannot be opened"), error))
            return
        self.frame.open_chat(model, conversation)

    @on(ModelChosen)
    def _model_chosen(self, event: ModelChosen) -> None:
        self.frame.open_chat(event.model)

    @on(UnloadRequested)
    def _unload_requested(self, event: UnloadRequested) -> None:
        self.unload(event.model)

    @work(group="unload", exit_on_error=False)
    async def unload(self, model: "InstalledModel") -> None:
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
        await self.services_ready()
        from localllm.core.sizing.placement import budget_of
        from localllm.tui.widgets.memory_bar import machine_memory

        listing = self.query_one(SuggestionList)
        hardware = await self.runtime.hardware()
        reserve = self.services.settings.reserve_bytes
        try:
            models = self.runtime.installed()
            found = await asyncio.to_thread(
                self.services.suggest, hardware, models, self._preferences
            )
        except LocalLLMError as error:
            listing.show_message(str(error))
            return
        if self._preferences is None:
            self.query_one(PreferenceLine).show_context(found.context)
        budget = budget_of(hardware, reserve_bytes=reserve)
        await listing.show(found, machine_memory(hardware, budget, reserve))
        if self.focused is None and self.is_current:
            listing.enter()

    @on(PreferenceLine.Changed)
    def _preferences_changed(self, event: PreferenceLine.Changed) -> None:
        from localllm.core.recommend import Goal
        from localllm.runtime.suggest import SuggestionPreferences

        preferences = self._preferences or SuggestionPreferences()
        self._preferences = replace(
            preferences, goal=Goal(event.goal), context=event.context, parallel=event.people
        )
        self._renew_suggestions()

    @on(SuggestionChosen)
    def _suggestion_chosen(self, event: SuggestionChosen) -> None:
        from localllm.tui.screens.models.download import DownloadScreen

        if self.is_current:  # not for a second key while the window opens
            self.open(DownloadScreen(event.plan), self._download_ended)

    def _download_ended(self, result: "DownloadResult | None") -> None:
        if result is None:
            return
        self._show_added(result.model)
        if result.wants_import:
            self.action_import()
        elif result.run and result.model is not None:
            self.post_message(ModelChosen(result.model))

    @on(ListEndPassed)
    def _list_end_passed(self, event: ListEndPassed) -> None:
        lists = (ModelRows, SuggestionRows, ConversationRows)
        stacked = [each for kind in lists for each in self.query(kind) if _has_rows(each)]
        if not isinstance(self.focused, StackedList) or self.focused not in stacked:
            return
        place = stacked.index(self.focused) + (1 if event.down else -1)
        if 0 <= place < len(stacked):
            stacked[place].index = 0 if event.down else len(stacked[place]) - 1
            stacked[place].focus()

    # --- keys ---

    def action_goal(self, goal: str = "") -> None:
        self.query_one(PreferenceLine).choose_goal(goal)

    def action_context(self, up: bool) -> None:  # of a binding
        self.query_one(PreferenceLine).change_context(up=up)

    def action_people(self, up: bool) -> None:  # of a binding
        self.query_one(PreferenceLine).change_people(up=up)

    def action_reread(self) -> None:
        self.read_machine(fresh=True)
        self.read_library()
        self._renew_suggestions()

    def action_import(self) -> None:
        from localllm.tui.screens.models.import_file import ImportScreen

        self.open(ImportScreen(), self._show_added)

    def _show_added(self, model: "InstalledModel | None") -> None:
        """Show a model that was not there before, if there is one, with the cursor on it."""
        if model is not None:
            self._added = model.name
            self.read_library()
            self._renew_suggestions()


def _has_rows(listing: StackedList) -> bool:
    return bool(listing.children) and all(each.display for each in listing.ancestors_with_self)
