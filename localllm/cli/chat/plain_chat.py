"""A conversation on a plain terminal: what `run` holds without a prompt, and the accessible mode.

One class for the conversation; two terminals to hold it on (`terminal.py`). The slash commands are
those of the app (`chat/commands`), so that nobody learns them twice.
"""

import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.chat.citations import source_line
from localllm.chat.commands.completion import CompletionSources
from localllm.chat.commands.document_actions import DocumentActions
from localllm.chat.commands.table import parse_line, path_argument, question_text
from localllm.chat.conversation import Citation, Conversation
from localllm.chat.history.history import History
from localllm.chat.presets import PresetStore
from localllm.chat.prompts import PromptLibrary
from localllm.chat.settings import ChatSettings
from localllm.chat.tools.loop import AgentLoop
from localllm.chat.tools.tool import Arguments, LocalTool
from localllm.chat.tools.toolbox import chosen_tools, local_tools
from localllm.cli.chat.attached_files import AttachedFiles
from localllm.cli.chat.client import ChatClient
from localllm.cli.chat.conversation_actions import ConversationActions, snippet
from localllm.cli.chat.line_terminal import LineTerminal
from localllm.cli.chat.terminal import ChatTerminal
from localllm.core.sizing.load import KvType
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.engine.messages import FinishReason, Role, Tool
from localllm.errors import DoesNotFit, EncryptionError, LocalLLMError
from localllm.library.files.settings import load as load_settings
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.translation import _

if TYPE_CHECKING:  # imported when somebody uses documents
    from localllm.chat.documents.service import Documents

LoadModel = Callable[[InstalledModel, LoadChoice], Awaitable[ResidentModel]]
"""Load a model, showing how far it is."""


