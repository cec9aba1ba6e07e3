"""The half of the chat place that deals with files: attached to a question, searched for it, shown.

`@` in the prompt attaches a file; the collections of the conversation's settings are searched for
each question; sources of answers are opened at their place; pictures get small copies.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on, work

from localllm.chat.attachments.files import FileContent, read_file
from localllm.chat.attachments.references import file_references, without_punctuation
from localllm.chat.commands.completion import reference_completions
from localllm.chat.conversation import Attachment, ChatMessage, Citation
from localllm.core.text import single_line
from localllm.errors import LocalLLMError, UsageError
from localllm.library.files import paths
from localllm.translation import _
from localllm.tui.screens.chat.actions import ConversationActions
from localllm.tui.widgets.picture import pictures
from localllm.tui.widgets.prompt import CompletionTaken, PromptCompletion
from localllm.tui.widgets.transcript.transcript import CitationOpened

if TYPE_CHECKING:  # imported when somebody uses documents
    from localllm.chat.documents.service import Documents


class ChatFiles(ConversationActions):
    """What is done with files in a conversation."""

    @property
    def documents(self) -> "Documents":
        return self.services.documents

    def complete_reference(self, before: str) -> Sequence[PromptCompletion]:
        """Complete a name behind @ at the end of the text before the cursor. Lists a folder."""
        return tuple(
            PromptCompletion(text=each.text, start=each.start, help=each.help)
            for each in reference_completions(before, Path())
        )

    @on(CompletionTaken)
    def _completion_taken(self, event: CompletionTaken) -> None:
        """Attach a file that was chosen behind @; it stands above the prompt from then on."""
        event.stop()
        for reference in file_references(event.completion.text):
            path = paths.absolute(Path(reference.path))
            if path.is_file():
                self.prompt_box.remove_before_cursor(event.completion.text)
                self.attach_path(path)

    @work(group="attach", exit_on_error=False)
    async def attach_path(self, path: Path) -> None:
        """Attach a file to the question that is typed, or say why that cannot be."""
        self.show_status(_("reading {name}…").format(name=single_line(path.name)))
        try:
            attachment, remarks = await self.read_attachment(path)
        except LocalLLMError as error:
            self.show_status(str(error))
            return
        self.prompt_box.attach(attachment)
        self.show_status(" ".join(remarks))

    async def read_attachment(self, path: Path) -> tuple[Attachment, tuple[str, ...]]:
        """Read a file for a question; with sentences about it. Raises NotFound, UsageError, and
        UsageError for a picture that the model does not see."""
        content: FileContent = await read_file(path)
        if content.data and self.resident is not None:
            reason = self.resident.vision_unavailable
            if reason is not None:
                raise UsageError(f"{single_line(path.name)}: {reason}")
        return content.attachment(), content.remarks

    async def with_references(
        self, text: str, attachments: tuple[Attachment, ...]
    ) -> tuple[Attachment, ...]:
        """Add the files that the text of a question names with @ and that are not attached yet.
        What is no file stays text."""
        names = {each.name for each in attachments}
        for reference in file_references(text):
            for name in (reference.path, without_punctuation(reference.path)):
                path = paths.absolute(Path(name))
                if name and path.name not in names and await asyncio.to_thread(path.is_file):
                    try:
                        attachment, remarks = await self.read_attachment(path)
                    except LocalLLMError as error:
                        self.show_status(str(error))
                        break
                    attachments = (*attachments, attachment)
                    self.show_status(" ".join(remarks))
                    break
        return attachments

    # --- collections ---

    async def find_sources(
        self, text: str, attachments: tuple[Attachment, ...]
    ) -> tuple[tuple[Citation, ...], tuple[str, ...]]:
        """Find the passages that go with a question, in the collections of this conversation, with
        sentences about them."""
        names = self.conversation.settings.collections
        if not names or self.resident is None or not text:
            return (), ()
        self.show_status(_("looking through your documents…"))
        attached = sum(each.tokens or 0 for each in attachments)
        try:
            found = await self.documents.sources_for(
                names,
                text,
                path=self.conversation.path(),
                resident=self.resident,
                used=(self.meter_log.readings().context_used or 0) + attached,
                max_tokens=self.conversation.settings.max_tokens,
            )
        except LocalLLMError as error:
            return (), (str(error),)
        self.show_status("")
        return found.sources, found.remarks

    @work(exclusive=True, group="documents", exit_on_error=False)
    async def action_documents(self) -> None:
        """Show the collections, and use those that are chosen there."""
        from dataclasses import replace

        from localllm.tui.screens.documents.collections import CollectionsScreen

        before = self.conversation.settings.collections
        chosen = await self.ask(CollectionsScreen(before))
        if chosen is not None and chosen != before:
            settings = replace(self.conversation.settings, collections=chosen)
            self.change_conversation(replace(self.conversation, settings=settings))
            names = ", ".join(map(single_line, chosen))
            self.show_status(
                _("Questions are answered from: {names}.").format(names=names)
                if chosen
                else _("Questions are answered without documents.")
            )

    def watch_answering(self, answering: bool) -> None:
        """Let indexing wait while an answer is written."""
        self.services.pause_indexing(paused=answering)

    # --- sources ---

    @on(CitationOpened)
    def _citation_opened(self, event: CitationOpened) -> None:
        event.stop()
        self._open_sources(event.message, event.number)

    def action_open_source(self) -> None:
        """Open the sources of the message under the cursor."""
        message = self.current
        if message is None or not message.citations:
            self.show_status(_("This message has no sources."))
            return
        self._open_sources(message, message.citations[0].number)

    def _open_sources(self, message: ChatMessage, number: int) -> None:
        from localllm.tui.screens.documents.source import SourceScreen

        self.open(SourceScreen(self.documents, message.citations, number))

    # --- pictures ---

    @work(group="pictures", exit_on_error=False)
    async def load_pictures(self) -> None:
        """Make small copies of the pictures that are shown, where none were made yet."""
        for message in self.conversation.path():
            for attachment in message.attachments:
                if attachment.data and await pictures.make(attachment.data):
                    self._redraw(message)

    def _redraw(self, message: ChatMessage) -> None:
        for entry in self.transcript.entries:
            if entry.message is not None and entry.message.id == message.id:
                self.transcript.entry_changed(entry)
