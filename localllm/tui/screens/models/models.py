"""The place of the models: what can be done with those of the list."""

import asyncio
from dataclasses import replace
from typing import ClassVar

from textual import on, work
from textual.binding import Binding, BindingType

from localllm.core.recommend import Preferences
from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.translation import N_, _
from localllm.tui.downloads.source import request_of
from localllm.tui.screens.dialog import failure_dialog
from localllm.tui.screens.models import library_actions
from localllm.tui.screens.models.dialogs.comparison import MAX_COMPARED, ComparisonScreen
from localllm.tui.screens.models.dialogs.scan import ScanScreen
from localllm.tui.screens.models.dialogs.transfers import TransfersScreen
from localllm.tui.screens.models.download import DownloadOffer, DownloadResult, DownloadScreen
from localllm.tui.screens.models.filtering import (
    SourceFilter,
)
from localllm.tui.screens.models.groups import Ability, ModelGroup, QuantRow, Source
from localllm.tui.screens.models.import_file import ImportScreen
from localllm.tui.screens.models.list_screen import ModelListScreen
from localllm.tui.screens.models.table import (
    LineChosen,
    ModelTable,
)

_SIDE_COLUMNS = 140
"""From this width on the details stand beside the list."""
_LOW_ROWS = 20
"""Below this height there is no room for details under the list."""
_SETTLE_S = 0.5
"""The order of suggestions takes a second to work out: not for each step of a key that is held."""
_SAME_MEMORY = 128 * 2**20
"""Free memory comes and goes by this much from one moment to the next."""


