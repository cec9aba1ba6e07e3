"""A question over the screen: a title, what happened, and a few buttons."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from localllm.core.units import format_bytes
from localllm.errors import EngineCrashed, LocalLLMError, NotFound
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.app_words import app_words
from localllm.tui.widgets.labels import Fact

if TYPE_CHECKING:  # what the first picture does not need is imported after it
    from localllm.core.sizing.footprint import Footprint
    from localllm.library.store.installed import InstalledModel
    from localllm.runtime.load_policy import NotGenerative
    from localllm.runtime.runtime import Fit


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogButton:
    """One button: `id` is the dialog's result."""

    id: str
    label: str


CLOSE = DialogButton(id="close", label=N_("Close"))
QUIT = DialogButton(id="quit", label=N_("Quit"))
STAY = DialogButton(id="stay", label=N_("Stay"))


class Dialog(ModalScreen[str | None]):
    """Ask; the result is the id of the button, None after escape.

    `message`, `remark` and `log` are outside text. The first button is the one that enter takes.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape", "leave", N_("Close"), id="dialog.leave", tooltip=N_("Close without a choice")
        ),
        Binding(
            "left,up",
            "app.focus_previous",
            N_("Previous choice"),
            id="dialog.previous",
            show=False,
            tooltip=N_("Go to the button before this one"),
        ),
        Binding(
            "right,down",
            "app.focus_next",
            N_("Next choice"),
            id="dialog.next",
            show=False,
            tooltip=N_("Go to the button after this one"),
        ),
    ]

    def __init__(
        self,
        *,
        title: str,
        message: str,
        buttons: Sequence[DialogButton],
        facts: Sequence[tuple[str, str]] = (),
        remark: str = "",
        log: Sequence[str] = (),
        failed: bool = False,
    ) -> None:
        """`failed`: it tells of a failure, which its title's colour shows too."""
        super().__init__()
        self._failed = failed
        self._title = title
        self._message = app_words(message)
        self._buttons = tuple(buttons)
        self._facts = tuple(facts)
        self._remark = app_words(remark)
        self._log = tuple(log)

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            title = Static(literal.line(self._title), id="dialog-title")
            title.set_class(self._failed, "-failed")
            yield title
            yield Static(literal.lines(self._message), id="dialog-message")
            for label, value in self._facts:
                yield Fact(label, value, classes="dialog-fact")
            if self._remark:
                yield Static(literal.lines(self._remark), id="dialog-remark")
            if self._log:
                yield Static(_("What the engine wrote last"), classes="dialog-heading")
                with VerticalScroll(id="dialog-log", can_focus=False):
                    yield Static(literal.lines("\n".join(self._log)))
            with Horizontal(id="dialog-choices"):
                for button in self._buttons:
                    yield Button(Content(_(button.label)), id=button.id, compact=True)

    def on_mount(self) -> None:
        self.query(Button).first().focus()
        for log in self.query("#dialog-log"):
            log.scroll_end(animate=False)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if self.is_current:  # not for a second key while the window closes
            self.dismiss(event.button.id)

    def action_leave(self) -> None:
        if self.is_current:
            self.dismiss(None)


class QuitDialog(Dialog):
    """Ask once before the app ends and something with it; the key to quit answers with yes."""

    def __init__(self, losses: Sequence[str]) -> None:
        super().__init__(
            title=_("Quit localllm?"),
            message="\n".join(losses),
            buttons=(STAY, QUIT),
        )


def crash_dialog(error: EngineCrashed | NotFound) -> Dialog:
    """Explain that the engine is gone: "restart", or "models". NotFound: it ended while it was
    idle. Closing it leaves everything as it is."""
    reason = error.reason if isinstance(error, EngineCrashed) else ""
    log = relevant_lines(error.log_tail) if isinstance(error, EngineCrashed) else ()
    return Dialog(
        title=_("The engine has ended"),
        message=crash_words(reason),
        facts=((_("reason"), reason),) if reason else (),
        remark=_("The conversation is safe: the engine is a program of its own."),
        log=log,
        buttons=(
            DialogButton(id="restart", label=_("Start it again")),
            DialogButton(id="stay", label=_("Stay here")),
            DialogButton(id="models", label=_("Choose another model")),
        ),
        failed=True,
    )


