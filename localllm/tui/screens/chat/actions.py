"""The half of the chat place that deals with the conversation: copy, edit, ask again, versions,
branches, delete, find. Nothing here destroys without asking."""

from collections.abc import Iterator
from dataclasses import replace

from textual import on, work

from localllm.chat.conversation import ChatMessage
from localllm.chat.history.titles import shortened
from localllm.core.text import single_line
from localllm.engine.messages import Role
from localllm.translation import _, ngettext
from localllm.tui.places import HOME
from localllm.tui.screens.chat.branches import BranchScreen
from localllm.tui.screens.chat.memory import MemoryScreen
from localllm.tui.screens.chat.model_chat import ModelChat
from localllm.tui.screens.chat.session import (
    last_answer,
    last_question,
    neighbour,
    question_of,
)
from localllm.tui.screens.dialog import Dialog, DialogButton
from localllm.tui.widgets.chat.find_bar import FindBar, FindChanged, FindClosed, FindMoved
from localllm.tui.widgets.transcript.transcript import CodeCopied, FoundPlace


class ConversationActions(ModelChat):
    """What keys and commands do with the messages."""

    def __init__(self) -> None:
        super().__init__()
        self._copied_code = 0
        self._found: tuple[FoundPlace, ...] = ()
        self._found_at = 0

    @property
    def current(self) -> ChatMessage | None:
        """The message under the cursor, or the last answer."""
        entry = self.transcript.current
        if entry is not None and entry.message is not None:
            return entry.message
        return last_answer(self.conversation) or last_question(self.conversation)

    # --- copying ---

    def copy(self, text: str, what: str) -> None:
        """Put a text into the terminal's clipboard (OSC 52), which works over ssh and in tmux."""
        self.app.copy_to_clipboard(text)
        count = ngettext("{count} character", "{count} characters", len(text))
        self.show_status(
            _("{what} copied, {count}.").format(
                what=what, count=count.format(count=f"{len(text):,}")
            )
        )

    def action_copy_message(self) -> None:
        message = self.current
        if message is not None:
            what = _("Question") if message.role is Role.USER else _("Answer")
            self.copy(message.text, what)

    def action_copy_code(self) -> None:
        """Copy a block of code of the message; again copies the next one."""
        entry = self.transcript.current
        if entry is None:
            entry = next((e for e in reversed(self.transcript.entries) if e.codes), None)
        if entry is None or not entry.codes:
            self.show_status(_("There is no code in this message."))
            return
        number = self._copied_code % len(entry.codes)
        self._copied_code = number + 1
        name = single_line(entry.codes[number].strip().split("\n")[0][:40])
        what = _("Code {number} of {count} ({name})").format(
            number=number + 1, count=len(entry.codes), name=name
        )
        self.copy(entry.codes[number], what)

    @on(CodeCopied)
    def _code_copied(self, event: CodeCopied) -> None:
        event.stop()
        self.copy(event.code, _("Code"))

    # --- what is seen of a message ---

    def action_wrap_code(self) -> None:
        for entry in self.transcript.entries:
            self.transcript.toggle_wrap(entry)

    def action_fold(self) -> None:
        if (entry := self.transcript.current) is not None:
            self.transcript.toggle_fold(entry)

    # --- editing and asking again ---

    def action_edit_message(self) -> None:
        message = self.current
        question = message and question_of(self.conversation, message.id)
        if question is not None:
            self._edit(question)

    def edit_last(self) -> None:
        """Edit the last question."""
        question = last_question(self.conversation)
        if self.session.queue:
            self.unqueue(len(self.session.queue) - 1)
        elif question is not None:
            self._edit(question)

    def _edit(self, question: ChatMessage) -> None:
        if self.session.editing is None:
            self.session.aside = self.draft
        self.session.editing = question.id
        self.prompt_box.set_draft(question.text, question.attachments)
        self.prompt_box.prompt.focus()
        self.edited_shown()

    def edited_shown(self) -> None:
        editing = self.session.editing is not None
        self.prompt_box.prompt.border_title = (
            _("a new version of this question · esc gives up") if editing else ""
        )
        if not editing and (aside := self.session.aside) is not None:
            self.session.aside = None
            self.prompt_box.put_back(aside.text, aside.attachments)
        self.refresh_bindings()

    def action_stop(self) -> None:
        """Stop the answer; or else give up editing."""
        if not self.answering and self.session.editing is not None:
            self.session.editing = None
            self.prompt_box.set_draft("")
            self.edited_shown()
            return
        super().action_stop()

    def action_again(self) -> None:
        """Answer the last question once more."""
        question = last_question(self.conversation)
        if question is not None:
            self._answer_again(question)

    def action_answer_again(self) -> None:
        message = self.current
        question = message and question_of(self.conversation, message.id)
        if question is not None:
            self._answer_again(question)

    def _answer_again(self, question: ChatMessage) -> None:
        if self.answering or self.model is None:  # a second press in the same moment
            return
        if self.prompt_box.text == question.text and self.session.editing is None:
            self.prompt_box.set_draft("")
        self.answering = True
        self.prompt_box.prompt.focus()
        self.answer_again(self.conversation.ending_at(question.id))

    def action_branch(self) -> None:
        """Go on from a message: what is asked next begins a branch there."""
        message = self.current
        if message is None or self.answering:
            return
        at = message.parent if message.role is Role.USER else message.id
        self.change_conversation(self.conversation.ending_at(at))
        if message.role is Role.USER:
            self.prompt_box.put_back(message.text, message.attachments)
        self.prompt_box.prompt.focus()
        self.show_status(_("The next question begins a branch here; B shows all branches."))

    def action_show_version(self, by: int) -> None:
        message = self.current
        if message is None or self.answering:
            return
        shown = neighbour(self.conversation, message.id, by)
        if shown is not self.conversation:
            number = self.transcript.cursor
            self.change_conversation(shown)
            self.transcript.set_cursor(number)

    @work(exclusive=True, group="tree", exit_on_error=False)
    async def action_tree(self) -> None:
        """Show all branches, and go to the one that is chosen."""
        if not self.conversation.messages or self.answering:
            return
        chosen = await self.ask(BranchScreen(self.conversation))
        if chosen is not None and not self.answering:
            self.change_conversation(self.conversation.showing(chosen))
            path = [message.id for message in self.conversation.path()]
            self.transcript.focus()
            self.transcript.set_cursor(path.index(chosen))

    @work(exclusive=True, group="delete", exit_on_error=False)
    async def action_delete_message(self) -> None:
        """Delete a message and what follows it, when the person agrees."""
        message = self.current
        if message is None or self.answering:
            return
        behind = sum(1 for _each in self._behind(message.id))
        words = ngettext(
            "{count} message that follows it goes too.",
            "{count} messages that follow it go too.",
            behind,
        )
        choice = await self.ask(
            Dialog(
                title=_("Delete this message?"),
                message=shortened(single_line(message.text[:400]), 200) or _("(nothing)"),
                remark=words.format(count=behind) if behind else "",
                buttons=(
                    DialogButton(id="keep", label=_("Keep it")),
                    DialogButton(id="delete", label=_("Delete it")),
                ),
            )
        )
        if choice == "delete" and not self.answering:
            self.change_conversation(self.conversation.without(message.id))
            if not self.conversation.messages:
                self.services.conversations.erase(self.conversation.id)
                self.open_conversation(replace(self.conversation, id=self.new_id()))
            self.prompt_box.prompt.focus()

    @staticmethod
    def new_id() -> str:
        """Return the id of a conversation that is not kept yet."""
        from uuid import uuid4

        return uuid4().hex

    def _behind(self, message_id: str) -> Iterator[ChatMessage]:
        waiting = list(self.conversation.children(message_id))
        while waiting:
            child = waiting.pop()
            yield child
            waiting.extend(self.conversation.children(child.id))

    # --- finding ---

    def action_find(self) -> None:
        if self.transcript.entries:
            self.query_one(FindBar).open()

    def find(self, query: str) -> int:
        """Mark a text in the conversation and go to its last place; returns how many there are."""
        self._found = self.transcript.find(query)
        self._found_at = len(self._found) - 1
        self._show_place()
        return len(self._found)

    @on(FindChanged)
    def _find_changed(self, event: FindChanged) -> None:
        event.stop()
        self.find(event.query)

    @on(FindMoved)
    def _find_moved(self, event: FindMoved) -> None:
        event.stop()
        if self._found:
            self._found_at = (self._found_at + event.by) % len(self._found)
            self._show_place()

    @on(FindClosed)
    def _find_closed(self, event: FindClosed) -> None:
        event.stop()
        self.transcript.find("")
        self._found = ()
        self.prompt_box.prompt.focus()

    def _show_place(self) -> None:
        bar = self.query_one(FindBar)
        bar.show_place(self._found_at + 1, len(self._found))
        if self._found:
            self.transcript.show_place(self._found[self._found_at])

    # --- elsewhere ---

    def action_models(self) -> None:
        self.session.keep_draft(self.draft)
        self.frame.go_to(HOME)

    def action_memory(self) -> None:
        if self.resident is not None:
            self.open(MemoryScreen(self.resident))
