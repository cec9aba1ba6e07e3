"""How conversations are kept, asked once in words; and those that are kept, as numbered lines."""

from dataclasses import dataclass

from localllm.chat.conversation import Conversation
from localllm.chat.history.history import History, HistoryChoice
from localllm.cli.chat.line_terminal import LineTerminal
from localllm.core.text import single_line
from localllm.errors import EncryptionError, KeyUnavailable, WrongPassphrase
from localllm.library.files import edit_settings
from localllm.translation import N_, _

_CHOICES = (
    (HistoryChoice.DISK, N_("Keep them on this disk, encrypted: found again after a restart.")),
    (HistoryChoice.MEMORY, N_("Only while localllm runs: nothing is written.")),
    (HistoryChoice.OFF, N_("Not at all: gone with every new conversation.")),
)
_MOST_LISTED = 50


@dataclass(slots=True, kw_only=True)
class KeptConversations:
    """The conversations of this user, on this terminal."""

    history: History
    terminal: LineTerminal
    asked: bool = False

    def ask_how_to_keep(self) -> None:
        """Ask once, after the first conversation; Enter leaves it for another time."""
        if self.asked or self.history.choice is not None or not self.history.list():
            return
        self.asked = True
        chosen = self.terminal.choose(
            _("Shall your conversations be kept? They never leave this machine."),
            [_(text) for _choice, text in _CHOICES],
            _("Number, or Enter to decide another time:"),
        )
        if chosen is not None:
            self._keep(_CHOICES[chosen][0])

    def _keep(self, choice: HistoryChoice) -> None:
        show = self.terminal.show
        try:
            passphrase = self._passphrase() if choice is HistoryChoice.DISK else None
            self.history.choose(choice, passphrase)
        except WrongPassphrase as error:
            self.terminal.show_error(str(error))
            return
        except KeyUnavailable as error:
            self.terminal.show_error(str(error))
            if not (passphrase := self._new_passphrase()):
                show(_("Nothing has changed: they are in memory until localllm ends."))
                return
            self.history.choose(choice, passphrase)
        edit_settings.change("history", choice.value)
        show(_("Noted. The setting is called history, and can be changed at any time."))

    def _passphrase(self) -> str | None:
        """Ask for the passphrase of what is kept already; None: there is none."""
        keys = self.history.keys
        if not (keys.exists() and self.history.needs_passphrase):
            return None
        return self.terminal.secret(_("Passphrase of your conversations:"))

    def _new_passphrase(self) -> str:
        """Ask twice for a new one; "": none was given, or they differ."""
        first = self.terminal.secret(_("A passphrase instead, or Enter for none:"))
        if first and self.terminal.secret(_("The same once more:")) != first:
            self.terminal.show_error(_("They are not the same."))
            return ""
        return first

    def choose(self) -> Conversation | None:
        """List what is kept, and let the person choose one; None: nothing."""
        if self.history.is_locked and self.history.needs_passphrase:
            self.history.unlock(self.terminal.secret(_("Passphrase of your conversations:")))
        try:
            summaries = self.history.list()[:_MOST_LISTED]
        except EncryptionError as error:
            self.terminal.show_error(str(error))
            return None
        if not summaries:
            self.terminal.show(_("There is no conversation yet."))
            return None
        chosen = self.terminal.choose(
            _("Conversations, the last one first:"),
            [f"{each.title} ({single_line(each.model)})" for each in summaries],
            _("Number of one to go on with, or Enter to go back:"),
        )
        return None if chosen is None else self.history.open(summaries[chosen].id)
