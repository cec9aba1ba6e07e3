"""The installed models, each with what it needs here."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import ListItem, ListView, Static

from localllm.core.units import format_bytes
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.widgets.labels import Bar
from localllm.tui.widgets.listing import StackedList

if TYPE_CHECKING:  # what the first picture does not need is imported after it
    from localllm.library.store.installed import InstalledModel
    from localllm.runtime.runtime import Fit


class ModelChosen(Message):
    """A model of the list was chosen."""

    def __init__(self, model: "InstalledModel") -> None:
        super().__init__()
        self.model = model


class UnloadRequested(Message):
    """The memory of a model of the list is to be freed."""

    def __init__(self, model: "InstalledModel") -> None:
        super().__init__()
        self.model = model


class StatusKind(StrEnum):
    """The status of a model in one word; the value is the style class too."""

    PENDING = "pending"
    FITS = "fits"
    LOADED = "loaded"
    TOO_BIG = "too-big"
    MISSING = "missing"
    CHANGED = "changed"
    UNREADABLE = "unreadable"
    NO_CHAT = "no-chat"


STATUS_TEXTS = {
    StatusKind.PENDING: "…",
    StatusKind.FITS: N_("● fits"),
    StatusKind.LOADED: N_("● in memory"),
    StatusKind.TOO_BIG: N_("● does not fit"),
    StatusKind.MISSING: N_("○ file missing"),
    StatusKind.CHANGED: N_("○ file changed"),
    StatusKind.UNREADABLE: N_("○ cannot be read"),
    StatusKind.NO_CHAT: N_("○ does not chat"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """The status of a model on this machine now; `remark` is a sentence or empty."""

    kind: StatusKind
    fit: "Fit | None" = None
    remark: str = ""


TOY = N_("A toy: it shows that everything works, and knows next to nothing.")
"""Of the starter model."""


class ModelRows(StackedList):
    """The list itself, with its key in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "select_cursor",
            N_("Open"),
            id="models.open",
            tooltip=N_("Load this model and chat with it"),
        ),
        Binding(
            "u",
            "unload",
            N_("Free its memory"),
            id="models.unload",
            show=False,
            tooltip=N_("Take this model out of memory; its conversations stay"),
        ),
    ]

    def action_unload(self) -> None:
        if isinstance(row := self.highlighted_child, ModelRow):
            self.post_message(UnloadRequested(row.model))


class ModelRow(ListItem):
    """One model of the list."""

    def __init__(self, model: "InstalledModel") -> None:
        super().__init__()
        self.model = model

    def compose(self) -> ComposeResult:
        with Horizontal(classes="row-head"):
            yield Static(literal.line(self.model.name), classes="row-name")
            yield Static(literal.line(self.model.quant or ""), classes="row-quant")
            yield Static(Content(STATUS_TEXTS[StatusKind.PENDING]), classes="row-verdict")
        with Horizontal(classes="row-need"):
            yield Static(Content(_size(self.model, None)), classes="row-size")
            yield Bar(classes="row-bar")
        yield Static(Content(), classes="row-remark")

    def show(self, status: ModelStatus) -> None:
        """Show the model's status."""
        for kind in StatusKind:
            self.set_class(kind is status.kind, f"-{kind}")
        self.query_one(".row-verdict", Static).update(Content(_(STATUS_TEXTS[status.kind])))
        self.query_one(".row-size", Static).update(Content(_size(self.model, status.fit)))
        bar = self.query_one(".row-bar", Bar)
        bar.display = status.fit is not None
        if status.fit is not None:
            total, free = status.fit.total_bytes, status.fit.free_bytes
            bar.fraction = total / free if free > 0 else 1.0
        remark = self.query_one(".row-remark", Static)
        text = status.remark or (_(TOY) if self.model.source == "starter" else "")
        remark.update(literal.line(text))
        remark.display = bool(text)


class ModelList(Vertical):
    """The models. Posts ModelChosen."""

    def __init__(self) -> None:
        super().__init__()
        self._models: tuple[InstalledModel, ...] = ()

    def compose(self) -> ComposeResult:
        yield Static(_("On this disk"), classes="heading")
        yield ModelRows(id="models")
        with Vertical(id="no-models"):
            yield Static(_("No model is installed yet."), classes="strong")
            yield Static(_("⏎  gets the model under the cursor: says where from, asks first"))
            yield Static(_("i  uses a GGUF file of this disk or of a stick, without the network"))
            yield Static(Content(), id="starter-hint")

    async def show(self, models: "tuple[InstalledModel, ...]", *, at: str | None = None) -> None:
        """Replace the list, keeping the place in it or going to the model `at`."""
        if models != self._models or not models:
            await self._replace(models)
        if at is not None:
            self._go_to(at)

    def enter(self) -> None:
        """Take the focus back, if there is a model."""
        if self._models:
            self.query_one(ModelRows).focus()

    def _go_to(self, name: str) -> None:
        names = [model.name for model in self._models]
        if name in names:
            self.query_one(ModelRows).index = names.index(name)
            self.enter()

    async def _replace(self, models: "tuple[InstalledModel, ...]") -> None:
        self._models = models
        listing = self.query_one(ModelRows)
        index = listing.index or 0
        async with self.batch():
            await listing.clear()
            await listing.extend([ModelRow(model) for model in models])
        listing.display = bool(models)
        self.query_one("#no-models").display = not models
        if not models:
            self._show_starter_hint()
        if models:
            listing.index = min(index, len(models) - 1)
            listing.focus()

    def _show_starter_hint(self) -> None:
        from localllm.library.store import starter

        hint = _("A toy to try the app with: {command}")
        self.query_one("#starter-hint", Static).update(
            Content(hint.format(command=starter.INSTALL))
        )

    @on(ListView.Selected)
    def _selected(self, event: ListView.Selected) -> None:
        event.stop()
        if isinstance(event.item, ModelRow):
            self.post_message(ModelChosen(event.item.model))


def _size(model: "InstalledModel", fit: "Fit | None") -> str:
    size = _("{size} file").format(size=format_bytes(model.size_bytes))
    if fit is None:
        return size
    need, free = format_bytes(fit.total_bytes), format_bytes(fit.free_bytes)
    return f"{size} · " + _("needs {need} of {free} free").format(need=need, free=free)
