"""Tokens over HTTP, as in llama-server and in vLLM: clients of both use the same paths.

vLLM's form is that of `prompt` and `messages`; lm-evaluation-harness scores with it, and needs no
tokenizer of its own then.
"""

from typing import Annotated

from pydantic import Field

from localllm.engine.messages import Loaded, Tokenized
from localllm.engine.messages.limits import MAX_TOKENIZE_TOKENS, TOKEN_ID
from localllm.server.schema import (
    OMIT_IF_NONE,
    WHOLE,
    ApiModel,
    ModelName,
    RequestModel,
    also_named,
    in_range,
)


class TokenizeBody(RequestModel):
    """The body of `/tokenize`: a text (`content`; in vLLM's form `prompt`) or a conversation.

    `add_special`: with BOS, by default for `prompt` alone. `parse_special`: control tokens in the
    text are recognised, by default.
    """

    model: ModelName | None = None
    content: str | None = None
    prompt: str | None = None
    messages: list[object] | None = None
    add_special: Annotated[bool | None, also_named("add_special", "add_special_tokens")] = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    return_token_strs: bool | None = None


class TokenPiece(ApiModel):
    """A token with its text, or its bytes where these are no text."""

    id: int
    piece: str | list[int]


class Tokenization(ApiModel):
    """`tokens` are numbers, or pieces `with_pieces`. `max_model_len`: tokens of the context."""

    tokens: list[int | TokenPiece]
    count: int
    max_model_len: int | None
    token_strs: Annotated[list[str] | None, OMIT_IF_NONE] = None

    @classmethod
    def of(cls, body: TokenizeBody, found: Tokenized, context: int | None) -> "Tokenization":
        pieces = [
            TokenPiece(id=token, piece=_piece(raw))
            for token, raw in zip(found.tokens, found.pieces, strict=True)
        ]
        return cls(
            tokens=[*pieces] if body.with_pieces else [*found.tokens],
            count=len(found.tokens),
            max_model_len=context,
            token_strs=[raw.decode("utf-8", "replace") for raw in found.pieces]
            if body.return_token_strs
            else None,
        )


def _piece(raw: bytes) -> str | list[int]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)


class DetokenizeBody(RequestModel):
    model: ModelName | None = None
    tokens: Annotated[
        list[Annotated[int, in_range(TOKEN_ID), WHOLE]],
        Field(max_length=MAX_TOKENIZE_TOKENS, fail_fast=True),
    ]


class Detokenization(ApiModel):
    """The text, under llama-server's name and under vLLM's."""

    content: str
    prompt: str


class RenderedPrompt(ApiModel):
    """The answer of `/apply-template`."""

    prompt: str


class TokenizerInfo(ApiModel):
    """The answer of `/tokenizer_info`, as in vLLM."""

    tokenizer_class: str = "llama.cpp"
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    add_bos_token: bool
    vocab_size: int
    model_max_length: int
    chat_template: str | None

    @classmethod
    def of(cls, loaded: Loaded) -> "TokenizerInfo":
        vocabulary = loaded.vocabulary
        return cls(
            bos_token=vocabulary.bos,
            eos_token=vocabulary.eos,
            pad_token=vocabulary.pad,
            add_bos_token=vocabulary.adds_bos,
            vocab_size=vocabulary.size,
            model_max_length=loaded.context,
            chat_template=loaded.chat_template,
        )


class ModelQuery(RequestModel):
    """The query of paths that describe a model: which, where there are several."""

    model: ModelName | None = None