class PlainChat(ConversationActions, DocumentActions):
    """Hold the conversation of `client` on a terminal, until the person leaves.

    `choice` is how its model was loaded; `load` loads one again, or another one.
    """

    def __init__(
        self,
        client: ChatClient,
        terminal: ChatTerminal,
        *,
        history: History,
        choice: LoadChoice,
        load: LoadModel,
    ) -> None:
        super().__init__(client, terminal, history)
        self._choice = choice
        self._load = load
        self._files = AttachedFiles(client=client)
        self._documents: Documents | None = None
        self._prepared = ""
        self._leaving = False

    def converse(self) -> None:
        """Answer question after question. Each runs by itself, so that Ctrl+C ends one answer."""
        runner = self._client.runner
        while not self._leaving:
            prepared, self._prepared = self._prepared, ""
            text = runner.run(self._terminal.read(default=prepared))
            if text is None:
                return
            if not text.strip():
                continue
            try:
                runner.run(self.take(text))
            except KeyboardInterrupt:  # what was under way was no answer
                self._terminal.show(_("Stopped."))

    async def take(self, text: str) -> None:
        """Run a command or ask a question, and show why it cannot be done."""
        try:
            line = parse_line(text)
            if line is None:
                await self._ask(question_text(text))
            else:
                await self.run(line)
        except LocalLLMError as error:
            self._terminal.show_error(str(error))

    # --- questions ---

    async def _ask(self, text: str) -> None:
        await self._show_lines(await self._files.attach_referenced(text))
        attachments, remarks = await self._files.take(text)
        await self._show_lines(remarks)
        sources = await self._sources(text)
        self._client.add_question(text, attachments, sources=sources, after=self._conversation.leaf)
        await self._answer()

    async def _sources(self, text: str) -> tuple[Citation, ...]:
        """Find the passages of the chosen collections for a question."""
        if not self.settings.collections:
            return ()
        documents = await self.open_documents()
        found = await documents.sources_for(
            self.settings.collections,
            text,
            path=self._conversation.path(),
            resident=self._client.resident,
            used=self._used_tokens(),
            max_tokens=self.settings.max_tokens,
        )
        await self._show_lines(found.remarks)
        return found.sources

    async def open_documents(self) -> "Documents":
        if self._documents is None:
            from localllm.cli.chat.documents import open_documents

            self._documents = await open_documents(self._client.runtime)
        return self._documents

    async def _answer(self) -> None:
        tools = chosen_tools(self.settings.tools, self.local_tools)
        if not tools:
            await self._answer_with(())
            return
        loop = AgentLoop(
            tools=tools,
            approve=self._approve,
            answer=self._answer_in_loop,
            changed=self._show_result,
            clock=time.time,
        )
        await loop.run(self._conversation)

    async def _answer_in_loop(
        self, conversation: Conversation, tools: tuple[Tool, ...]
    ) -> Conversation:
        self._show_branch(conversation)
        await self._answer_with(tools)
        return self._conversation

    async def _answer_with(self, tools: tuple[Tool, ...]) -> None:
        output = self._terminal.answer_output(self.model_name)
        with self._terminal.answering():
            answer = await self._client.answer(output, tools=tools)
        if answer.stopped and not self._client.stats:
            await self.show(_("Stopped. What has come is kept; /again answers once more."))
        elif answer.finished is not None and answer.finished.reason is FinishReason.LENGTH:
            await self.show(_("The answer was cut: its limit of tokens was reached."))
        await self._show_lines(map(source_line, self._conversation.path()[-1].citations))
        self._client.print_stats(answer)

    async def _approve(self, tool: LocalTool, arguments: Arguments) -> bool:
        what = f"{tool.name}({json.dumps(arguments, ensure_ascii=False)})"
        answer = await self._terminal.ask(
            _("The model wants {call}. Allow it, yes or no?").format(call=single_line(what))
        )
        return (answer or "").strip().casefold() in {"y", "yes", _("yes"), _("yes")[:1]}

    async def _show_result(self, conversation: Conversation) -> None:
        self._show_branch(conversation)
        result = conversation.path()[-1]
        await self.show(
            _("Tool {name}: {result}").format(
                name=single_line(result.tool_name or ""), result=snippet(result.text)
            )
        )

    @property
    def model_name(self) -> str:
        return self._client.resident.model.name

    async def ask(self, label: str, default: str) -> str | None:
        return await self._terminal.ask(f"{label}:", default=default)

    async def compose(self, text: str) -> None:
        self._prepared = text

    async def new(self, argument: str) -> None:
        self._files.waiting = []
        await super().new(argument)

    # --- files ---

    async def file(self, argument: str) -> None:
        await self._show_lines(await self._files.attach(Path(path_argument(argument))))

    async def image(self, argument: str) -> None:
        resident = self._client.resident
        if not resident.loaded.vision and resident.model.mmproj is not None:
            await self._use(resident.model, replace(self._choice, vision=True))
        await self.file(argument)

    # --- the model ---

    async def model(self, argument: str) -> None:
        installed = self._client.runtime.installed()
        if not argument:
            current = self._client.resident.model.name
            await self.show(
                "\n".join(
                    f"{'*' if each.name == current else ' '} {single_line(each.name)}"
                    f"  {each.quant or ''}  {format_bytes(each.size_bytes)}"
                    for each in installed
                )
            )
            return
        await self._use(self._client.runtime.resolve(argument), self._choice)
        await self.show(
            _("{name} answers from here on.").format(
                name=single_line(self._client.resident.model.name)
            )
        )

    async def _use(self, model: InstalledModel, choice: LoadChoice) -> None:
        """Go on with this model, loaded like this; with the one before when that fails."""
        runtime, before = self._client.runtime, self._client.resident
        try:
            try:
                resident = await self._load(model, choice)
            except DoesNotFit:
                if model.name == before.model.name:
                    raise
                await runtime.unload(before.model.name)  # both do not fit
                resident = await self._load(model, choice)
        except LocalLLMError:
            if not runtime.holds(before.model.name):
                self._client.resident = await self._load(before.model, self._choice)
            raise
        self._client.resident, self._choice = resident, choice
        if resident.model.name != before.model.name and runtime.holds(before.model.name):
            await runtime.unload(before.model.name)
        for warning in resident.warnings:
            await self.show(warning)

    async def info(self, argument: str) -> None:
        resident = self._client.resident
        context = resident.loaded.context
        used = self._used_tokens()
        lines = [
            f"{single_line(resident.model.name)} {resident.model.quant or ''}".rstrip(),
            resident.comparison.sentence(),
            _("{used} of {context} tokens of context are used.").format(used=used, context=context),
            self._kept_text(),
        ]
        await self.show("\n".join(lines))

    def _used_tokens(self) -> int:
        return next(
            (
                each.stats.prompt_tokens + each.stats.completion_tokens
                for each in reversed(self._conversation.path())
                if each.stats is not None
            ),
            0,
        )

    async def quit(self, argument: str) -> None:
        self._leaving = True

    # --- what the commands of all front ends rest on ---

    @property
    def settings(self) -> ChatSettings:
        return self._conversation.settings

    async def change_settings(self, settings: ChatSettings) -> None:
        before = self.settings
        if (settings.context, settings.kv_type) != (before.context, before.kv_type):
            await self._use(self._client.resident.model, with_settings(self._choice, settings))
        self._show_branch(replace(self._conversation, settings=settings))

    async def show(self, text: str) -> None:
        self._terminal.show(text)

    async def _show_lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            await self.show(line)


