"""The files that go with the next question: named with /file or /image, or with @ in its text."""

from dataclasses import dataclass, field
from pathlib import Path

from localllm.chat.attachments.files import read_file
from localllm.chat.attachments.fitting import (
    attachment_room,
    count_attachment,
    count_conversation,
    count_image,
    fit_attachments,
    token_label,
    tokenizer_of,
)
from localllm.chat.attachments.references import file_references, without_punctuation
from localllm.chat.conversation import Attachment, ChatMessage
from localllm.cli.chat.client import ChatClient
from localllm.core.text import single_line
from localllm.engine.messages import Role
from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.translation import _


@dataclass(slots=True, kw_only=True)
class AttachedFiles:
    """Files wait here until the next question takes them. `client` counts their tokens."""

    client: ChatClient
    waiting: list[Attachment] = field(default_factory=list)

    async def attach(self, path: Path) -> tuple[str, ...]:
        """Read and count a file for the next question; return sentences that say what it is.

        Raises NotFound and UsageError, with the reason, for a file that cannot go with a question.
        """
        content = await read_file(path)
        counted = await self._counted(content.attachment())
        self.waiting.append(counted)
        return (f"{single_line(counted.name)}: {token_label(counted)}.", *content.remarks)

    async def _counted(self, attachment: Attachment) -> Attachment:
        name = self.client.resident.model.name
        if not self.client.chats:
            raise UsageError(
                _("{name} continues text, without a chat template: no file can go with it.").format(
                    name=single_line(name)
                )
            )
        if not attachment.data:
            return await count_attachment(attachment, tokenizer_of(self.client.runtime, name))
        if (reason := self.client.resident.vision_unavailable) is not None:
            raise UsageError(reason)
        return await count_image(self.client.runtime, name, attachment)

    async def attach_referenced(self, text: str) -> tuple[str, ...]:
        """Attach the files that are named with @ in a question. A name that is no file's stays
        text."""
        lines: list[str] = []
        for reference in file_references(text):
            for name in (reference.path, without_punctuation(reference.path)):
                path = paths.absolute(Path(name))
                if name and path.is_file():
                    lines += await self.attach(path)
                    break
        return tuple(lines)

    async def take(self, text: str) -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
        """Return the files for the question `text`, cut to what the context has room for, and a
        sentence about each that was cut. They wait no longer."""
        if not self.waiting:
            return (), ()
        client = self.client
        name = client.resident.model.name
        question = ChatMessage(role=Role.USER, text=text)
        asked = client.conversation.with_message(question, after=client.conversation.leaf)
        room = attachment_room(
            context=client.resident.loaded.context,
            used=await count_conversation(client.runtime, name, asked),
            question=0,
            max_tokens=client.conversation.settings.max_tokens,
        )
        tokenize = tokenizer_of(client.runtime, name)
        fitted = await fit_attachments(self.waiting, tokenize, room=room)
        self.waiting = []
        cut = (each for each in fitted if each.cut_tokens)
        return fitted, tuple(f"{single_line(each.name)}: {token_label(each)}." for each in cut)
