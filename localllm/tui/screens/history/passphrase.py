"""Ask for a passphrase: the one that opens the conversations, or a new one, twice."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from localllm.library.encryption.passphrase import problem
from localllm.translation import N_, _
from localllm.tui import literal


class PassphraseScreen(ModalScreen[str | None]):
    """The result is the passphrase, None after escape.

    `is_new`: it is typed twice and has to be a good one. `remark` says why it is asked again.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "later", N_("Later"), id="passphrase.later", tooltip=N_("Give none now"))
    ]

    def __init__(self, *, is_new: bool = False, remark: str = "") -> None:
        super().__init__()
        self._is_new = is_new
        self._remark = remark

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            if self._is_new:
                title = _("A passphrase for your conversations")
                message = _(
                    "It is asked for at each start, and kept nowhere. Nobody can read the"
                    " conversations without it: not you either, if you forget it."
                )
            else:
                title = _("Your conversations are locked")
                message = _("Their passphrase opens them. Without it this session is in memory.")
            yield Static(title, id="dialog-title")
            yield Static(message, id="dialog-message")
            yield self._input("passphrase", _("passphrase"))
            if self._is_new:
                yield self._input("passphrase-again", _("the same again"))
            yield Static(literal.line(self._remark), id="passphrase-remark")

    def _input(self, name: str, placeholder: str) -> Input:
        return Input(placeholder=placeholder, id=name, password=True, compact=True)

    def on_mount(self) -> None:
        self.query(Input).first().focus()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        typed = self.query_one("#passphrase", Input).value
        if not self._is_new:
            if typed:
                self.dismiss(typed)
            return
        again = self.query_one("#passphrase-again", Input)
        if (reason := problem(typed)) is not None:
            self._show_remark(_(reason))
        elif not again.value:
            self._show_remark("")
            again.focus()
        elif again.value != typed:
            self._show_remark(_("The two are different. Type the second one again."))
            again.value = ""
            again.focus()
        else:
            self.dismiss(typed)

    def _show_remark(self, remark: str) -> None:
        self.query_one("#passphrase-remark", Static).update(literal.line(remark))

    def action_later(self) -> None:
        if self.is_current:
            self.dismiss(None)
