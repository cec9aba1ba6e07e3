"""Ask once whether conversations shall be kept, and do it; open what is locked."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from localllm.chat.history.history import History, HistoryChoice
from localllm.errors import KeyUnavailable, LocalLLMError, UsageError, WrongPassphrase
from localllm.library.files import edit_settings
from localllm.policy.active import active_policy
from localllm.translation import N_, _
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.dialog import Dialog, DialogButton
from localllm.tui.screens.history.passphrase import PassphraseScreen

Result = TypeVar("Result")

READY_S = 0.6

_PASSPHRASE = DialogButton(id="passphrase", label=N_("A passphrase instead"))
_MEMORY = DialogButton(id="memory", label=N_("Only while localllm runs"))


_ORDER = (HistoryChoice.DISK, HistoryChoice.MEMORY, HistoryChoice.OFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAnswer:
    """How conversations shall be kept; `with_passphrase`: not with the system's keyring."""

    choice: HistoryChoice
    with_passphrase: bool = False


class KeepScreen(ModalScreen[KeepAnswer | None]):
    """The question; None after escape: it is asked again in another session."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "p",
            "passphrase",
            N_("Passphrase"),
            id="keep.passphrase",
            tooltip=N_("Keep them, encrypted with a passphrase instead of the keyring"),
        ),
        Binding("escape", "later", N_("Later"), id="keep.later", tooltip=N_("Decide another time")),
    ]

    is_ready: reactive[bool] = reactive(False, bindings=True)
    """Keys that were meant for the chat, when the question came, are no answer."""

    def on_mount(self) -> None:
        self.query_one(OptionList).disabled = True
        self.set_timer(READY_S, self._get_ready)

    def _get_ready(self) -> None:
        self.is_ready = True
        options = self.query_one(OptionList)
        options.disabled = False
        options.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return (self.is_ready or None) if action == "passphrase" else True

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(_("Shall your conversations be kept?"), id="dialog-title")
            yield Static(
                _("They never leave this machine. Asked once; the settings change it."),
                id="dialog-message",
            )
            yield OptionList(*map(self._option, _ORDER), id="keep")

    @staticmethod
    def _option(choice: HistoryChoice, *, is_current: bool = False) -> Option:
        names = {
            HistoryChoice.DISK: (
                _("Keep them, encrypted"),
                _("found again after a restart; the key lies in this system's keyring"),
            ),
            HistoryChoice.MEMORY: (
                _("Only while localllm runs"),
                _("gone when it ends: nothing is written"),
            ),
            HistoryChoice.OFF: (_("Not at all"), _("gone with every new chat")),
        }
        name, meaning = names[choice]
        is_forbidden = active_policy().allows_keeping(choice.value) is not None
        if is_forbidden:
            meaning = _("managed by your organization")
        mark = "▌" if is_current else " "  # a sign, where there are no colours
        prompt = Content.assemble(mark, (name, "bold"), f"\n{mark}  {meaning}")
        return Option(prompt, id=choice.value, disabled=is_forbidden)

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        for choice in _ORDER:
            option = self._option(choice, is_current=choice.value == event.option_id)
            event.option_list.replace_option_prompt(choice.value, option.prompt)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        if self.is_current and event.option_id is not None:
            self.dismiss(KeepAnswer(choice=HistoryChoice(event.option_id)))

    def on_key(self, event: events.Key) -> None:
        if event.key in ("1", "2", "3"):
            self.query_one(OptionList).highlighted = int(event.key) - 1

    def action_passphrase(self) -> None:
        if self.is_current and active_policy().allows_keeping(HistoryChoice.DISK.value) is None:
            self.dismiss(KeepAnswer(choice=HistoryChoice.DISK, with_passphrase=True))

    def action_later(self) -> None:
        if self.is_current:
            self.dismiss(None)


async def ask_how_to_keep(screen: WorkScreen[Result]) -> None:
    """Ask how conversations shall be kept, and keep them so. To be called in a worker."""
    if (answer := await screen.ask(KeepScreen())) is not None:
        await keep(screen, answer)


async def keep(screen: WorkScreen[Result], answer: KeepAnswer, *, remark: str = "") -> bool:
    """Keep conversations as answered; ask for what is needed for it. False: it stays as it was.
    `remark`: why the passphrase is asked for again."""
    history = screen.services.conversations
    passphrase: str | None = None
    if answer.choice is HistoryChoice.DISK:
        try:
            is_waiting = await asyncio.to_thread(_waits_for_passphrase, history)
        except LocalLLMError as error:  # the file of keys is damaged
            await screen.ask(_failed(str(error)))
            return False
        if is_waiting:
            passphrase = await screen.ask(PassphraseScreen(remark=remark))
        elif answer.with_passphrase:
            passphrase = await screen.ask(PassphraseScreen(is_new=True))
        else:
            return await _keep(screen, answer, None)
        if passphrase is None:
            return False
    return await _keep(screen, answer, passphrase)


def _waits_for_passphrase(history: History) -> bool:
    return not history.is_on_disk and history.keys.exists() and history.needs_passphrase


async def _keep(screen: WorkScreen[Result], answer: KeepAnswer, passphrase: str | None) -> bool:
    history = screen.services.conversations
    try:
        await asyncio.to_thread(history.choose, answer.choice, passphrase)
        await asyncio.to_thread(edit_settings.change, "history", answer.choice.value)
    except WrongPassphrase as error:
        return await keep(screen, answer, remark=_(str(error)))
    except KeyUnavailable as error:
        return await _without_keyring(screen, error)
    except LocalLLMError as error:
        await screen.ask(_failed(str(error)))
        return False
    return True


async def _without_keyring(screen: WorkScreen[Result], error: KeyUnavailable) -> bool:
    """Offer what is possible where the keyring cannot be used."""
    dialog = Dialog(
        title=_("The key cannot be kept in a keyring"),
        message=str(error),
        buttons=(_PASSPHRASE, _MEMORY),
    )
    match await screen.ask(dialog):
        case "passphrase":
            return await keep(screen, KeepAnswer(choice=HistoryChoice.DISK, with_passphrase=True))
        case "memory":
            return await keep(screen, KeepAnswer(choice=HistoryChoice.MEMORY))
    return False


async def unlock(screen: WorkScreen[Result]) -> bool:
    """Ask for the passphrase of what is locked until it opens, or nobody wants to; without one,
    try the keyring again. To be called in a worker."""
    history = screen.services.conversations
    remark = ""
    while history.is_locked:
        try:
            if not await asyncio.to_thread(lambda: history.needs_passphrase):
                await asyncio.to_thread(history.start)
                return True
            passphrase = await screen.ask(PassphraseScreen(remark=remark))
            if passphrase is None:
                return False
            await asyncio.to_thread(history.unlock, passphrase)
        except (WrongPassphrase, UsageError) as error:
            remark = _(str(error))
        except LocalLLMError as error:
            await screen.ask(_failed(str(error)))
            return False
    return True


def _failed(message: str) -> Dialog:
    return Dialog(
        title=_("The conversations cannot be opened"),
        message=message,
        buttons=(DialogButton(id="close", label=N_("Close")),),
    )
