"""From the engine's events to the items of a response, and the events that tell a stream of them.

A whole response and a stream are put together by the same steps: a stream sends what each of them
returns. Theory of operation: at most one item is open. What belongs to another one closes it, since
a model writes one after the other; the end of the answer closes the last.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    Reasoning,
    Token,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.server.dialects.openai.chat_response import ChatTokenLogprob, ChoiceLogprobs
from localllm.server.dialects.openai.responses.documents import (
    CustomCallItem,
    FunctionCallItem,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
    StreamEvent,
    SummaryText,
)
from localllm.server.dialects.openai.responses.items import ENCODED_REASONING
from localllm.server.dialects.openai.responses.tools import OfferedTool, ToolTable, custom_input


class _Kind(StrEnum):
    MESSAGE = "msg"
    REASONING = "rs"
    FUNCTION_CALL = "fc"
    CUSTOM_CALL = "ctc"


@dataclass(kw_only=True)
class _OpenItem:
    """The item that grows."""

    kind: _Kind
    id: str
    call_id: str = ""
    tool: OfferedTool | None = None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[ChatTokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputForm:
    """The form that a request wants its output in. `summary`: reasoning goes where OpenAI has its
    summary. `encoded`: it is repeated in `encrypted_content`. `hidden`: it is left out."""

    summary: bool = False
    encoded: bool = False
    hidden: bool = False


class ResponseOutput:
    """The items of a response, which grow by `add`. Each step returns the events of a stream."""

    def __init__(self, response_id: str, table: ToolTable, form: OutputForm) -> None:
        self.items: list[OutputItem] = []
        """Those that are complete."""
        self._suffix = response_id.partition("_")[2]
        self._table = table
        self._form = form
        self._open: _OpenItem | None = None
        self._unplaced: list[ChatTokenLogprob] = []
        """Of tokens whose text is held back."""
        self._sequence_number = 0

    def event(self, type_: str, **fields: object) -> StreamEvent:
        """Make the next event of the stream."""
        event = StreamEvent.model_validate(
            {"type": type_, "sequence_number": self._sequence_number, **fields}
        )
        self._sequence_number += 1
        return event

    def add(self, event: GenerateEvent) -> list[StreamEvent]:
        """Add what an event of the engine carries."""
        match event:
            case Token(text=text):
                return list(self._token(text, event))
            case Reasoning(text=text):
                self._unplaced.clear()
                return [] if self._form.hidden else list(self._grow(_Kind.REASONING, text))
            case ToolCallBegan():
                self._unplaced.clear()
                return list(self._begin_call(event))
            case ToolCallArguments(text=text):
                return list(self._arguments(text))
            case Finished():
                return list(self._finish(event))
            case _:
                return []

    def _token(self, text: str, token: Token) -> Iterator[StreamEvent]:
        logprobs = ChoiceLogprobs.of([token])
        self._unplaced += logprobs.content if logprobs is not None else []
        if text:
            placed, self._unplaced = self._unplaced, []
            yield from self._grow(_Kind.MESSAGE, text, placed)

    def _grow(
        self, kind: _Kind, text: str, logprobs: Sequence[ChatTokenLogprob] = ()
    ) -> Iterator[StreamEvent]:
        if self._open is None or self._open.kind is not kind:
            yield from self._close("completed")
            yield from self._begin(_OpenItem(kind=kind, id=self._new_id(kind)))
        assert self._open is not None
        self._open.pieces.append(text)
        self._open.logprobs += logprobs
        if kind is _Kind.MESSAGE:
            yield self._of_part("response.output_text.delta", delta=text, logprobs=list(logprobs))
        else:
            yield self._of_part(f"response.{self._reasoning}_text.delta", delta=text)

    def _begin_call(self, began: ToolCallBegan) -> Iterator[StreamEvent]:
        yield from self._close("completed")
        tool = self._table.called(began.name)
        kind = _Kind.CUSTOM_CALL if tool.custom else _Kind.FUNCTION_CALL
        item = _OpenItem(kind=kind, id=self._new_id(kind), call_id=began.id, tool=tool)
        yield from self._begin(item)

    def _arguments(self, text: str) -> Iterator[StreamEvent]:
        assert self._open is not None
        self._open.pieces.append(text)
        if self._open.kind is _Kind.FUNCTION_CALL:
            yield self._of_item("response.function_call_arguments.delta", delta=text)

    def _finish(self, end: Finished) -> Iterator[StreamEvent]:
        if self._open is None and not self.items:
            # Every response has an item: an empty answer is an empty message.
            yield from self._begin(_OpenItem(kind=_Kind.MESSAGE, id=self._new_id(_Kind.MESSAGE)))
        cut = end.reason is FinishReason.LENGTH
        yield from self._close("incomplete" if cut else "completed")

    # --- one item ---

    def _new_id(self, kind: _Kind) -> str:
        return f"{kind}_{self._suffix}{len(self.items)}"

    @property
    def _reasoning(self) -> Literal["reasoning", "reasoning_summary"]:
        return "reasoning_summary" if self._form.summary else "reasoning"

    def _begin(self, item: _OpenItem) -> Iterator[StreamEvent]:
        self._open = item
        index = len(self.items)
        begun = self._item("in_progress", with_text=False)
        yield self.event("response.output_item.added", output_index=index, item=begun)
        if item.kind in _PARTS:
            yield self._part_event("added", "")

    def _close(self, status: Status) -> Iterator[StreamEvent]:
        """Close the open item, if there is one."""
        item = self._open
        if item is None:
            return
        done: Callable[..., StreamEvent] = self._of_item
        match item.kind:
            case _Kind.MESSAGE:
                yield self._of_part(
                    "response.output_text.done", text=item.text, logprobs=item.logprobs
                )
            case _Kind.REASONING:
                yield self._of_part(f"response.{self._reasoning}_text.done", text=item.text)
            case _Kind.FUNCTION_CALL:
                assert item.tool is not None
                yield done(
                    "response.function_call_arguments.done",
                    arguments=item.text,
                    name=item.tool.name,
                )
            case _Kind.CUSTOM_CALL:
                text = custom_input(item.text)
                yield done("response.custom_tool_call_input.delta", delta=text)
                yield done("response.custom_tool_call_input.done", input=text)
        if item.kind in _PARTS:
            yield self._part_event("done", item.text)
        finished = self._item(status)
        yield self.event("response.output_item.done", output_index=len(self.items), item=finished)
        self.items.append(finished)
        self._open = None

    def _of_item(self, type_: str, **fields: object) -> StreamEvent:
        assert self._open is not None
        return self.event(type_, output_index=len(self.items), item_id=self._open.id, **fields)

    def _of_part(self, type_: str, **fields: object) -> StreamEvent:
        """Make an event of the open item's only part."""
        assert self._open is not None
        summary = self._open.kind is _Kind.REASONING and self._form.summary
        return self._of_item(
            type_, **{"summary_index" if summary else "content_index": 0}, **fields
        )

    def _part_event(self, step: Literal["added", "done"], text: str) -> StreamEvent:
        assert self._open is not None
        part: OutputText | ReasoningText | SummaryText
        name = "content_part"
        if self._open.kind is _Kind.MESSAGE:
            part = OutputText(text=text, logprobs=self._open.logprobs if text else [])
        elif self._form.summary:
            part, name = SummaryText(text=text), "reasoning_summary_part"
        else:
            part = ReasoningText(text=text)
        return self._of_part(f"response.{name}.{step}", part=part)

    def _item(self, status: Status, *, with_text: bool = True) -> OutputItem:
        """Write the open item, or its beginning."""
        item = self._open
        assert item is not None
        text = item.text
        match item.kind:
            case _Kind.MESSAGE:
                content = [OutputText(text=text, logprobs=item.logprobs)] if with_text else []
                return OutputMessage(id=item.id, status=status, content=content)
            case _Kind.REASONING:
                return self._reasoning_item(item, status, with_text=with_text)
        assert item.tool is not None
        tool = item.tool
        if item.kind is _Kind.CUSTOM_CALL:
            return CustomCallItem(
                id=item.id,
                status=status,
                call_id=item.call_id,
                name=tool.name,
                namespace=tool.namespace,
                input=custom_input(text) if with_text else "",
            )
        return FunctionCallItem(
            id=item.id,
            status=status,
            call_id=item.call_id,
            name=tool.name,
            namespace=tool.namespace,
            arguments=text,
        )

    def _reasoning_item(self, item: _OpenItem, status: Status, *, with_text: bool) -> ReasoningItem:
        text = item.text
        summary = [SummaryText(text=text)] if self._form.summary and with_text else []
        content = [ReasoningText(text=text)] if not self._form.summary and with_text else []
        return ReasoningItem(
            id=item.id,
            status=status,
            summary=summary,
            content=None if self._form.summary else content,
            encrypted_content=f"{ENCODED_REASONING}{text}"
            if self._form.encoded and with_text
            else None,
        )


_PARTS = (_Kind.MESSAGE, _Kind.REASONING)
"""The kinds of items whose text is a part."""
