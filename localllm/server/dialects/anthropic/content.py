"""Content blocks: texts, images, documents, thoughts, calls and results, by their `type`.

A history can always be sent back, also one that Anthropic's servers wrote: blocks of a type that
has no meaning here are left out, and named in a warning. Three classes instead of one that holds
itself: what can stand in a document, in a tool's result and in a message, so that no request nests
deeper than a checker's stack.
"""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.server.generation.history import MAX_ITEMS
from localllm.server.generation.request import decode_data_url, decode_image
from localllm.server.generation.tools import CallArguments
from localllm.server.schema import RequestModel, field_error

T = TypeVar("T")
Part = str | bytes
"""A text, or the bytes of an image's file."""

BlockItems = Field(max_length=MAX_ITEMS, fail_fast=True)


def as_blocks(value: object) -> object:
    """Read a content that is a text, or one block, as a list of blocks."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    return [value] if isinstance(value, dict) else value


def _known_source(value: object) -> object:
    if value == "file":
        raise field_error(
            "unsupported_parameter",
            "names a file of Anthropic's Files API: send its content itself, as base64 or text",
        )
    return value


class Source(RequestModel):
    """The content of an image or a document, which is in the request itself: nothing is fetched for
    a client, from nowhere."""

    type: Annotated[Literal["base64", "text", "content", "url"], BeforeValidator(_known_source)]
    media_type: object = None
    data: Annotated[str | bytes | None, Field(validate_default=True)] = None
    url: Annotated[bytes | None, Field(validate_default=True)] = None

    @field_validator("data", mode="before")
    @classmethod
    def _decode(cls, value: object, info: ValidationInfo) -> object:
        kind = info.data.get("type")
        if kind in ("base64", "text") and not isinstance(value, str):
            raise field_error("missing_required_parameter", "is required, a string")
        if kind != "base64" or not isinstance(value, str):
            return value
        if info.data.get("media_type") == "application/pdf":
            raise field_error(
                "unsupported_parameter",
                "is a PDF, which this server cannot read: send its text, in a source of the type "
                "'text', or its pages as images",
            )
        return decode_image(value)

    @field_validator("url", mode="before")
    @classmethod
    def _decode_url(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("type") != "url":
            return None
        return decode_data_url(value)

    def parts(self) -> Iterator[Part]:
        """Yield what the source holds."""
        held = self.data if self.data is not None else self.url
        if held is not None:
            yield held


class LeafBlock(RequestModel):
    """A block that holds no others: in the content of a document, or in `system`.

    A field that belongs to another type is not read.
    """

    OWN: ClassVar[Mapping[str, frozenset[str]]] = {
        "text": frozenset({"text", "citations"}),
        "image": frozenset({"source", "transformations"}),
        "tool_reference": frozenset({"tool_name"}),
    }
    """The fields of each type that is known here."""

    type: str
    text: Annotated[str | None, Field(validate_default=True)] = None
    source: Annotated[Source | None, Field(validate_default=True)] = None
    transformations: object = None
    tool_name: object = None
    citations: object = None

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        if not isinstance(value, dict):
            return value
        kind = value.get("type", "text" if "text" in value else None)
        if kind is None or not isinstance(kind, str):
            return value
        if kind not in cls.OWN:
            return {"type": kind}
        own, known = cls.OWN[kind], cls.model_fields
        return {
            **{name: each for name, each in value.items() if name in own or name not in known},
            "type": kind,
        }

    @field_validator("text", "source")
    @classmethod
    def _of_its_type(cls, value: T, info: ValidationInfo) -> T:
        types = ("text",) if info.field_name == "text" else ("image", "document")
        if value is None and info.data.get("type") in types:
            raise field_error("missing_required_parameter", "is required")
        return value

    @property
    def known(self) -> bool:
        """False for a block that is left out."""
        return self.type in self.OWN

    def parts(self) -> Iterator[Part]:
        """Yield what the model is shown of this block."""
        if self.text is not None:
            yield self.text
        elif self.source is not None:
            yield from self.source.parts()
        elif isinstance(self.tool_name, str):
            yield f"The tool {self.tool_name} can be called."


class DocumentSource(Source):
    """`content`: the texts and images of a document."""

    content: Annotated[list[LeafBlock] | None, BlockItems, BeforeValidator(as_blocks)] = None

    def parts(self) -> Iterator[Part]:
        yield from super().parts()
        for block in self.content or ():
            yield from block.parts()


class InnerBlock(LeafBlock):
    """A block in a tool's result: also documents and search results.

    They are shown between tags with their title, as there is no other place for it.
    """

    OWN: ClassVar[Mapping[str, frozenset[str]]] = {
        **LeafBlock.OWN,
        "document": frozenset({"source", "title", "context", "citations"}),
        "search_result": frozenset({"origin", "title", "passages", "citations"}),
    }

    source: Annotated[DocumentSource | None, Field(validate_default=True)] = None
    title: object = None
    context: object = None
    origin: object = None
    passages: Annotated[list[LeafBlock] | None, BlockItems, BeforeValidator(as_blocks)] = None

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("type") == "search_result":
            value = {_SEARCH_RESULT.get(name, name): each for name, each in value.items()}
        return super().understand(value)

    @property
    def wants_citations(self) -> bool:
        return isinstance(self.citations, dict) and self.citations.get("enabled") is True

    def parts(self) -> Iterator[Part]:
        if self.type not in ("document", "search_result"):
            yield from super().parts()
            return
        attributes = {"title": self.title, "source": self.origin}
        named = "".join(
            f' {name}="{html.escape(value)}"'
            for name, value in attributes.items()
            if isinstance(value, str)
        )
        yield f"<{self.type}{named}>"
        if isinstance(self.context, str):
            yield self.context
        yield from self.source.parts() if self.source is not None else ()
        for passage in self.passages or ():
            yield from passage.parts()
        yield f"</{self.type}>"


_SEARCH_RESULT = {"source": "origin", "content": "passages"}
"""A search result's `source` is an address that is only shown, its `content` holds texts."""


