"""What `/v1/completions` is asked: OpenAI's older endpoint, which continues a text."""

import secrets
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from localllm.engine.messages import GenerateRequest
from localllm.engine.messages.limits import MAX_N, MAX_TOP_LOGPROBS
from localllm.server.dialects.openai.generation import Generation, NativeInt
from localllm.server.lora import loras
from localllm.server.schema import neutral, refusal

DEFAULT_MAX_TOKENS = 16
"""What clients of this endpoint count on (OpenAI's API reference, 2026-11)."""

Prompt = str | tuple[int, ...]


def _prompts(value: object) -> object:
    """One text, one list of token ids, or a list of either."""
    if value is None:
        return None
    if isinstance(value, str) or _are_tokens(value):
        value = [value]
    if not isinstance(value, list):
        raise refusal("invalid_type", "must be a string, token ids, or an array of either")
    if not 1 <= len(value) <= MAX_N:
        raise refusal("invalid_value", "must hold 1 to {most} prompts", most=MAX_N)
    if not all(isinstance(each, str) or _are_tokens(each) for each in value):
        raise refusal("invalid_type", "must be a string, token ids, or an array of either")
    return [each if isinstance(each, str) else tuple(each) for each in value]


def _are_tokens(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and 0 <= token < 2**31 for token in value)
    )


class CompletionRequest(Generation):
    """The body of `/v1/completions`; null is the same as nothing."""

    prompt: Annotated[list[Prompt], BeforeValidator(_prompts)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_tokens: NativeInt | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    suffix: Annotated[object, neutral()] = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        answers = self.answers
        if self.best_of is not None and self.best_of != answers:
            raise refusal("unsupported_parameter", "has a `best_of` that is not its `n`")
        if len(self.prompt) * answers > MAX_N:
            raise refusal(
                "invalid_value",
                "has {prompts} prompts and wants {answers} answers to each; {most} are the most",
                prompts=len(self.prompt),
                answers=answers,
                most=MAX_N,
            )
        if self.max_tokens == 0 and not (self.echo and answers == 1):
            raise refusal("invalid_value", "has `max_tokens` 0, which goes with `echo` and one `n`")
        return self

    @property
    def answers(self) -> int:
        """To each prompt."""
        return self.n or 1

    def generate_requests(self) -> list[GenerateRequest]:
        """Say the same to the engine: a request for each prompt, under new names."""
        name = f"cmpl-{secrets.token_hex(12)}"
        return [
            GenerateRequest(
                request_id=f"{name}-{number}" if number else name,
                prompt=prompt if isinstance(prompt, str) else None,
                prompt_tokens=None if isinstance(prompt, str) else prompt,
                sampling=self.sampling,
                max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
                stop=tuple(self.stop or ()),
                ignore_eos=bool(self.ignore_eos),
                min_tokens=self.min_tokens or 0,
                top_logprobs=self.logprobs,
                n=self.answers,
                echo=bool(self.echo),
                loras=loras(self.lora),
            )
            for number, prompt in enumerate(self.prompt)
        ]
