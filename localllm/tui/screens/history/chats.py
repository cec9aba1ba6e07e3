"""All conversations: found by what was said in them, opened, named, put into folders, pinned,
written to files, erased."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar
from uuid import uuid4

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from localllm.chat.conversation import Conversation
from localllm.chat.history.export import ExportFormat, file_name, write_export
from localllm.chat.history.history import History, HistoryChoice
from localllm.chat.history.store import ConversationSummary, SearchHit
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError
from localllm.library.files.paths import absolute
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.dialog import Dialog, DialogButton
from localllm.tui.screens.history.keep import ask_how_to_keep, unlock
from localllm.tui.screens.history.line_input import LineScreen
from localllm.tui.widgets.history.chat_rows import ChatRows

Result = TypeVar("Result")

SEARCH_DELAY_S = 0.15
_SHOWN_AFTER = 50
"""Conversations that are found between two draws of the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatsResult:
    """What to show: a conversation, or a new one (None). `erased`: those that are gone."""

    conversation: Conversation | None = None
    is_new: bool = False
    erased: frozenset[str] = frozenset()


def _key(key: str, action: str, name: str, meaning: str, *, show: bool = True) -> Binding:
    return Binding(key, action, name, id=f"history.{action}", tooltip=meaning, show=show)


class ChatsScreen(WorkScreen[ChatsResult], ModalScreen[ChatsResult]):
    """The window; `current` is the id of the conversation that is open behind it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        _key("n", "new", N_("New"), N_("Begin another chat")),
        _key("r", "rename", N_("Rename"), N_("Name this chat")),
        _key("p", "pin", N_("Pin"), N_("Keep this chat at the top, and from being erased by age")),
        _key("m", "move", N_("Folder"), N_("Put this chat into a folder")),
        _key("e", "export", N_("Export"), N_("Write this chat to a file: Markdown, JSON or HTML")),
        _key("backspace,delete", "erase", N_("Erase"), N_("Erase this chat for good")),
        _key("slash", "find", N_("Find"), N_("Find chats by their words")),
        _key("f", "folder", N_("Next folder"), N_("Show one folder after another"), show=False),
        _key("i", "import", N_("Import"), N_("Take over chats of another program"), show=False),
        _key("b", "copy", N_("Copy"), N_("Go on in a copy; this chat stays as it is"), show=False),
        _key("A", "erase_all", N_("Erase all"), N_("Erase every chat for good"), show=False),
        _key("u", "unlock", N_("Unlock"), N_("Open the chats on the disk"), show=False),
        _key("w", "keep", N_("How kept"), N_("Choose whether and how chats are kept"), show=False),
        _key("escape", "close", N_("Close"), N_("Back to the chat"), show=False),
    ]

    def __init__(self, current: str = "") -> None:
        super().__init__()
        self._open_id = current
        self._folder: str | None = None
        self._erased: frozenset[str] = frozenset()

    @property
    def history(self) -> History:
        return self.services.conversations

    def compose(self) -> ComposeResult:
        with Vertical(id="chats"):
            with Horizontal(id="chats-head"):
                yield Static(_("Chats"), id="chats-title")
                yield Static(id="chats-kept")
            with Horizontal(id="chats-search"):
                yield Input(
                    placeholder=_("/ finds words in all chats"), id="chats-find", compact=True
                )
                yield Static(id="chats-count")
            yield ChatRows(id="chats-rows")
            yield Static(id="chats-problem")

    def on_mount(self) -> None:
        self.rows.focus()
        self.search()

    @property
    def rows(self) -> ChatRows:
        return self.query_one(ChatRows)

    @property
    def current(self) -> ConversationSummary | None:
        hit = self.rows.current
        return None if hit is None else hit.summary

    # --- what is shown ---

    @on(Input.Changed, "#chats-find")
    def _typed(self) -> None:
        self.search(delay_s=SEARCH_DELAY_S)

    @on(Input.Submitted, "#chats-find")
    def _submitted(self) -> None:
        self.rows.focus()

    def on_key(self, event: events.Key) -> None:
        if event.key == "down" and self.query_one("#chats-find", Input).has_focus:
            event.stop()
            self.rows.focus()

    @work(exclusive=True, group="search", exit_on_error=False)
    async def search(self, *, delay_s: float = 0.0) -> None:
        """Show the chats that have the words that are typed; those of the list without any."""
        if delay_s:
            await asyncio.sleep(delay_s)
        text = self.query_one("#chats-find", Input).value
        history = self.history
        try:
            summaries = await asyncio.to_thread(history.list)
            if not text.strip():
                self._show([SearchHit(summary=each) for each in summaries], len(summaries))
                if self._open_id:
                    self.rows.move_to(self._open_id)
                    self._open_id = ""
                await self._show_state(len(summaries))
                return
            found: list[SearchHit] = []
            hits = history.search(text)
            while part := await asyncio.to_thread(_next, hits, _SHOWN_AFTER):
                found += part
                self._show(found, len(summaries))
            self._show(found, len(summaries))
        except LocalLLMError as error:
            self._problem(str(error))

    def _show(self, hits: list[SearchHit], total: int) -> None:
        folder = self._folder
        shown = [each for each in hits if folder is None or each.summary.folder == folder]
        self.rows.show(shown)
        count = _("{shown} of {total}").format(shown=len(shown), total=total)
        if folder is not None:
            count = f"{single_line(folder) or _('no folder')} · {count}"
        self.query_one("#chats-count", Static).update(literal.line(count))
        self.refresh_bindings()

    async def _show_state(self, count: int) -> None:
        history = self.history
        size = await asyncio.to_thread(history.size_bytes) if history.is_on_disk else 0
        self.query_one("#chats-kept", Static).update(literal.line(kept_text(history, size)))
        damaged = len(await asyncio.to_thread(history.problems))
        if history.is_locked:
            self._problem(_("The chats on this disk are locked: u opens them."))
        elif damaged:
            text = ngettext("{count} chat is damaged.", "{count} chats are damaged.", damaged)
            self._problem(text.format(count=damaged))
        elif not count:
            self._problem(_("No chats yet."))
        else:
            self._problem("")

    def _problem(self, text: str) -> None:
        line = self.query_one("#chats-problem", Static)
        line.update(literal.line(text))
        line.display = bool(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what needs a chat; single letters are for the words while some are typed."""
        if action in ("rename", "pin", "move", "export", "copy", "erase"):
            return (bool(self.query("#chats-rows")) and self.current is not None) or None
        if action == "unlock":
            return self.history.is_locked
        return True

    # --- what can be done ---

    @on(ChatRows.Chosen)
    def _chosen(self, event: ChatRows.Chosen) -> None:
        event.stop()
        self.open_chat(event.hit.summary.id, as_copy=False)

    @work(exclusive=True, group="open", exit_on_error=False)
    async def open_chat(self, conversation_id: str, *, as_copy: bool) -> None:
        conversation = await self._done(lambda: self.history.open(conversation_id))
        if conversation is not None:
            if as_copy:
                conversation = replace(conversation, id=uuid4().hex, pinned=False)
            self.leave(ChatsResult(conversation=conversation, erased=self._erased))

    def action_copy(self) -> None:
        if (summary := self.current) is not None:
            self.open_chat(summary.id, as_copy=True)

    def action_new(self) -> None:
        self.leave(ChatsResult(is_new=True, erased=self._erased))

    def action_close(self) -> None:
        find = self.query_one("#chats-find", Input)
        if find.value:
            find.value = ""
            self.rows.focus()
        elif find.has_focus:
            self.rows.focus()
        else:
            self.leave(ChatsResult(erased=self._erased))

    def action_find(self) -> None:
        self.query_one("#chats-find", Input).focus()

    def action_folder(self) -> None:
        self.next_folder()

    @work(exclusive=True, group="search", exit_on_error=False)
    async def next_folder(self) -> None:
        folders = await self._done(self.history.folders)
        choices: list[str | None] = [None, *(folders or ()), ""] if folders else [None]
        at = choices.index(self._folder) + 1 if self._folder in choices else 0
        self._folder = choices[at % len(choices)]
        self.search()

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_rename(self) -> None:
        if (summary := self.current) is None:
            return
        title = await self.ask(LineScreen(title=_("The name of this chat"), value=summary.title))
        if title is not None:
            await self._done(lambda: self.history.change(summary.id, title=title))
            self.search()

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_move(self) -> None:
        if (summary := self.current) is None:
            return
        folders = await self._done(self.history.folders) or ()
        known = _("There are: {folders}").format(folders=", ".join(folders)) if folders else ""
        screen = LineScreen(
            title=_("The folder of this chat"),
            message=_("Empty takes it out of its folder.") + (f" {known}" if known else ""),
            value=summary.folder,
            choices=folders,
        )
        folder = await self.ask(screen)
        if folder is not None:
            await self._done(lambda: self.history.change(summary.id, folder=folder))
            self.search()

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_pin(self) -> None:
        if (summary := self.current) is not None:
            pinned = not summary.pinned
            await self._done(lambda: self.history.change(summary.id, pinned=pinned))
            self.search()

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_export(self) -> None:
        if (summary := self.current) is None:
            return
        conversation = await self._done(lambda: self.history.open(summary.id))
        if conversation is None:
            return
        screen = LineScreen(
            title=_("Write this chat to a file"),
            message=_(
                "The ending says how: .md, .html, or .json with every version. The file is not"
                " encrypted."
            ),
            value=str(Path.cwd() / file_name(conversation, ExportFormat.MARKDOWN)),
        )
        if name := await self.ask(screen):
            path = absolute(Path(name))
            if await self._done(lambda: write_export(conversation, path)) is not None:
                self._problem(_("Written to {file}.").format(file=path))

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_import(self) -> None:
        from localllm.chat.history.importing.read import read_import

        screen = LineScreen(
            title=_("Take over chats of another program"),
            message=_(
                "The file that ChatGPT, Claude, Open WebUI, LM Studio, Jan or llm has written; a"
                " ZIP as it came will do. Nothing in it is changed."
            ),
        )
        if not (name := await self.ask(screen)):
            return
        self._problem(_("Reading …"))
        path = absolute(Path(name))
        imported = await self._done(lambda: read_import(path))
        if imported is None:
            return
        new = await self._done(lambda: self.history.add(imported.conversations))
        if new is None:
            return
        text = ngettext("{count} chat was taken over.", "{count} chats were taken over.", new)
        remarks = [text.format(count=new)]
        if known := len(imported.conversations) - new:
            remarks.append(_("{count} were there already.").format(count=known))
        if imported.skipped:
            remarks.append(_("{count} could not be read.").format(count=imported.skipped))
        await self.search().wait()
        self._problem(" ".join(remarks))

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_erase(self) -> None:
        if (summary := self.current) is None:
            return
        dialog = Dialog(
            title=_("Erase this chat?"),
            message=summary.title,
            remark=_("It cannot be brought back: its key is erased too."),
            buttons=(
                DialogButton(id="erase", label=N_("Erase")),
                DialogButton(id="stay", label=N_("Keep it")),
            ),
        )
        if await self.ask(dialog) == "erase":
            await self._done(lambda: self.history.erase(summary.id))
            self._erased |= {summary.id}
            self.search()

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_erase_all(self) -> None:
        count = await self._done(lambda: len(self.history.list()))
        locked = self.history.is_locked
        if locked:
            count = await self._done(self.history.count_on_disk)
        if not count:
            return
        dialog = Dialog(
            title=_("Erase all chats?"),
            message=ngettext(
                "{count} chat is erased for good.", "{count} chats are erased for good.", count
            ).format(count=count),
            buttons=(
                DialogButton(id="stay", label=N_("Keep them")),
                DialogButton(id="erase", label=N_("Erase all")),
            ),
        )
        if await self.ask(dialog) == "erase":
            listed = await self._done(self.history.list) or ()
            await self._done(self.history.erase_all)
            self._erased |= {each.id for each in listed}
            self.search()

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_unlock(self) -> None:
        await unlock(self)
        self.search()

    @work(exclusive=True, group="change", exit_on_error=False)
    async def action_keep(self) -> None:
        await ask_how_to_keep(self)
        self.search()

    async def _done(self, work_: Callable[[], Result]) -> Result | None:
        """Run something that may wait for a disk; say why it failed. None then."""
        try:
            return await asyncio.to_thread(work_)
        except LocalLLMError as error:
            self._problem(str(error))
            return None


def kept_text(history: History, size_bytes: int) -> str:
    """Say how conversations are kept now."""
    if history.is_on_disk:
        return _("encrypted on this disk, {size}").format(size=format_bytes(size_bytes))
    if history.is_locked:
        return _("locked; new ones in memory only")
    if history.choice is HistoryChoice.OFF:
        return _("not kept")
    return _("in memory only, until localllm ends")


def _next(hits: Iterator[SearchHit], count: int) -> list[SearchHit]:
    return list(itertools.islice(hits, count))