class ModelsScreen(ModelListScreen):
    """Every model there is; enter opens an installed one or offers the download of another."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "exact", N_("Exact"), id="models.exact",
                tooltip=N_("Let llama.cpp itself work out what an installed model takes")),
        Binding("h", "search_hub", N_("Hub"), id="models.hub",
                tooltip=N_("Ask the Hub for the words above; the line below says what is sent")),
        Binding("t", "transfers", N_("Transfers"), id="models.transfers",
                tooltip=N_("The downloads: pause, resume, cancel, their order")),
        Binding("space", "mark", N_("Mark"), show=False, id="models.mark",
                tooltip=N_("Mark a file to compare it with others")),
        Binding("c", "compare", N_("Compare"), show=False, id="models.compare",
                tooltip=N_("Show the marked files side by side")),
        Binding("i", "import", N_("Import"), show=False, id="models.import",
                tooltip=N_("Make a file of this disk or of a stick part of the library")),
        Binding("s", "scan", N_("Scan"), show=False, id="models.scan",
                tooltip=N_("Use the models of Ollama, LM Studio, llama.cpp and Hugging Face")),
        Binding("v", "verify", N_("Verify"), show=False, id="models.verify",
                tooltip=N_("Hash an installed model and compare it with what was recorded")),
        Binding("backspace,delete", "remove", N_("Remove"), show=False, id="models.remove",
                tooltip=N_("Take a model out of the library; says what it frees and asks")),
        Binding("l", "load", N_("Load"), show=False, id="models.load",
                tooltip=N_("Bring an installed model into memory")),
        Binding("u", "unload", N_("Unload"), show=False, id="models.unload",
                tooltip=N_("Free the memory of a loaded model")),
    ]  # fmt: skip

    # --- opening ---

    @on(LineChosen)
    def _line_chosen(self, event: LineChosen) -> None:
        group, row = event.line.group, event.line.row
        if row is None:
            if group.source is Source.HUB:
                self.read_repository(group)
        elif row.installed is not None:
            self._open_installed(group, row)
        elif row.candidate is not None and self.is_current:
            self.open(DownloadScreen(self._offer(group, row)), self._download_left)

    def _open_installed(self, group: ModelGroup, row: QuantRow) -> None:
        assert row.installed is not None
        if row.problem is not None:
            self.show_status(row.problem)
        elif (
            group.abilities
            and Ability.CHATS not in group.abilities
            and (group.abilities & {Ability.EMBEDS, Ability.RANKS})
        ):
            self.show_status(
                _("{name} turns text into numbers and does not chat; the API serves it.").format(
                    name=row.installed.name
                )
            )
        else:
            self.frame.open_chat(row.installed)

    def _offer(self, group: ModelGroup, row: QuantRow) -> DownloadOffer:
        assert row.candidate is not None
        size = self._known.sizes.get(row.key)
        plan = self._sizing.plan(row, self._question) if self._sizing is not None else None
        embeds = {Ability.EMBEDS, Ability.RANKS} & group.abilities
        return DownloadOffer(
            title=f"{group.name} {row.quant}",
            request=request_of(row.candidate),
            architecture=group.architecture,
            need_bytes=size.total_bytes if size is not None else None,
            context=size.context if size is not None else None,
            decode=plan.decode if plan is not None and not embeds else None,
            reasons=plan.reasons if plan is not None else (),
            generates=not embeds,
        )

    def _download_left(self, result: DownloadResult | None) -> None:
        if result is None:
            return
        if result.wants_import:
            self.action_import()
        elif result.run and result.model is not None:
            self.frame.open_chat(result.model)
        elif result.background is not None:
            self.show_status(_("It goes on in the background: t shows the transfers."))
        self.read_models()

    # --- the Hub ---

    def action_search_hub(self) -> None:
        words = self._filter.text.strip()
        if not words:
            self.show_status(_("Write what to look for first, then press h."))
            self.action_find()
        elif self._access is not None and self._access.refusal is None:
            self.search_hub(words)
        else:
            self.reread_access()

    @work(exclusive=True, group="hub", exit_on_error=False)
    async def reread_access(self) -> None:
        """Look again whether the network is switched off."""
        self._access = await asyncio.to_thread(self.services.downloads.source.access)
        self._draw_hub_line()

    @work(exclusive=True, group="hub", exit_on_error=False)
    async def search_hub(self, words: str) -> None:
        """Send the words to the Hub, as the line below the list says, and list what it answers."""
        assert self._access is not None
        source = self.services.downloads.source
        with self._hub.asking(self._draw_hub_line):
            problem = await self._hub.search(source, words)
        if problem is not None:
            self.show_status(problem)
        first = next(iter(self._hub.groups), None)
        self._go_to = first.key if first is not None else ""
        if self._filter.source not in (SourceFilter.ALL, SourceFilter.HUB):
            self._filter = replace(self._filter, source=SourceFilter.ALL)
        self._show_list()

    # --- what can be done with an installed model ---

    @property
    def _installed_row(self) -> QuantRow | None:
        """The installed file under the cursor; else the status line says that it is none."""
        line = self.query_one(ModelTable).line
        if line is not None and line.row is not None and line.row.installed is not None:
            return line.row
        self.show_status(_("This works with a model that is installed."))
        return None

    def action_exact(self) -> None:
        if (row := self._installed_row) is not None:
            self.ask_engine(row, self._question)

    @work(exclusive=True, group="exact", exit_on_error=False)
    async def ask_engine(self, row: QuantRow, question: Preferences) -> None:
        """Let llama.cpp itself size a load, without loading it."""
        assert row.installed is not None
        self.show_status(_("Asking llama.cpp about {name}…").format(name=row.installed.name))
        try:
            fit = await library_actions.dry_run(self.runtime, row.installed, question)
        except LocalLLMError as error:
            self.open(failure_dialog(_("llama.cpp does not say"), error))
            return
        self._exact[row.key, question] = fit
        self._draw_details()
        self.show_status(library_actions.dry_run_text(row.installed.name, fit))

    def action_verify(self) -> None:
        if (row := self._installed_row) is not None and row.installed is not None:
            self.verify(row.installed)

    @work(group="verify", exit_on_error=False)
    async def verify(self, model: InstalledModel) -> None:
        """Hash a model in the background; the status line follows."""
        frame = self.services.frame
        try:
            verification = await library_actions.verify_model(self.runtime, model, frame)
        finally:
            frame.set_activity(f"verify {model.name}", "")
        text = f"{model.name}: {verification.detail}"
        if verification.ok is False:
            self.open(library_actions.damaged_dialog(verification))
        self.show_status(text)
        self.read_models(fresh=True)

    def action_remove(self) -> None:
        if (row := self._installed_row) is not None and row.installed is not None:
            self.remove_model(row.installed)

    @work(exclusive=True, group="remove", exit_on_error=False)
    async def remove_model(self, model: InstalledModel) -> None:
        """Ask, and take a model out of the library."""
        if await self.ask(library_actions.remove_dialog(model)) != "remove":
            return
        try:
            await self.services.pool.unload(model.name)
            removal = await asyncio.to_thread(self.runtime.store.remove, model.name)
        except LocalLLMError as error:
            self.open(failure_dialog(_("It cannot be removed"), error))
            return
        self.show_status(library_actions.removal_text(removal))
        self.read_models(fresh=True)

    def action_load(self) -> None:
        if (row := self._installed_row) is not None and row.installed is not None:
            self.load(row.installed)

    @work(group="load", exit_on_error=False)
    async def load(self, model: InstalledModel) -> None:
        """Bring a model into memory, where it stays until another needs the room."""
        self.show_status(_("Loading {name}…").format(name=model.name))
        try:
            await self.services.pool.load(model.name)
        except LocalLLMError as error:
            self.open(failure_dialog(_("It was not loaded"), error))
            return
        self.show_status(_("{name} is loaded.").format(name=model.name))
        self.read_models()

    def action_unload(self) -> None:
        if (row := self._installed_row) is not None and row.installed is not None:
            self.unload(row.installed)

    @work(group="unload", exit_on_error=False)
    async def unload(self, model: InstalledModel) -> None:
        """Free a model's memory when it has answered what it was asked."""
        if await self.services.pool.unload(model.name):
            self.show_status(_("{name} is unloaded.").format(name=model.name))
        else:
            self.show_status(_("{name} is not in memory.").format(name=model.name))
        self.read_models()

    # --- windows ---

    def action_mark(self) -> None:
        line = self.query_one(ModelTable).line
        if line is None or line.row is None or line.row.candidate is None:
            return
        if line.row.key in self._marked:
            del self._marked[line.row.key]
        elif len(self._marked) < MAX_COMPARED:
            self._marked[line.row.key] = (line.group, line.row)
        count = len(self._marked)
        self.show_status(_("{count} marked: c compares them.").format(count=count))
        self._show_list()

    def action_compare(self) -> None:
        compared = list(self._marked.values())
        line = self.query_one(ModelTable).line
        if not compared and line is not None:  # all files of this model
            rows = [row for row in line.group.rows if row.candidate is not None]
            compared = [(line.group, row) for row in rows[-MAX_COMPARED:]]
        if compared and self._sizing is not None:
            self.open(ComparisonScreen(compared, self._sizing, self._question))

    def action_transfers(self) -> None:
        self.open(TransfersScreen(), self._transfers_left)

    def _transfers_left(self, model: InstalledModel | None) -> None:
        self.read_models()
        if model is not None:
            self.frame.open_chat(model)

    def action_import(self) -> None:
        self.open(ImportScreen(), self._imported)

    def _imported(self, model: InstalledModel | None) -> None:
        if model is not None:
            self.show_status(_("{name} is in the list now.").format(name=model.name))
            self.read_models(fresh=True)

    def action_scan(self) -> None:
        self.open(ScanScreen(), self._scanned)

    def _scanned(self, added: bool | None) -> None:
        if added:
            self.read_models(fresh=True)
