"""The collections: folders that questions are answered from. Add one, index it, choose those of
this chat, see what is in one, erase one."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from localllm.chat.documents.collection import CollectionInfo
from localllm.chat.documents.embedding import SUGGESTED, DocumentModels
from localllm.chat.documents.indexing import folder_changes
from localllm.chat.documents.service import Documents
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.app_words import app_words
from localllm.tui.places import MODELS
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.dialog import Dialog, DialogButton
from localllm.tui.screens.documents.add_folder import AddFolderScreen
from localllm.tui.screens.documents.indexed_files import IndexedFilesScreen
from localllm.tui.widgets.documents.collection_rows import (
    CollectionMarked,
    CollectionRow,
    CollectionRows,
)
from localllm.tui.widgets.key_hints import KeyHints

REFRESH_S = 1.0
"""While something is indexed."""


class CollectionsScreen(WorkScreen[tuple[str, ...]]):
    """All collections; the result are the names of those that this chat uses."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "use", N_("Use here"), id="collections.use",
                tooltip=N_("Answer the questions of this chat from it, or not any more")),
        Binding("a", "add", N_("Add a folder"), id="collections.add",
                tooltip=N_("Make a collection of a folder and index it")),
        Binding("u", "update", N_("Update"), id="collections.update",
                tooltip=N_("Read what is new or has changed")),
        Binding("x", "stop", N_("Stop"), id="collections.stop",
                tooltip=N_("Stop indexing; what is done is kept")),
        Binding("enter", "files", N_("Files"), id="collections.files",
                tooltip=N_("See what is indexed, and what is not and why")),
        Binding("backspace,delete", "erase", N_("Erase"), id="collections.erase",
                tooltip=N_("Erase what was indexed; the files of the folder stay")),
        Binding("m", "models", N_("Get a model"), id="collections.models", show=False,
                tooltip=N_("Go to the models, to get one that searches by meaning")),
        Binding("escape,q", "close", N_("Done"), id="collections.close",
                tooltip=N_("Return to the conversation")),
    ]  # fmt: skip

    def __init__(self, chosen: Sequence[str] = ()) -> None:
        super().__init__()
        self._chosen = list(chosen)
        self._infos: tuple[CollectionInfo, ...] = ()
        self._changes: dict[str, int] = {}
        self._models: DocumentModels | None = None
        self._timer_runs = False

    @property
    def documents(self) -> Documents:
        return self.services.documents

    def compose(self) -> ComposeResult:
        yield Static(Content(_("Documents")), id="source-title")
        yield Static(Content(), id="source-remark")
        with VerticalScroll(id="collections", can_focus=False):
            yield CollectionRows()
            yield Static(Content(), id="collections-hint")
        yield KeyHints()

    def on_mount(self) -> None:
        self.query_one(CollectionRows).focus()
        self.documents.observers.append(self._show)
        self._timer = self.set_interval(REFRESH_S, self._show, pause=True)
        self.read()

    def on_unmount(self) -> None:
        self.documents.observers.remove(self._show)

    # --- what is shown ---

    @work(exclusive=True, group="read", exit_on_error=False)
    async def read(self, *, go_to: str = "") -> None:
        """Read the list, then how each folder differs from what is indexed of it."""
        try:
            self._infos = await asyncio.to_thread(self.documents.collections.list)
        except LocalLLMError as error:
            self._show_remark(str(error))
            return
        self._models = await self.documents.models()
        self._show()
        if go_to:
            self.query_one(CollectionRows).go_to(go_to)
        for info in self._infos:
            if info.id not in self.documents.running:
                self._changes[info.id] = await asyncio.to_thread(self._count_changes, info)
                self._show()

    def _count_changes(self, info: CollectionInfo) -> int:
        try:
            return folder_changes(self.documents.collections.open(info.id)).count
        except LocalLLMError:  # the folder is gone: said when somebody updates
            return 0

    def _show(self) -> None:
        if not self.is_mounted:
            return
        documents = self.documents
        self.query_one(CollectionRows).show(
            [
                CollectionRow(
                    info=info,
                    used=info.name in self._chosen,
                    state=documents.state(info.id),
                    changes=self._changes.get(info.id),
                )
                for info in self._infos
            ]
        )
        ended = [each.id for each in self._infos if each.id not in documents.running]
        if len(ended) < len(self._infos):
            self._timer.resume()
        elif self._timer_runs:
            self._timer.pause()
            self.read()
        self._timer_runs = len(ended) < len(self._infos)
        self._show_remark(self._kept_line())
        hint = self.query_one("#collections-hint", Static)
        hint.update(literal.lines(self._hint()))
        self.refresh_bindings()

    def _kept_line(self) -> str:
        size = format_bytes(sum(each.stored_bytes for each in self._infos))
        if self.documents.collections.are_kept:
            return _("encrypted on this disk, {size}").format(size=size)
        return _("in memory until localllm ends, {size}").format(size=size)

    def _show_remark(self, text: str) -> None:
        self.query_one("#source-remark", Static).update(literal.line(app_words(text)))

    def _hint(self) -> str:
        parts = []
        if not self._infos:
            parts.append(
                _(
                    "There is no collection yet. Press a and choose a folder: its texts and PDF "
                    "files are indexed on this machine, and questions are answered from them, with "
                    "the places named."
                )
            )
        if self._models is not None and self._models.embedding is None:
            parts.append(
                _(
                    "Searched by words alone: no embedding model is installed. {small} (English, "
                    "some 45 MB) or {large} (100 languages) also finds what is said in other "
                    "words: m goes to the models."
                ).format(small=SUGGESTED[0], large=SUGGESTED[1])
            )
        return "\n\n".join(parts)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what cannot be done with the collection under the cursor."""
        if action not in ("use", "update", "stop", "files", "erase") or not self.is_mounted:
            return True
        row = self.query_one(CollectionRows).current
        if row is None:
            return None
        running = row.info.id in self.documents.running
        match action:
            case "stop":
                return running or None
            case "update":
                return (not running) or None
        return True

    @on(CollectionMarked)
    def _marked(self, event: CollectionMarked) -> None:
        event.stop()
        self.refresh_bindings()

    # --- what is done ---

    @property
    def _current(self) -> CollectionInfo | None:
        row = self.query_one(CollectionRows).current
        return None if row is None else row.info

    def action_use(self) -> None:
        if (info := self._current) is None:
            return
        if info.name in self._chosen:
            self._chosen.remove(info.name)
        else:
            self._chosen.append(info.name)
        self._show()

    @work(exclusive=True, group="add", exit_on_error=False)
    async def action_add(self) -> None:
        info = await self.ask(AddFolderScreen(self.documents))
        if info is not None:
            self._chosen.append(info.name)
            self.documents.start_indexing(info.id)
            self.read(go_to=info.id)

    def action_update(self) -> None:
        if (info := self._current) is not None:
            self._changes.pop(info.id, None)
            self.documents.start_indexing(info.id)
            self._show()

    @work(group="stop", exit_on_error=False)
    async def action_stop(self) -> None:
        if (info := self._current) is not None:
            await self.documents.stop_indexing(info.id)

    @work(exclusive=True, group="files", exit_on_error=False)
    async def action_files(self) -> None:
        if (info := self._current) is not None:
            try:
                collection = await asyncio.to_thread(self.documents.collections.open, info.id)
            except LocalLLMError as error:
                self._show_remark(str(error))
                return
            self.open(IndexedFilesScreen(collection))

    @work(exclusive=True, group="erase", exit_on_error=False)
    async def action_erase(self) -> None:
        if (info := self._current) is None:
            return
        choice = await self.ask(
            Dialog(
                title=_("Erase {name}?").format(name=info.name),
                message=_("What was indexed of {root} is erased for good.").format(root=info.root),
                remark=_("The files of the folder stay as they are."),
                buttons=(
                    DialogButton(id="keep", label=_("Keep it")),
                    DialogButton(id="erase", label=_("Erase it")),
                ),
            )
        )
        if choice == "erase":
            try:
                await self.documents.erase(info.id)
            except LocalLLMError as error:
                self._show_remark(str(error))
                return
            if info.name in self._chosen:
                self._chosen.remove(info.name)
            self.read()

    def action_models(self) -> None:
        self.action_close()
        self.frame.go_to(MODELS)

    def action_close(self) -> None:
        names = {each.name for each in self._infos}
        self.leave(tuple(each for each in self._chosen if each in names))
