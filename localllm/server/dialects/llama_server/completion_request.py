"""The requests of `/completion` and `/infill`, llama-server's own way to continue a text.

What editors send is in llama.vim and llama.vscode; fields of theirs that are not here change no
answer (`cache_prompt`, `id_slot`, `t_max_prompt_ms`) or are named in `x-localllm-ignored`.
"""

from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from localllm.engine.messages import GenerateRequest, SourceFile
from localllm.engine.messages.limits import (
    LOGIT_BIAS,
    MAX_FILES,
    MAX_INT32,
    MAX_LOGIT_BIASES,
    MAX_TOP_LOGPROBS,
    TOKEN_ID,
)
from localllm.server.dialects.llama_server.line_limits import LineLimits
from localllm.server.generation.request import (
    GenerationFields,
    StopStrings,
    json_schema_grammar,
    new_request_id,
)
from localllm.server.schema import (
    WHOLE,
    ModelName,
    RequestModel,
    also_named,
    field_error,
    in_range,
    minus_one_is,
    unsupported,
)

_NEVER = -100.0
"""The bias of a token that is `false`."""


def _biases(value: object) -> object:
    """Read `[[token, bias], ...]` or `{token: bias}`; false as a bias: never."""
    if isinstance(value, dict):
        value = [
            [int(key) if key.isascii() and key.isdigit() and len(key) < 11 else key, bias]
            for key, bias in value.items()
        ]
    if not isinstance(value, list) or not all(
        isinstance(each, list) and len(each) == 2 for each in value
    ):
        raise field_error("invalid_type", "must be an array of a token and a bias each")
    return [(token, _NEVER if bias is False else bias) for token, bias in value]


_Bias = tuple[Annotated[int, in_range(TOKEN_ID), WHOLE], Annotated[float, in_range(LOGIT_BIAS)]]
_BiasInput = list[tuple[int, float | bool]] | dict[str, float | bool]


def _prompt(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class NativeFields(GenerationFields):
    """The fields that `/completion` and `/infill` share; null is the same as nothing."""

    model: ModelName | None = None
    n_predict: Annotated[
        Annotated[int, Field(ge=0, le=MAX_INT32), WHOLE] | None,
        minus_one_is(None),
        also_named("n_predict", "max_tokens"),
    ] = None
    stop: StopStrings | None = None
    stream: bool | None = None
    n_probs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), WHOLE] | None = None
    logit_bias: (
        Annotated[
            list[_Bias],
            Field(max_length=MAX_LOGIT_BIASES, fail_fast=True),
            BeforeValidator(_biases, json_schema_input_type=_BiasInput),
        ]
        | None
    ) = None
    json_schema: dict[str, object] | None = None
    grammar: Annotated[
        object, unsupported("", reason="is not supported: send `json_schema` instead")
    ] = None
    return_tokens: bool | None = None
    response_fields: Annotated[list[str], Field(max_length=256)] | None = None
    post_sampling_probs: Annotated[object, unsupported(False)] = None
    n_indent: Annotated[int, Field(ge=0, le=MAX_INT32), WHOLE] | None = None
    t_max_predict_ms: Annotated[float, Field(ge=0, le=MAX_INT32), minus_one_is(0)] | None = None

    @property
    def only_reads(self) -> bool:
        """True when nothing is to be generated: the prompt is brought into the cache."""
        return self.n_predict == 0

    @property
    def line_limits(self) -> LineLimits | None:
        """The limits that end the answer with a line; None without any."""
        if not self.n_indent and not self.t_max_predict_ms:
            return None
        time_s = self.t_max_predict_ms / 1000 if self.t_max_predict_ms else None
        return LineLimits(min_indent=self.n_indent or 0, time_s=time_s)

    def native_request(self, prefix: str) -> GenerateRequest:
        """Make the engine's request, but for the prompt, under a new id."""
        request = self.base_request(new_request_id(prefix))
        return replace(
            request,
            sampling=replace(request.sampling, logit_bias=tuple(self.logit_bias or ())),
            max_tokens=max(1, self.n_predict) if self.n_predict is not None else None,
            stop=tuple(self.stop or ()),
            top_logprobs=self.n_probs or (0 if self.return_tokens else None),
            grammar=json_schema_grammar(self.json_schema) if self.json_schema else None,
        )


class CompletionBody(NativeFields):
    """The body of `/completion`."""

    prompt: Annotated[
        str | tuple[Annotated[int, in_range(TOKEN_ID), WHOLE], ...],
        BeforeValidator(_prompt, json_schema_input_type=str | list[int]),
    ]

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if not value:
            raise field_error("invalid_value", "must not be empty")
        return value

    def generate_request(self) -> GenerateRequest:
        """Make the engine's request, under a new id."""
        text = isinstance(self.prompt, str)
        return replace(
            self.native_request("cmpl"),
            prompt=self.prompt if isinstance(self.prompt, str) else None,
            prompt_tokens=None if text else tuple(self.prompt),  # type: ignore[arg-type]  # no text
        )


class ExtraFile(RequestModel):
    """A piece of another file; llama-server calls one without a name `tmp`."""

    text: str = ""
    filename: str = "tmp"


class InfillBody(NativeFields):
    """The body of `/infill`. `prompt` is the text that is next to the gap, behind `input_prefix`:
    editors send the line with the cursor in it."""

    input_prefix: str
    input_suffix: str
    prompt: str = ""
    input_extra: Annotated[list[ExtraFile], Field(max_length=MAX_FILES, fail_fast=True)] = Field(
        default_factory=list
    )

    def generate_request(self) -> GenerateRequest:
        """Make the engine's request, under a new id."""
        return replace(
            self.native_request("infill"),
            prompt=self.input_prefix + self.prompt,
            suffix=self.input_suffix,
            files=tuple(SourceFile(name=f.filename, text=f.text) for f in self.input_extra),
        )
