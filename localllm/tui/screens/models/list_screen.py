"""The list of the models on the screen: what is read, worked out, filtered and shown of them.

What can be done with a model is in `models.py`.
"""

import asyncio
from dataclasses import replace
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from localllm.core.recommend import Preferences
from localllm.core.sizing.fit import Fit
from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import context_or_default
from localllm.runtime.local_machine import likely_graphs
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.downloads.source import HubAccess
from localllm.tui.places import MODELS
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.dialog import failure_dialog
from localllm.tui.screens.models import library, library_actions
from localllm.tui.screens.models.cells import context_text
from localllm.tui.screens.models.details import DetailView, long_lines, short_lines
from localllm.tui.screens.models.dialogs.filters import FilterScreen, filter_texts
from localllm.tui.screens.models.filtering import (
    KnownSizes,
    ModelFilter,
    Order,
    SortKey,
    list_lines,
)
from localllm.tui.screens.models.groups import Ability, ModelGroup, QuantRow, Source
from localllm.tui.screens.models.hub_search import HubSearch, hub_line
from localllm.tui.screens.models.sizing import (
    CONTEXTS,
    KV_TYPES,
    PEOPLE,
    ModelSizing,
    RowDetails,
    step,
)
from localllm.tui.screens.models.table import (
    LineExpanded,
    LineHighlighted,
    ModelTable,
    SortChosen,
    ViewMoved,
)
from localllm.tui.widgets.memory_bar import LABELS, SIGNS, MemoryUse

_SIDE_COLUMNS = 140
"""From this width on the details stand beside the list."""
_LOW_ROWS = 20
"""Below this height there is no room for details under the list."""
_SETTLE_S = 0.5
"""The order of suggestions takes a second to work out: not for each step of a key that is held."""
_SAME_MEMORY = 128 * 2**20
"""Free memory comes and goes by this much from one moment to the next."""


