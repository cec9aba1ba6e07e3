"""The part of the chat place that counts: the tokens of the conversation and of what is typed, and
how busy the machine is while an answer is written."""

import asyncio
from abc import abstractmethod
from contextlib import suppress

from textual import work
from textual.reactive import reactive

from localllm.chat.attachments.fitting import (
    count_attachment,
    count_conversation,
    count_image,
    tokenizer_of,
)
from localllm.chat.conversation import Attachment, ChatMessage, Conversation
from localllm.engine.messages import Role
from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.runtime.runtime import ResidentModel
from localllm.translation import _, ngettext
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.chat.machine_load import LoadWatch
from localllm.tui.widgets.meter.readings import MeterLog
from localllm.tui.widgets.prompt import PromptBox

COUNT_DELAY_S = 0.6
"""A pause in typing after which the question is counted."""
COUNT_FROM_CHARS = 80
"""A shorter question is not counted: its number says nothing."""


class CountingChat(PlaceScreen):
    """A place with a conversation, a model and a meter. A subclass finds the widgets."""

    answering: reactive[bool] = reactive(False, bindings=True)
    prompt_box: PromptBox
    meter_log: MeterLog
    load_watch: LoadWatch

    def __init__(self) -> None:
        super().__init__()
        self.model: InstalledModel | None = None
        self.resident: ResidentModel | None = None

    @property
    @abstractmethod
    def conversation(self) -> Conversation:
        """The conversation that is shown."""

    @abstractmethod
    def conversation_shown(self) -> None:
        """Show the conversation, after it has changed."""

    @work(exclusive=True, group="count", exit_on_error=False)
    async def count_conversation(self) -> None:
        """Count a conversation that was opened, where its last answer has no numbers."""
        path = self.conversation.path()
        if self.resident is None or not path or path[-1].stats is not None:
            return
        conversation, name = self.conversation, self.resident.model.name
        if conversation.message(path[-1].id).role is not Role.USER:
            last = ChatMessage(role=Role.USER, text="?")
            conversation = conversation.with_message(last, after=conversation.leaf)
        with suppress(LocalLLMError):
            self.meter_log.counted(await count_conversation(self.runtime, name, conversation))
            self.conversation_shown()

    @work(exclusive=True, group="count-question", exit_on_error=False)
    async def count_question(self) -> None:
        """Count the question that is typed, after a pause, and show what it leaves of the room."""
        text, attachments = self.prompt_box.text, self.prompt_box.attachments
        if (
            (len(text) < COUNT_FROM_CHARS and not attachments)
            or self.model is None
            or self.resident is None
        ):
            self.prompt_box.show_count("")
            return
        await asyncio.sleep(COUNT_DELAY_S)
        if self.answering:  # it would take time from the answer
            return
        tokenize = tokenizer_of(self.runtime, self.model.name)
        with suppress(LocalLLMError):
            counted = await self._counted(attachments)
            self.prompt_box.set_attachments(counted)
            tokens = len(await tokenize(text)) if text else 0
            tokens += sum(each.tokens or 0 for each in counted)
            used = self.meter_log.readings().context_used or 0
            left = self.resident.loaded.context - used - tokens
            words = ngettext("{count} token", "{count} tokens", tokens)
            room = _("{left} left") if left >= 0 else _("{left} too many")
            if left < 0 and counted:
                room = _("{left} too many: the end of the files is left out")
            count = words.format(count=f"{tokens:,}")
            self.prompt_box.show_count(f"{count} · {room.format(left=f'{abs(left):,}')}")

    async def _counted(self, attachments: tuple[Attachment, ...]) -> tuple[Attachment, ...]:

        assert self.model is not None
        tokenize = tokenizer_of(self.runtime, self.model.name)
        counted: list[Attachment] = []
        for each in attachments:
            if each.tokens is not None:
                counted.append(each)
            elif each.data:
                counted.append(await count_image(self.runtime, self.model.name, each))
            else:
                counted.append(await count_attachment(each, tokenize))
        return tuple(counted)

    # --- how busy the machine is ---

    def watch_load(self) -> None:
        """Look how busy the machine is, now and then while an answer is written."""
        if self.load_watch.due():
            self.read_load()

    @work(exclusive=True, group="load-watch", exit_on_error=False)
    async def read_load(self) -> None:
        gpu = self.resident is not None and self.resident.loaded.gpu_layers > 0
        self.meter_log.load = await asyncio.to_thread(self.load_watch.read, gpu=gpu)
