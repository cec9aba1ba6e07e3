"""Several files side by side: what each needs, how fast it is and what it loses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from localllm.core.recommend import Preferences
from localllm.core.recommend.quant_sizes import QuantSize
from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.translation import N_, _
from localllm.tui.figures import rate_range
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.models.cells import (
    context_text,
    licence_text,
    lost_text,
    parameters_text,
    verdict_sign,
    verdict_text,
)
from localllm.tui.screens.models.details import part_sums
from localllm.tui.screens.models.groups import ModelGroup, QuantRow
from localllm.tui.screens.models.sizing import ModelSizing, RowDetails
from localllm.tui.widgets.memory_bar import (
    MachineMemory,
    bar_cells,
    load_memory,
    runs,
)

MAX_COMPARED = 6
_COLUMN = 26
_LABEL = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One file of a comparison, with what is known of it by now."""

    group: ModelGroup
    row: QuantRow
    details: RowDetails | None = None
    problem: str | None = None


def comparison_lines(compared: Sequence[Compared], memory: MachineMemory) -> tuple[str, ...]:
    """Write a table with a column for each file; what is not known is left empty."""
    rows: tuple[tuple[str, Callable[[Compared], str]], ...] = (
        ("", lambda each: single_line(each.group.name)),
        ("", lambda each: each.row.quant),
        ("", lambda each: _bar(each, memory)),
        (_("verdict"), _verdict),
        (_("needs"), lambda each: _part(each, "total")),
        (_("weights"), lambda each: _part(each, "weights")),
        (_("KV cache"), lambda each: _part(each, "kv")),
        (_("compute"), lambda each: _part(each, "compute")),
        (_("file"), lambda each: format_bytes(each.row.file_bytes)),
        (_("tok/s"), _rate),
        (_("first word"), _first_word),
        (_("lost"), lambda each: lost_text(each.row)),
        (_("largest context"), _largest),
        (_("people at once"), _people),
        (_("size"), lambda each: parameters_text(each.group)),
        (_("licence"), lambda each: licence_text(each.group)),
    )
    return tuple(
        "".join((_cell(label, _LABEL), *(_cell(write(each), _COLUMN) for each in compared)))
        for label, write in rows
    )


def _cell(text: str, width: int) -> str:
    if cell_len(text) > width - 2:
        text = set_cell_size(text, width - 3) + "…"
    return text + " " * (width - cell_len(text))


def _bar(each: Compared, memory: MachineMemory) -> str:
    plan = each.details.plan if each.details is not None else None
    if plan is None:
        return ""
    load = load_memory(plan.placement.devices, fits=plan.placement.fits)
    cells = bar_cells(memory, load, inside=_COLUMN - 7, beyond=4)
    return "".join(text for _use, text in runs(cells))


def _verdict(each: Compared) -> str:
    if each.problem is not None:
        return single_line(each.problem)
    plan = each.details.plan if each.details is not None else None
    if plan is None:
        return "…"
    size = QuantSize(
        placement=plan.placement,
        context=plan.settings.context,
        kv_type=plan.settings.kv_type_k,
    )
    return f"{verdict_sign(size)[0]} {verdict_text(size)}"


def _part(each: Compared, part: str) -> str:
    plan = each.details.plan if each.details is not None else None
    return "" if plan is None else format_bytes(part_sums(plan.placement.devices).of(part))


def _rate(each: Compared) -> str:
    plan = each.details.plan if each.details is not None else None
    return "" if plan is None or not plan.placement.fits else rate_range(plan.decode)


def _first_word(each: Compared) -> str:
    plan = each.details.plan if each.details is not None else None
    if plan is None or not plan.placement.fits:
        return ""
    return format_duration(plan.ttft.likely)


def _largest(each: Compared) -> str:
    largest = each.details.largest_context if each.details is not None else None
    return "" if largest is None else context_text(largest)


def _people(each: Compared) -> str:
    people = each.details.most_people if each.details is not None else None
    return "" if people is None else str(people)


class ComparisonScreen(WorkScreen[None], ModalScreen[None]):
    """Compare files; each column fills as it is worked out."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,c,enter", "close", N_("Close"), id="comparison.close")
    ]

    def __init__(
        self,
        compared: Sequence[tuple[ModelGroup, QuantRow]],
        sizing: ModelSizing,
        question: Preferences,
    ) -> None:
        super().__init__()
        self._compared = [Compared(group=group, row=row) for group, row in compared]
        self._sizing, self._question = sizing, question

    def compose(self) -> ComposeResult:
        question = self._question
        title = _("Side by side, with {context} of context").format(
            context=context_text(question.context)
        )
        with Vertical(id="dialog", classes="-wide-dialog"):
            yield Static(Content(title), id="dialog-title")
            with ScrollableContainer(id="comparison"):
                yield Static(Content(), id="comparison-text")

    def on_mount(self) -> None:
        self._draw()
        self.work_out()

    @work(exclusive=True, group="comparison", exit_on_error=False)
    async def work_out(self) -> None:
        """Work out the columns, one after the other."""
        for number, each in enumerate(self._compared):
            details = await self._sizing.details(each.row, self._question)
            problem = each.row.problem or self._sizing.problem(each.row)
            self._compared[number] = Compared(
                group=each.group, row=each.row, details=details, problem=problem
            )
            self._draw()

    def _draw(self) -> None:
        lines = comparison_lines(self._compared, self._sizing.this.memory)
        self.query_one("#comparison-text", Static).update(Content("\n".join(lines)))

    def action_close(self) -> None:
        self.leave(None)
