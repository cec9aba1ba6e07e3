"""The request of `/v1/completions`: OpenAI's older endpoint, which continues texts."""

from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import GenerateRequest
from localllm.engine.messages.limits import MAX_INT32, MAX_N
from localllm.server.dialects.openai.embeddings import is_token_ids
from localllm.server.dialects.openai.fields import MaxTokens, OpenAiFields, TopLogprobs
from localllm.server.generation.request import new_request_id
from localllm.server.schema import WHOLE, also_named, field_error, minus_one_is, unsupported

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint, which clients rely on (API reference, 2026-11)."""

_AS_MANY_AS_FIT = MAX_INT32
"""The context ends the answer long before."""

Prompt = str | tuple[int, ...]


def _prompts(value: object) -> object:
    """Accept a text, an array of token ids, or an array of either."""
    if value is None:
        return None
    if isinstance(value, str) or _is_prompt_of_tokens(value):
        value = [value]
    if not isinstance(value, list):
        raise field_error("invalid_type", "must be a string, token ids, or an array of either")
    if not 1 <= len(value) <= MAX_N:
        raise field_error("invalid_value", "must hold 1 to {most} prompts", most=MAX_N)
    if not all(isinstance(prompt, str) or _is_prompt_of_tokens(prompt) for prompt in value):
        raise field_error("invalid_type", "must be a string, token ids, or an array of either")
    return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in value]


def _is_prompt_of_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and is_token_ids(value)


class CompletionRequest(OpenAiFields):
    """The body of `/v1/completions`; null is the same as nothing."""

    prompt: Annotated[
        list[Prompt], BeforeValidator(_prompts, json_schema_input_type=Prompt | list[Prompt])
    ]
    echo: bool | None = None
    logprobs: TopLogprobs | None = None
    max_tokens: Annotated[
        MaxTokens | None,
        minus_one_is(_AS_MANY_AS_FIT),
        also_named("max_tokens", "max_new_tokens", "n_predict"),
    ] = None
    best_of: Annotated[int, Field(ge=1), WHOLE] | None = None
    suffix: str | None = None
    messages: Annotated[
        object, unsupported([], reason="belongs to /v1/chat/completions: here is a `prompt`")
    ] = None

    @field_validator("prompt")
    @classmethod
    def _not_too_many(cls, value: list[Prompt], info: ValidationInfo) -> list[Prompt]:
        answers = info.data.get("n") or 1
        if len(value) * answers > MAX_N:
            raise field_error(
                "invalid_value",
                "has {prompts} prompts with {answers} answers to each; {most} answers are the most",
                prompts=len(value),
                answers=answers,
                most=MAX_N,
            )
        return value

    @field_validator("suffix")
    @classmethod
    def _joins_texts(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("echo"):
            raise field_error("invalid_value", "goes with no `echo`")
        if value and any(isinstance(prompt, tuple) for prompt in info.data.get("prompt") or ()):
            raise field_error("invalid_value", "goes with a `prompt` that is a text")
        return value

    @field_validator("max_tokens")
    @classmethod
    def _zero_only_scores(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value == 0 and not (info.data.get("echo") and (info.data.get("n") or 1) == 1):
            raise field_error("invalid_value", "is 0, which goes with `echo`: true and `n` 1 only")
        return value

    @field_validator("best_of")
    @classmethod
    def _all_are_answered(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value != (info.data.get("n") or 1):
            raise field_error(
                "unsupported_parameter", "must be what `n` is: all answers are returned, unranked"
            )
        return value

    def generate_requests(self) -> list[GenerateRequest]:
        """Make the engine's requests, one for each prompt, under new ids."""
        request_id = new_request_id("cmpl")
        base = replace(
            self.base_request(request_id),
            max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            top_logprobs=self.logprobs,
            echo=bool(self.echo),
        )
        return [
            replace(
                base,
                request_id=f"{request_id}-{index}" if index else request_id,
                prompt=prompt if isinstance(prompt, str) else None,
                suffix=self.suffix or None,  # an empty one asks for a continuation
                prompt_tokens=None if isinstance(prompt, str) else prompt,
            )
            for index, prompt in enumerate(self.prompt)
        ]
