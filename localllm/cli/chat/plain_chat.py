"""A conversation on a plain terminal: what `run` holds without a prompt, and the accessible mode.

One class for the conversation; two terminals to hold it on (`terminal.py`). The slash commands are
those of the app (`chat/commands`), so that nobody learns them twice.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.chat.citations import source_line
from localllm.chat.commands.completion import CompletionSources
from localllm.chat.commands.document_actions import DocumentActions
from localllm.chat.commands.table import parse_line, path_argument, question_text
from localllm.chat.conversation import ChatMessage, Citation, Conversation
from localllm.chat.settings import ChatSettings
from localllm.cli.chat.answer import Answer, AnswerOutput
from localllm.cli.chat.attached_files import AttachedFiles
from localllm.cli.chat.client import ChatClient
from localllm.cli.chat.line_terminal import LineTerminal
from localllm.cli.chat.session_file import write_session
from localllm.cli.chat.terminal import ChatTerminal
from localllm.core.sizing.load import KvType
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.engine.messages import FinishReason, Role
from localllm.errors import DoesNotFit, LocalLLMError, UsageError
from localllm.library.files import paths
from localllm.library.files.names import printable
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.translation import _

if TYPE_CHECKING:  # imported when somebody uses documents
    from localllm.chat.documents.service import Documents

_SNIPPET_CHARS = 70

LoadModel = Callable[[InstalledModel, LoadChoice], Awaitable[ResidentModel]]
"""Load a model, showing how far it is."""


class PlainChat(DocumentActions):
    """Hold the conversation of `client` on a terminal, until the person leaves.

    `choice` is how its model was loaded; `load` loads one again, or another one.
    """

    def __init__(
        self,
        client: ChatClient,
        terminal: ChatTerminal,
        *,
        choice: LoadChoice,
        load: LoadModel,
    ) -> None:
        self._client = client
        self._terminal = terminal
        self._choice = choice
        self._load = load
        self._files = AttachedFiles(client=client)
        self._documents: Documents | None = None
        self._earlier: list[Conversation] = []
        self._leaving = False

    def converse(self) -> None:
        """Answer question after question. Each runs by itself, so that Ctrl+C ends one answer."""
        runner = self._client.runner
        while not self._leaving:
            text = runner.run(self._terminal.read())
            if text is None:
                return
            if text.strip():
                runner.run(self.take(text))

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
        leaf = self._conversation.leaf
        await self._answered(
            self._client.ask(
                text, self._output(), attachments=attachments, sources=sources, after=leaf
            )
        )

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

    async def again(self, argument: str) -> None:
        question = self._last_question()
        before = self._conversation
        self._show_branch(before.ending_at(question.id))
        await self._new_version(self._client.answer(self._output()), before)

    async def edit(self, argument: str) -> None:
        question = self._last_question()
        text = argument or await self._terminal.read(default=question.text)
        if text is None or not text.strip():
            return
        before = self._conversation
        asked = self._client.ask(
            text, self._output(), attachments=question.attachments, after=question.parent
        )
        await self._new_version(asked, before)

    async def _new_version(self, asked: Awaitable[Answer], before: Conversation) -> None:
        """Answer as a version beside what there is; when no answer comes, that is shown as
        before."""
        try:
            await self._answered(asked)
        finally:
            if self._conversation.path()[-1].role is Role.USER:
                self._show_branch(before)
        if len(answers := self._versions()) > 1:
            await self.show(
                _("This is version {number} of {count}; /version NUMBER shows another.").format(
                    number=self._shown(answers) + 1, count=len(answers)
                )
            )

    async def _answered(self, asked: Awaitable[Answer]) -> None:
        with self._terminal.answering():
            answer = await asked
        if answer.stopped and not self._client.stats:
            await self.show(_("Stopped. What has come is kept; /again answers once more."))
        elif answer.finished is not None and answer.finished.reason is FinishReason.LENGTH:
            await self.show(_("The answer was cut: its limit of tokens was reached."))
        await self._show_lines(map(source_line, self._conversation.path()[-1].citations))
        self._client.print_stats(answer)

    async def version(self, argument: str) -> None:
        answers = self._versions()
        if not answers:
            raise UsageError(_("There is no answer yet."))
        if not argument:
            shown = self._shown(answers)
            lines = [
                f"{'*' if index == shown else ' '} {index + 1}. {_snippet(each.text)}"
                for index, each in enumerate(answers)
            ]
            await self.show("\n".join(lines))
            return
        if not (argument.isdecimal() and 1 <= int(argument[:9]) <= len(answers)):
            raise UsageError(
                _("There are versions 1 to {count} of this answer.").format(count=len(answers))
            )
        chosen = answers[int(argument) - 1]
        self._show_branch(self._conversation.showing(chosen.id))
        self._print_last()

    def _versions(self) -> list[ChatMessage]:
        """Return all answers to all versions of the last question."""
        conversation = self._conversation
        questions = [each for each in conversation.path() if each.role is Role.USER]
        if not questions:
            return []
        asked = conversation.versions(questions[-1].id)
        return [answer for each in asked for answer in conversation.children(each.id)]

    def _shown(self, answers: list[ChatMessage]) -> int:
        shown = {each.id for each in self._conversation.path()}
        return next((i for i, each in enumerate(answers) if each.id in shown), len(answers) - 1)

    def _last_question(self) -> ChatMessage:
        for message in reversed(self._conversation.path()):
            if message.role is Role.USER:
                return message
        raise UsageError(_("Nothing was asked yet."))

    # --- conversations ---

    async def new(self, argument: str) -> None:
        if self._conversation.messages:
            self._earlier.append(self._conversation)
        self._files.waiting = []
        self._client.session.clear()
        await self.show(_("A new conversation. /chats lists the earlier ones of this run."))

    async def chats(self, argument: str) -> None:
        if argument.isdecimal() and 1 <= int(argument[:9]) <= len(self._earlier):
            opened = self._earlier.pop(int(argument) - 1)
            if self._conversation.messages:
                self._earlier.append(self._conversation)
            self._show_branch(replace(opened, settings=self.settings))
            self._print_last()
            return
        found = [
            f"{index}. {_title(each)}"
            for index, each in enumerate(self._earlier, 1)
            if argument.casefold() in _all_text(each).casefold()
        ]
        if not found:
            await self.show(
                _("No other conversation has that in it.")
                if argument
                else _("There is no other conversation. /new begins one.")
            )
            return
        await self.show("\n".join([*found, _("/chats NUMBER opens one.")]))

    async def title(self, argument: str) -> None:
        if argument:
            titled = replace(self._conversation, title=single_line(argument))
            self._show_branch(titled)
        await self.show(_title(self._conversation))

    async def find(self, argument: str) -> None:
        wanted, lines = argument.casefold(), []
        number = 0
        for message in self._conversation.path():
            number += message.role is Role.USER
            at = message.text.casefold().find(wanted)
            if at >= 0:
                near = message.text[max(0, at - _SNIPPET_CHARS // 2) :]
                what = _("question") if message.role is Role.USER else _("answer")
                lines.append(f"{what} {number}: {_snippet(near)}")
        await self.show("\n".join(lines) or _("Nothing here has that in it."))

    async def save(self, argument: str) -> None:
        session = self._client.session
        if not argument:
            if session.path is None:
                raise UsageError(_("Where? Write /save FILE."))
            session.save()
            await self.show(_("It is kept in {path}.").format(path=printable(session.path)))
            return
        path = paths.absolute(Path(path_argument(argument)))
        if path.exists() and path != session.path:
            raise UsageError(
                _("There is a file {path} already. Choose another name.").format(
                    path=printable(path)
                )
            )
        write_session(path, self._conversation)
        session.path = path
        await self.show(
            _(
                "It is kept in {path} from now on, not encrypted, readable by you alone;"
                " `localllm run MODEL --session FILE` goes on with it."
            ).format(path=printable(path))
        )

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
        session = self._client.session.path
        lines = [
            f"{single_line(resident.model.name)} {resident.model.quant or ''}".rstrip(),
            resident.comparison.sentence(),
            _("{used} of {context} tokens of context are used.").format(used=used, context=context),
            _("It is kept in {path}.").format(path=printable(session))
            if session
            else _("The conversation is in memory only; /save FILE keeps it."),
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

    async def open_documents(self) -> "Documents":
        if self._documents is None:
            from localllm.cli.chat.documents import open_documents

            self._documents = await open_documents(self._client.runtime)
        return self._documents

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

    @property
    def _conversation(self) -> Conversation:
        return self._client.session.conversation

    def _show_branch(self, conversation: Conversation) -> None:
        self._client.session.conversation = conversation
        self._client.session.save()

    def _output(self) -> AnswerOutput:
        return self._terminal.answer_output(self._client.resident.model.name)

    def _print_last(self) -> None:
        """Show the last question and its answer again."""
        for message in self._conversation.path()[-2:]:
            if message.role is Role.USER:
                self._terminal.show(_("You: {text}").format(text=message.text))
            else:
                output = self._output()
                output.write(message.text)
                output.finish()

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


def _title(conversation: Conversation) -> str:
    """Return the title, or the beginning of the first question."""
    questions = (each.text for each in conversation.path() if each.role is Role.USER)
    return conversation.title or _snippet(next(questions, "")) or _("(empty)")


def _all_text(conversation: Conversation) -> str:
    return "\n".join((conversation.title, *(each.text for each in conversation.messages)))


def _snippet(text: str) -> str:
    line = single_line(text)
    return line if len(line) <= _SNIPPET_CHARS else f"{line[:_SNIPPET_CHARS]}…"


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
    chat = PlainChat(client, terminal, choice=choice, load=load)
    chat.converse()


def completion_sources(runtime: Runtime) -> CompletionSources:
    """Return the names that arguments of commands are completed from."""
    return CompletionSources(models=lambda: [each.name for each in runtime.installed()])
