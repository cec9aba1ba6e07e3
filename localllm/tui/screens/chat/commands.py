"""The slash commands of the chat place: what they do there. The table that both front ends share is
in `chat/commands`."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.chat.commands.completion import CompletionSources, complete
from localllm.chat.commands.document_actions import DocumentActions
from localllm.chat.commands.library_actions import LibraryActions
from localllm.chat.commands.table import path_argument
from localllm.chat.history.export import ExportFormat, file_name, write_export
from localllm.chat.history.titles import title_of
from localllm.chat.settings import ChatSettings
from localllm.errors import LocalLLMError, UsageError
from localllm.library.files import paths
from localllm.library.files.names import printable
from localllm.translation import _
from localllm.tui.places import CHAT
from localllm.tui.screens.chat.session import last_answer, last_question
from localllm.tui.screens.chat.windows import ChatWindows
from localllm.tui.screens.chat_settings.choice_window import ChoiceWindow, Row
from localllm.tui.screens.chat_settings.text_window import NoteWindow, TextWindow
from localllm.tui.screens.dialog import delete_dialog
from localllm.tui.widgets.prompt import Completer, PromptCompletion

if TYPE_CHECKING:  # imported when somebody uses documents
    from localllm.chat.documents.collection import CollectionInfo
    from localllm.chat.documents.service import Documents


class ScreenCommands(LibraryActions, DocumentActions):
    """The commands, on the conversation that a screen shows."""

    def __init__(self, screen: ChatWindows) -> None:
        super().__init__(tools=screen.local_tools)
        self._screen = screen

    @property
    def settings(self) -> ChatSettings:
        return self._screen.conversation.settings

    async def change_settings(self, settings: ChatSettings) -> None:
        await self._screen.change_settings(settings)

    async def show(self, text: str) -> None:
        if "\n" in text or len(text) > 120:
            await self._screen.ask(NoteWindow(_("Chat"), text))
            self._screen.prompt_box.prompt.focus()
        else:
            self._screen.show_status(text)

    @property
    def model_name(self) -> str:
        return "" if self._screen.model is None else self._screen.model.name

    async def ask(self, label: str, default: str) -> str | None:
        return await self._screen.ask(TextWindow(label, default))

    async def compose(self, text: str) -> None:
        self._screen.prompt_box.put_back(text)
        self._screen.prompt_box.prompt.focus()

    # --- commands ---

    async def set(self, argument: str) -> None:
        if argument:
            await super().set(argument)
        else:
            self._screen.action_settings()

    async def prompt(self, argument: str) -> None:
        if not argument:
            argument = await self._chosen_prompt()
        if argument:
            await super().prompt(argument)

    async def _chosen_prompt(self) -> str:
        """List the prompts, write, change and delete some; return the one to use, "" for none."""
        library, selected = self.prompt_library, ""
        while True:
            rows = [
                Row(id=each.name, name=each.name, remark=each.summary) for each in library.prompts()
            ]
            keys = {"n": _("new"), "e": _("change"), "x": _("delete")}
            window = ChoiceWindow(_("Prompts"), rows, keys=keys, enter=_("use"), selected=selected)
            chosen = await self._screen.ask(window)
            if chosen is None or chosen.key == "enter":
                return "" if chosen is None else chosen.id
            selected = chosen.id
            if chosen.key == "x":
                if await self._screen.ask(delete_dialog(chosen.id)) == "delete":
                    library.delete(chosen.id)
            elif chosen.key == "e":
                await self._write_prompt(chosen.id, library.find(chosen.id).text)
            elif name := await self.ask(_("The name of the new prompt"), ""):
                known = {each.lower() for each in library.names()}  # nothing is written over
                text = library.find(name).text if name.strip().lower() in known else ""
                await self._write_prompt(name, text)
                selected = name

    async def _write_prompt(self, name: str, text: str) -> None:
        remark = _("{{name}} is asked for when the prompt is used; {{name=value}} offers a value.")
        written = await self._screen.ask(TextWindow(name, text, remark))
        if written is not None and written.strip():
            self.prompt_library.save(name, written)

    async def new(self, argument: str) -> None:
        self._screen.action_new()

    async def again(self, argument: str) -> None:
        self._screen.action_again()

    async def edit(self, argument: str) -> None:
        self._screen.edit_last()
        if argument and (question := last_question(self._screen.conversation)) is not None:
            self._screen.prompt_box.set_draft(argument, question.attachments)
            self._screen.prompt_box.send()

    async def version(self, argument: str) -> None:
        answer = last_answer(self._screen.conversation)
        if answer is None:
            raise UsageError(_("There is no answer yet."))
        versions = self._screen.conversation.versions(answer.id)
        if argument:
            if not argument.isdecimal() or not 1 <= int(argument) <= len(versions):
                raise UsageError(
                    _("There are the versions 1 to {count}.").format(count=len(versions))
                )
            shown = versions[int(argument) - 1]
            self._screen.change_conversation(self._screen.conversation.showing(shown.id))
        number = [each.id for each in versions].index(answer.id) + 1
        await self.show(
            _("Version {number} of {count}.").format(number=argument or number, count=len(versions))
        )

    async def file(self, argument: str) -> None:
        attachment, remarks = await self._screen.read_attachment(Path(path_argument(argument)))
        self._screen.prompt_box.attach(attachment)
        if remarks:
            await self.show(" ".join(remarks))

    async def image(self, argument: str) -> None:
        await self.file(argument)

    async def open_documents(self) -> "Documents":
        return self._screen.documents

    async def docs(self, argument: str) -> None:
        if argument:
            await super().docs(argument)
        else:
            self._screen.action_documents()

    async def index_collection(self, documents: "Documents", info: "CollectionInfo") -> None:
        documents.start_indexing(info.id)
        await self.show(_("{name} is indexed in the background.").format(name=info.name))

    async def model(self, argument: str) -> None:
        if not argument:
            self._screen.action_models()
            return
        model = self._screen.runtime.resolve(argument)
        self._screen.open_with(model, self._screen.conversation, came_from=CHAT)

    async def context(self, argument: str) -> None:
        readings = self._screen.meter_log.readings()
        if argument or readings.context_used is None or self._screen.resident is None:
            await super().context(argument)
            return
        await self.show(
            _("{used} of {context} tokens are used. /context TOKENS changes its length.").format(
                used=readings.context_used, context=self._screen.resident.loaded.context
            )
        )

    async def find(self, argument: str) -> None:
        self._screen.action_find()
        if not self._screen.find(argument):
            self._screen.show_status(_("{text} is nowhere in it.").format(text=argument[:40]))

    async def title(self, argument: str) -> None:
        conversation = self._screen.conversation
        if argument:
            self._screen.change_conversation(replace(conversation, title=argument[:200]))
        else:
            await self.show(title_of(conversation) or _("There is no title yet."))

    async def export(self, argument: str) -> None:
        conversation = self._screen.conversation
        name = path_argument(argument) or file_name(conversation, ExportFormat.MARKDOWN)
        path = await asyncio.to_thread(write_export, conversation, paths.absolute(Path(name)))
        await self.show(_("Written to {path}.").format(path=printable(path)))

    async def copy(self, argument: str) -> None:
        if argument and argument.lower() != "code":
            raise UsageError(_("/copy copies the last answer, /copy code the code in it."))
        if argument:
            self._screen.action_copy_code()
        else:
            self._screen.action_copy_message()

    async def tokens(self, argument: str) -> None:
        self._screen.action_tokens()

    async def duel(self, argument: str) -> None:
        if argument:
            self._screen.runtime.resolve(argument)  # a mistyped name is told at once
        self._screen.open_duel(argument)

    async def info(self, argument: str) -> None:
        self._screen.action_memory()

    async def quit(self, argument: str) -> None:
        await self._screen.app.run_action("quit")

    # --- completion ---

    def completer(self) -> Completer:
        """Make the completer of the prompt."""
        sources = CompletionSources(
            models=self._names(lambda: [each.name for each in self._screen.runtime.installed()]),
            presets=self._names(
                lambda: [each.name for each in self.preset_store.presets(self.model_name)]
            ),
            prompts=self._names(self.prompt_library.names),
            tools=self._names(lambda: [each.name for each in self.local_tools]),
        )

        def completions(before: str) -> Sequence[PromptCompletion]:
            return [
                PromptCompletion(text=each.text, start=each.start, help=each.help)
                for each in complete(before, self.supported(), sources)
            ]

        return completions

    @staticmethod
    def _names(names: Callable[[], Sequence[str]]) -> Callable[[], Sequence[str]]:
        def found() -> Sequence[str]:
            try:
                return names()
            except LocalLLMError:  # a damaged file completes nothing, and is told when it is used
                return ()

        return found