class Block(InnerBlock):
    """A block of a message. A call's `input` is a JSON object; `thinking` of any signature, or
    none, is an earlier thought; a compaction is the text that stands for what was before it."""

    OWN: ClassVar[Mapping[str, frozenset[str]]] = {
        **InnerBlock.OWN,
        "thinking": frozenset({"thinking", "signature"}),
        "redacted_thinking": frozenset({"data"}),
        "tool_use": frozenset({"id", "name", "input", "caller", "toolset_name"}),
        "tool_result": frozenset({"tool_use_id", "content", "is_error", "toolset_name"}),
        "compaction": frozenset({"text", "signature"}),
    }

    thinking: object = None
    signature: object = None
    data: object = None
    id: object = None
    name: Annotated[str | None, Field(validate_default=True)] = None
    input: CallArguments = "{}"
    caller: object = None
    toolset_name: object = None
    tool_use_id: object = None
    content: Annotated[list[InnerBlock] | None, BlockItems, BeforeValidator(as_blocks)] = None
    is_error: bool | None = None

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("type") == "compaction":
            value = {"type": "compaction", "text": value.get("content")}
        return super().understand(value)

    @field_validator("name")
    @classmethod
    def _of_a_call(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("type") == "tool_use":
            raise field_error("missing_required_parameter", "is required")
        return value

    @property
    def has_image(self) -> bool:
        return any(isinstance(part, bytes) for part in self.parts())

    def result(self) -> Iterator[Part]:
        """Yield what the model is shown of a tool's result. That it is an error is said in its
        first words, where it does not say so itself: no template has another place for it."""
        parts = [part for block in self.content or () for part in block.parts()]
        first = parts[0] if parts else ""
        if self.is_error and not (isinstance(first, str) and _ERROR.match(first)):
            parts = (
                [f"Error: {first}".rstrip(), *parts[1:]]
                if isinstance(first, str)
                else ["Error:", *parts]
            )
        yield from parts


_ERROR = re.compile(r"\s*<?(tool_use_)?error\b", re.IGNORECASE)