class ModelListScreen(PlaceScreen):
    """The catalogue, what is installed and what the Hub was asked for, in one list."""

    place = MODELS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", N_("Find"), id="models.find",
                tooltip=N_("Type words of names, licences and abilities: the list follows")),
        Binding("left_square_bracket", "context(-1)", N_("Context"), id="models.context-less",
                tooltip=N_("Count with a shorter context: all bars move")),
        Binding("right_square_bracket", "context(1)", N_("More context"), show=False,
                id="models.context-more",
                tooltip=N_("Count with a longer context: all bars move")),
        Binding("left_curly_bracket", "people(-1)", N_("Fewer at once"), show=False,
                id="models.people-less", tooltip=N_("Count with fewer people at once")),
        Binding("right_curly_bracket", "people(1)", N_("More at once"), show=False,
                id="models.people-more", tooltip=N_("Count with more people at once")),
        Binding("K", "kv_type", N_("KV cache"), show=False, id="models.kv-type",
                tooltip=N_("Count with another type of the KV cache: f16, q8_0, q4_0")),
        Binding("f", "filters", N_("Filters"), id="models.filters",
                tooltip=N_("By memory, ability, licence, size and place; and the order")),
        Binding("o", "order", N_("Order"), show=False, id="models.order",
                tooltip=N_("Order by the next column")),
        Binding("O", "reverse", N_("Backwards"), show=False, id="models.reverse",
                tooltip=N_("Turn the order around")),
        Binding("r", "reread", N_("Refresh"), show=False, id="models.refresh",
                tooltip=N_("Read the library and the free memory again")),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._groups: tuple[ModelGroup, ...] = ()
        self._installed: tuple[InstalledModel, ...] | None = None
        self._filter, self.order = ModelFilter(), Order()
        self._expanded: set[str] = set()
        self._marked: dict[str, tuple[ModelGroup, QuantRow]] = {}
        self._question = Preferences()
        self._sizing: ModelSizing | None = None
        self._known = KnownSizes()
        self._details: dict[tuple[str, Preferences], RowDetails] = {}
        self._exact: dict[tuple[str, Preferences], Fit] = {}
        self._unsupported: dict[str, str] = {}
        self._asked_architectures: set[str] = set()
        self._hub = HubSearch()
        self._access: HubAccess | None = None
        self._go_to = ""

    def compose_place(self) -> ComposeResult:
        with Vertical(id="models-place"):
            with Horizontal(id="models-filter"):
                yield Static("/", id="models-slash")
                yield Input(
                    placeholder=_("words of a name, a licence, an ability"),
                    id="models-text",
                    compact=True,
                )
                yield Static(Content(), id="models-chips")
            yield Static(Content(), id="models-question")
            with Container(id="models-body"):
                yield ModelTable(self._problem_of)
                with VerticalScroll(id="models-details", can_focus=False):
                    yield Static(Content(), id="models-details-text")
            yield Static(Content(), id="models-hub")

    # --- reading ---

    def on_mount(self) -> None:
        self.query_one(ModelTable).focus()
        self._draw_question()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.read_models()

    def on_unmount(self) -> None:
        if self._sizing is not None:
            self._sizing.close()

    def on_resize(self, event: events.Resize) -> None:
        side = event.size.width >= _SIDE_COLUMNS
        self.set_class(side, "-side")
        self.set_class(not side and event.size.height < _LOW_ROWS, "-low")
        self._draw_question()
        self._draw_details()

    @work(exclusive=True, group="models", exit_on_error=False)
    async def read_models(self, *, fresh: bool = False) -> None:
        """Read what there is, and work out what of it is not known yet."""
        await self.services_ready()
        if self._installed is None:
            settings = self.services.settings
            graphs = await asyncio.to_thread(likely_graphs)
            context = context_or_default(None, settings)
            self._question = Preferences(context=context, graphs=graphs)
            self._draw_question()
        try:
            installed = await asyncio.to_thread(self.runtime.installed)
            if fresh or installed != self._installed:
                entries = await asyncio.to_thread(self.services.catalogue)
                self._groups = await asyncio.to_thread(library.read_groups, entries, installed)
                self._installed = installed
                self._show_list()
            self._access = await asyncio.to_thread(self.services.downloads.source.access)
            self._draw_hub_line()
            await self._read_machine()
        except LocalLLMError as error:
            self.open(failure_dialog(_("The library cannot be read"), error))
            return
        self._show_list()
        self.work_out()
        self.work_out_details()
        self.find_unsupported()

    async def _read_machine(self) -> None:
        outlook = await self.runtime.outlook()
        this = await asyncio.to_thread(library.this_machine, outlook)
        before = self._sizing
        if before is not None:
            if before.is_like(this, _SAME_MEMORY):
                return
            before.close()
        self._sizing = ModelSizing(this, before)
        self._details.clear()
        self._exact.clear()

    @work(exclusive=True, group="unsupported", exit_on_error=False)
    async def find_unsupported(self) -> None:
        """Ask the engine, once for each architecture, which models it cannot run at all."""
        names = {group.architecture for group in self._groups if group.architecture is not None}
        if names - self._asked_architectures:
            self._asked_architectures |= names
            self._unsupported |= await self.runtime.unsupported_architectures(names)
            self._draw_details()
            self.query_one(ModelTable).refresh()

    # --- working out ---

    @work(exclusive=True, group="sizes", exit_on_error=False)
    async def work_out(self) -> None:
        """Work out what is seen first, then the rest, then the order of suggestions."""
        question, sizing = self._question, self._sizing
        if sizing is None:
            return
        table = self.query_one(ModelTable)

        def progress() -> bool:
            if sizing is self._sizing and question == self._question:
                self._redraw()
                return True
            return False

        groups = self._all_groups
        await sizing.size(table.visible_rows, question, progress)
        self._show_list()
        await sizing.size((row for group in groups for row in group.rows), question, progress)
        self._show_list()
        await sizing.time(table.visible_rows, question, progress)
        if not sizing.ranked(question):
            await asyncio.sleep(_SETTLE_S)
            own = [group for group in groups if group.source is not Source.HUB]
            await sizing.rank(own, question)
            self._show_list()
        rows = table.visible_rows
        if self.order.key is SortKey.SPEED:
            rows = tuple(line.row for line in table.lines if line.row is not None)
        await sizing.time(rows, question, progress)
        if self.order.key is SortKey.SPEED:
            self._show_list()
        self._draw_details()

    @property
    def _all_groups(self) -> tuple[ModelGroup, ...]:
        return (*self._groups, *self._hub.groups)

    def _problem_of(self, row: QuantRow) -> str | None:
        architecture = None if row.candidate is None else row.candidate.architecture
        if architecture in self._unsupported:
            return _("the installed engine cannot run {architecture}").format(
                architecture=architecture
            )
        return self._sizing.problem(row) if self._sizing is not None else None

    # --- showing ---

    def _show_list(self) -> None:
        """Filter and order the list again."""
        table, memory = self.query_one(ModelTable), None
        if self._sizing is not None:
            self._known = self._sizing.known(self._question, self._known)
            memory = self._sizing.this.memory
        lines = list_lines(self._all_groups, self._filter, self.order, self._expanded, self._known)
        table.show(
            lines, self._known, memory=memory, order=self.order, marked=frozenset(self._marked)
        )
        if self._go_to and table.go_to(self._go_to):
            self._go_to = ""
        self._draw_chips()
        self._draw_hub_line()
        self._draw_details()

    def _redraw(self) -> None:
        """Draw what is known by now, in the order that stands."""
        if self._sizing is not None:
            self._known = self._sizing.known(self._question, self._known)
            self.query_one(ModelTable).redraw(self._known)

    def _draw_chips(self) -> None:
        groups = self._all_groups
        shown = sum(not line.of_group for line in self.query_one(ModelTable).lines)
        count = _("{shown} of {all}").format(shown=shown, all=len(groups))
        texts = [*filter_texts(self._filter), count]
        self.query_one("#models-chips", Static).update(Content(" · ".join(texts)))

    def _draw_question(self) -> None:
        question, width = self._question, self.size.width
        parts = [
            _("context ‹ {context} ›").format(context=context_text(question.context)),
            _("at once ‹{count}›").format(count=question.parallel),
            _("KV ‹{kind}›").format(kind=question.kv_type.value),
        ]
        reserve = self._sizing is not None and self._sizing.this.memory.reserve_bytes
        text = f"{'  '.join(parts)}   "
        for use, label in LABELS.items():
            sign = f"{SIGNS[use]} {_(label)}  "
            if (use is not MemoryUse.RESERVE or reserve) and len(text + sign) <= width:
                text += sign
        self.query_one("#models-question", Static).update(Content(text))

    def _draw_hub_line(self) -> None:
        line = self.query_one(ModelTable).line
        unread = line is not None and line.group.source is Source.HUB and not line.group.rows
        text = hub_line(
            self._access,
            self._filter.text,
            repository=line.group.name if line is not None and unread else None,
            busy=self._hub.busy,
            found=self._hub.found,
        )
        self.query_one("#models-hub", Static).update(literal.line(text))

    def _view(self) -> DetailView | None:
        line = self.query_one(ModelTable).line
        if line is None:
            return None
        row, question, sizing = line.row, self._question, self._sizing
        key = (row.key if row is not None else "", question)
        return DetailView(
            group=line.group,
            row=row,
            question=question,
            size=self._known.sizes.get(key[0]),
            plan=sizing.plan(row, question) if sizing is not None and row is not None else None,
            details=self._details.get(key),
            exact=self._exact.get(key),
            unsupported=self._unsupported.get(line.group.architecture or ""),
            problem=sizing.problem(row) if sizing is not None and row is not None else None,
        )

    def _draw_details(self) -> None:
        view = self._view()
        text = ""
        if view is not None:
            lines = long_lines(view) if self.has_class("-side") else short_lines(view)
            text = "\n".join(lines)
        self.query_one("#models-details-text", Static).update(literal.lines(text))

    @work(exclusive=True, group="details", exit_on_error=False)
    async def work_out_details(self) -> None:
        """Work out what only the details of the file under the cursor say."""
        line, question, sizing = self.query_one(ModelTable).line, self._question, self._sizing
        if line is None or line.row is None or sizing is None:
            return
        key = (line.row.key, question)
        if key not in self._details:
            await asyncio.sleep(0.1)  # the cursor is perhaps only passing
            details = await sizing.details(line.row, question)
            if details is not None and sizing is self._sizing:
                self._details[key] = details
        self._draw_details()

    # --- the cursor and the list ---

    @on(LineHighlighted)
    def _highlighted(self) -> None:
        self._draw_hub_line()
        self._draw_details()
        self.work_out_details()

    @on(ViewMoved)
    def _view_moved(self) -> None:
        if self._sizing is not None:
            self.work_out()

    @on(LineExpanded)
    def _line_expanded(self, event: LineExpanded) -> None:
        group = event.line.group
        if event.expand and group.source is Source.HUB and not group.rows:
            self.read_repository(group)
            return
        if event.expand:
            self._expanded.add(group.key)
        else:
            self._expanded.discard(group.key)
        self._show_list()
        self.work_out()

    @on(SortChosen)
    def _sort_chosen(self, event: SortChosen) -> None:
        same = self.order.key is event.key
        self._set_order(Order(key=event.key, reverse=same and not self.order.reverse))

    @on(Input.Changed, "#models-text")
    def _text_changed(self, event: Input.Changed) -> None:
        self._filter = replace(self._filter, text=event.value)
        self._show_list()
        if self._sizing is not None:
            self.work_out()

    @on(Input.Submitted, "#models-text")
    def _text_submitted(self) -> None:
        self.query_one(ModelTable).focus()

    def on_key(self, event: events.Key) -> None:
        typing = self.focused is self.query_one("#models-text")
        if typing and event.key in ("down", "escape"):
            self.query_one(ModelTable).focus()
            event.stop()

    def action_find(self) -> None:
        self.query_one("#models-text").focus()

    def _set_order(self, order: Order) -> None:
        self.order = order
        self._show_list()
        self.work_out()

    def action_order(self) -> None:
        keys = tuple(SortKey)
        self._set_order(Order(key=keys[(keys.index(self.order.key) + 1) % len(keys)]))

    def action_reverse(self) -> None:
        self._set_order(replace(self.order, reverse=not self.order.reverse))

    def action_filters(self) -> None:
        self.open(FilterScreen(self._filter, self.order, self._set_filter))

    def _set_filter(self, chosen: ModelFilter, order: Order) -> None:
        if Ability.TOOLS in chosen.abilities - self._filter.abilities:
            self.read_templates()
        self._filter, self.order = chosen, order
        self._show_list()

    @work(exclusive=True, group="templates", exit_on_error=False)
    async def read_templates(self) -> None:
        """Read which installed models take tools: only their chat templates say it."""
        self._groups = await asyncio.to_thread(library_actions.with_abilities, self._groups)
        self._show_list()

    @work(exclusive=True, group="hub", exit_on_error=False)
    async def read_repository(self, group: ModelGroup) -> None:
        """Ask the Hub for the files of a repository and the header of one."""
        self._access = await asyncio.to_thread(self.services.downloads.source.access)
        if self._access.refusal is not None:
            self._draw_hub_line()
            return
        source = self.services.downloads.source
        with self._hub.asking(self._draw_hub_line):
            problem = await self._hub.read(source, group)
        if problem is not None:
            self.show_status(problem)
        else:
            self._expanded.add(group.key)
        self._show_list()
        self.work_out()
        self.find_unsupported()

    # --- the question ---

    def _ask(self, question: Preferences) -> None:
        if question != self._question:
            self._question = question
            self._draw_question()
            self._redraw()
            self._draw_details()
            self.work_out()
            self.work_out_details()

    def action_context(self, by: int) -> None:
        self._ask(replace(self._question, context=step(CONTEXTS, self._question.context, by)))

    def action_people(self, by: int) -> None:
        self._ask(replace(self._question, parallel=step(PEOPLE, self._question.parallel, by)))

    def action_kv_type(self) -> None:
        at = KV_TYPES.index(self._question.kv_type)
        self._ask(replace(self._question, kv_type=KV_TYPES[(at + 1) % len(KV_TYPES)]))

    def action_reread(self) -> None:
        self.read_models(fresh=True)
