"""The commands on a conversation and on those beside it, for a plain terminal: versions, titles,
what was kept, files that it is written to."""

import re
from abc import abstractmethod
from collections.abc import Awaitable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from localllm.chat.commands.library_actions import LibraryActions
from localllm.chat.commands.table import Command, path_argument
from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.history.export import ExportFormat, file_name, write_export
from localllm.chat.history.history import History, HistoryChoice
from localllm.chat.history.titles import title_of
from localllm.chat.token_scores import (
    UNLIKELY,
    scored_tokens,
    scoring_request,
    shown_texts,
    summarize,
)
from localllm.cli.chat.client import ChatClient
from localllm.cli.chat.session_file import write_session
from localllm.cli.chat.terminal import ChatTerminal
from localllm.core.text import single_line
from localllm.engine.messages import Role, Token
from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.library.files.names import printable
from localllm.translation import _

_SNIPPET_CHARS = 70
_MOST_LISTED = 50
_CODE_BLOCK = re.compile(r"^(`{3,}|~{3,})[^\n]*\n(.*?)^\1", re.DOTALL | re.MULTILINE)


class ConversationActions(LibraryActions):
    """What can be done with the conversation of `client`, and with the others of `history`."""

    def __init__(self, client: ChatClient, terminal: ChatTerminal, history: History) -> None:
        super().__init__()
        self._client = client
        self._terminal = terminal
        self._history = history
        self._listed: list[str] = []

    @abstractmethod
    async def _answer(self) -> None:
        """Answer the question that the conversation ends with, and show the answer."""

    @property
    def _conversation(self) -> Conversation:
        return self._client.session.conversation

    def _show_branch(self, conversation: Conversation) -> None:
        self._client.session.conversation = conversation
        self._client.session.save()

    # --- versions ---

    async def again(self, argument: str) -> None:
        question = last_question(self._conversation)
        before = self._conversation
        self._show_branch(before.ending_at(question.id))
        await self._new_version(self._answer(), before)

    async def edit(self, argument: str) -> None:
        question = last_question(self._conversation)
        text = argument or await self._terminal.read(default=question.text)
        if text is None or not text.strip():
            return
        before = self._conversation
        self._client.add_question(text, question.attachments, after=question.parent)
        await self._new_version(self._answer(), before)

    async def _new_version(self, asked: Awaitable[None], before: Conversation) -> None:
        """Answer as a version beside what there is; when no answer comes, that is shown as
        before."""
        try:
            await asked
        finally:
            if self._conversation.path()[-1].role is Role.USER:
                self._show_branch(before)
        if len(answers := answer_versions(self._conversation)) > 1:
            await self.show(
                _("This is version {number} of {count}; /version NUMBER shows another.").format(
                    number=self._shown(answers) + 1, count=len(answers)
                )
            )

    async def version(self, argument: str) -> None:
        answers = answer_versions(self._conversation)
        if not answers:
            raise UsageError(_("There is no answer yet."))
        if not argument:
            shown = self._shown(answers)
            lines = [
                f"{'*' if index == shown else ' '} {index + 1}. {snippet(each.text)}"
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

    def _shown(self, answers: list[ChatMessage]) -> int:
        shown = {each.id for each in self._conversation.path()}
        return next((i for i, each in enumerate(answers) if each.id in shown), len(answers) - 1)

    # --- conversations ---

    async def new(self, argument: str) -> None:
        self._client.session.clear()
        if self._client.session.path is not None:
            await self.show(_("A new conversation, in the same file."))
        elif self._history.choice is HistoryChoice.OFF:
            await self.show(_("A new conversation. The one before is gone, as you chose."))
        else:
            await self.show(_("A new conversation. /chats lists the others."))

    async def chats(self, argument: str) -> None:
        await self._unlock()
        others = [each for each in self._history.list() if each.id != self._conversation.id]
        if not self._listed:
            self._listed = [each.id for each in others]
        if argument.isdecimal() and 1 <= int(argument[:9]) <= len(self._listed):
            opened = self._history.open(self._listed[int(argument) - 1])
            self._client.session.save()
            self._show_branch(replace(opened, settings=self.settings))
            self._print_last()
            return
        lines: list[str] = []
        self._listed = []
        if argument:
            for hit in self._history.search(argument):
                self._listed.append(hit.summary.id)
                lines.append(": ".join(filter(None, (hit.summary.title, hit.excerpt))))
        else:
            self._listed = [each.id for each in others]
            lines = [each.title for each in others]
        if not lines:
            await self.show(
                _("No conversation has that in it.")
                if argument
                else _("There is no other conversation. /new begins one.")
            )
            return
        numbered = [f"{n}. {line}" for n, line in enumerate(lines[:_MOST_LISTED], 1)]
        if (more := len(lines) - _MOST_LISTED) > 0:
            numbered.append(_("{count} more; /chats TEXT searches them.").format(count=more))
        await self.show("\n".join([*numbered, _("/chats NUMBER opens one.")]))

    async def _unlock(self) -> None:
        """Ask for the passphrase of what is kept, where one opens it."""
        if self._history.is_locked and self._history.needs_passphrase:
            secret = await self._terminal.ask_secret(_("Passphrase of your conversations:"))
            if secret:
                self._history.unlock(secret)

    async def title(self, argument: str) -> None:
        if argument:
            self._show_branch(replace(self._conversation, title=single_line(argument)))
        await self.show(title_of(self._conversation))

    async def find(self, argument: str) -> None:
        wanted, lines = argument.casefold(), []
        number = 0
        for message in self._conversation.path():
            number += message.role is Role.USER
            at = message.text.casefold().find(wanted)
            if at >= 0:
                near = message.text[max(0, at - _SNIPPET_CHARS // 2) :]
                what = _("question") if message.role is Role.USER else _("answer")
                lines.append(f"{what} {number}: {snippet(near)}")
        await self.show("\n".join(lines) or _("Nothing here has that in it."))

    # --- files ---

    async def save(self, argument: str) -> None:
        session = self._client.session
        if not argument:
            await self._unlock()
            session.save()
            await self.show(self._kept_text())
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

    def _kept_text(self) -> str:
        """Say where the conversation is kept."""
        if (path := self._client.session.path) is not None:
            return _("It is kept in {path}.").format(path=printable(path))
        if self._history.is_on_disk:
            return _("It is kept encrypted on this disk, as you chose; /chats finds it again.")
        if self._history.is_locked:
            return _("It is in memory until a passphrase opens what you keep: /chats asks.")
        return _("It is in memory only, until you leave; /save FILE keeps it.")

    async def export(self, argument: str) -> None:
        name = path_argument(argument) or file_name(self._conversation, ExportFormat.MARKDOWN)
        path = paths.absolute(Path(name))
        write_export(self._conversation, path)
        await self.show(_("Written to {path}.").format(path=printable(path)))

    def supported(self) -> tuple[Command, ...]:
        """Return the commands that can be used on this terminal."""
        commands = super().supported()
        if self._terminal.can_copy:
            return commands
        return tuple(each for each in commands if each.name != "copy")

    async def copy(self, argument: str) -> None:
        """Copy the last answer, or with "code" the code blocks in it."""
        text = last_answer(self._conversation).text
        if argument:
            blocks = _CODE_BLOCK.findall(text)
            if argument.lower() != "code" or not blocks:
                raise UsageError(_("There is no code in the last answer."))
            text = "\n".join(block for _fence, block in blocks)
        self._terminal.copy(text)
        await self.show(
            _("{count} characters went to the terminal's clipboard.").format(count=len(text))
        )

    async def tokens(self, argument: str) -> None:
        """Show how probable the last answer was, and where another word was as likely."""
        answer, resident = last_answer(self._conversation), self._client.resident
        request = scoring_request(self._conversation, answer, request_id=uuid4().hex)
        events = self._client.runtime.generate(resident.model.name, request)
        async with aclosing(events):
            scored = [event async for event in events if isinstance(event, Token)]
        tokens = scored_tokens(answer.text, scored)
        summary = summarize(tokens)
        lines = [
            _("{count} tokens, {unlikely} of them below {limit} percent.").format(
                count=summary.tokens, unlikely=summary.unlikely, limit=f"{100 * UNLIKELY:.0f}"
            )
        ]
        for token, text in zip(tokens, shown_texts(tokens), strict=True):
            if token.probability is not None and token.probability < UNLIKELY and text.strip():
                others = ", ".join(
                    f"{single_line(each.text)} {100 * each.probability:.0f} %"
                    for each in token.alternatives[:3]
                    if each.raw != token.raw
                )
                likely = _("{token} {percent} %, instead: {others}")
                lines.append(
                    likely.format(
                        token=single_line(text),
                        percent=f"{100 * token.probability:.0f}",
                        others=others,
                    )
                )
        await self.show("\n".join(lines[:_MOST_LISTED]))

    def _print_last(self) -> None:
        """Show the last question and its answer again."""
        for message in self._conversation.path()[-2:]:
            if message.role is Role.USER:
                self._terminal.show(_("You: {text}").format(text=message.text))
            else:
                output = self._terminal.answer_output(message.model or self.model_name)
                output.write(message.text)
                output.finish()


def last_question(conversation: Conversation) -> ChatMessage:
    """Return the last question of the branch that is shown. Raises UsageError."""
    for message in reversed(conversation.path()):
        if message.role is Role.USER:
            return message
    raise UsageError(_("Nothing was asked yet."))


def last_answer(conversation: Conversation) -> ChatMessage:
    """Return the last answer of the branch that is shown. Raises UsageError."""
    for message in reversed(conversation.path()):
        if message.role is Role.ASSISTANT and message.text:
            return message
    raise UsageError(_("There is no answer yet."))


def answer_versions(conversation: Conversation) -> list[ChatMessage]:
    """Return all answers to all versions of the last question."""
    if all(each.role is not Role.USER for each in conversation.path()):
        return []
    asked = conversation.versions(last_question(conversation).id)
    return [answer for each in asked for answer in conversation.children(each.id)]


def snippet(text: str) -> str:
    """Return the beginning of a text on one line."""
    line = single_line(text)
    return line if len(line) <= _SNIPPET_CHARS else f"{line[:_SNIPPET_CHARS]}…"