def with_settings(choice: LoadChoice, settings: ChatSettings) -> LoadChoice:
    """Return the choice with what the settings of a conversation say of its load."""
    given = {"context": settings.context, "kv_type": settings.kv_type}
    return replace(
        choice,
        context=settings.context,
        kv_type=KvType(settings.kv_type) if settings.kv_type else KvType.F16,
        given=(choice.given - given.keys()) | {name for name, value in given.items() if value},
    )


def hold_conversation(
    client: ChatClient, *, choice: LoadChoice, load: LoadModel, accessible: bool
) -> None:
    """Converse on this process's terminal until the person leaves."""
    if accessible or not (sys.stdout.isatty() or sys.stderr.isatty()):
        terminal: ChatTerminal = LineTerminal(talk=sys.stderr, whole_sentences=sys.stdout.isatty())
    else:
        from localllm.cli.chat.editor import EditorTerminal

        asked = (each.text for each in client.conversation.path() if each.role is Role.USER)
        terminal = EditorTerminal(
            commands=lambda: chat.supported(),  # noqa: PLW0108  # it is made below
            sources=completion_sources(client.runtime),
            questions=tuple(asked),
        )
    with open_history(terminal, used=client.session.path is None) as history:
        if client.session.path is None:
            client.session.store = history
        chat = PlainChat(client, terminal, history=history, choice=choice, load=load)
        chat.converse()


@contextmanager
def open_history(terminal: ChatTerminal, *, used: bool = True) -> Iterator[History]:
    """Open the conversations of this user as they are kept; `used` False: in memory only, because
    this one is kept elsewhere. Says why what is kept cannot be opened."""
    history = History.of_this_user(load_settings()) if used else History.in_memory()
    try:
        history.start()
        if history.is_locked:
            terminal.show(_("What you keep is locked: /chats asks for its passphrase."))
    except EncryptionError as error:
        terminal.show_error(str(error))
    try:
        yield history
    finally:
        if not history.close():
            terminal.show_error(_("The last of the conversation could not be kept."))


def completion_sources(runtime: Runtime) -> CompletionSources:
    """Return the names that arguments of commands are completed from."""
    return CompletionSources(
        models=lambda: [each.name for each in runtime.installed()],
        presets=lambda: [each.name for each in PresetStore().presets()],
        prompts=PromptLibrary().names,
        tools=lambda: [each.name for each in local_tools()],
    )