def crash_words(reason: str) -> str:
    """Explain the end of an engine, by its reason (exit_reason.exit_reason), without jargon."""
    if reason == "SIGKILL" or "out of memory" in reason:
        return _(
            "The system has ended it, which it does when memory runs out. If that happens again, "
            "take a smaller quant of the model or a shorter context."
        )
    if reason == "SIGILL":
        return _(
            "It was built for another processor than the one of this computer. A build that was "
            "made on this computer would run."
        )
    if reason.startswith(("stopped answering", "computed without")):
        return _("It gave no sign of life any more, so it was ended.")
    if reason == "crashed again":
        return _(
            "It has ended again right after it was started. A smaller quant of the model or a "
            "shorter context may help."
        )
    if reason:
        return _("It ended by itself, by an error in it or in the model's file.")
    return _("It ended while it had nothing to do.")


def relevant_lines(log: Sequence[str]) -> tuple[str, ...]:
    """Return the lines of an engine's log that tell something of its end; often there are none."""
    telling = [line for line in log if line.strip() and _TELLING.search(line)]
    return tuple(telling[-4:])


_TELLING = re.compile(
    r"GGML_ASSERT|GGML_ABORT|what\(\)|terminat|error|fail|abort|out of memory|not enough|killed",
    re.IGNORECASE,
)


def too_big_dialog(model: "InstalledModel", fit: "Fit | None", message: str) -> Dialog:
    """Say that the model does not fit: `message` has the sum and the advice, the facts its parts.

    "anyway" or back; back is what enter takes.
    """
    return Dialog(
        title=_("{model} does not fit").format(model=model.name),
        message=message,
        facts=() if fit is None else _parts(fit.footprint),
        buttons=(
            DialogButton(id="models", label=_("Back to the models")),
            DialogButton(id="anyway", label=_("Load anyway")),
        ),
    )


def _parts(need: "Footprint") -> tuple[tuple[str, str], ...]:
    from localllm.core.sizing.footprint import PARTS

    sizes = ((_(part.short_label), part.bytes_in(need)) for part in PARTS)
    return tuple((label, format_bytes(size_bytes)) for label, size_bytes in sizes if size_bytes)


def failure_dialog(title: str, error: LocalLLMError) -> Dialog:
    """Say that something else failed; there is nothing to choose."""
    return Dialog(title=title, message=str(error), buttons=(CLOSE,))


def delete_dialog(name: str) -> Dialog:
    """Ask before something that a person wrote is deleted: "delete", or it stays."""
    return Dialog(
        title=_("Delete {name}?").format(name=name),
        message=_("It cannot be undone."),
        buttons=(
            DialogButton(id="keep", label=_("Keep it")),
            DialogButton(id="delete", label=_("Delete it")),
        ),
    )


def bug_dialog(error: BaseException | None) -> Dialog:
    """Say that something failed that nobody foresaw."""
    return Dialog(
        title=_("This is a bug in localllm"),
        message=_("Unexpected {error}").format(error=f"{type(error).__name__}: {error}"),
        buttons=(CLOSE,),
    )


def no_chat_dialog(model: "InstalledModel", error: "NotGenerative") -> Dialog:
    """Say what the model is instead of one that answers, and how it can be used."""
    return Dialog(
        title=_("{model} does not chat").format(model=model.name),
        message=_("It is {kind}.").format(kind=error.reason),
        remark=_("Other programs can use it: f7 serves it.") if error.embeds else "",
        buttons=(CLOSE,),
    )
