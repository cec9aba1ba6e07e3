"""What Ollama's requests become, and how its numbers are made: no server is needed."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import (
    Effort,
    Finished,
    FinishReason,
    GrammarKind,
    Overflow,
    Role,
    Thinking,
    Timings,
)
from localllm.library.store.installed import InstalledModel
from localllm.runtime.model_pool.listing import ModelListing
from localllm.server.dialects.ollama.answer import Metrics
from localllm.server.dialects.ollama.chat_request import ChatRequest
from localllm.server.dialects.ollama.generate_request import PromptRequest
from localllm.server.dialects.ollama.model_facts import human_number
from localllm.server.dialects.ollama.models import served_name, tagged
from localllm.server.errors import ApiError
from localllm.server.request_body import validate

PIXEL = base64.b64encode(b"\x89PNG not a real one").decode()


def test_every_field_of_a_chat_reaches_the_engine() -> None:
    request = validate(
        ChatRequest,
        {
            "model": "m",
            "messages": [
                {"role": "System", "content": "Be brief."},
                {"role": "user", "content": "What is this?", "images": [PIXEL]},
                {"role": "assistant", "thinking": "Hm.", "tool_calls": [
                    {"function": {"name": "get_weather", "arguments": {"city": "Rome"}}},
                ]},
                {"role": "tool", "tool_name": "get_weather", "content": "sunny"},
            ],
            "options": {
                "num_predict": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.4, "min_p": 0.1,
                "typical_p": 0.9, "repeat_last_n": 5, "repeat_penalty": 1.1, "seed": 9,
                "presence_penalty": 0.2, "frequency_penalty": 0.3, "mirostat": 2,
                "mirostat_tau": 4, "mirostat_eta": 0.2, "stop": ["X"],
            },
            "format": {"type": "object"},
            "think": "max",
            "logprobs": True,
            "top_logprobs": 2,
            "truncate": False,
            "tools": [{"type": "function", "function": {"name": "get_weather"}}],
        },
    ).generate_request()  # fmt: skip
    system, question, call, result = request.messages or ()
    assert (system.role, system.content) == (Role.SYSTEM, "Be brief.")
    assert question.content == "What is this?"
    assert [image.offset for image in question.images] == [0]
    assert (call.reasoning, call.tool_calls[0].arguments) == ("Hm.", '{"city": "Rome"}')
    assert result.tool_call_id == call.tool_calls[0].id
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (
        0.5, 3, 0.4, 0.1,
    )  # fmt: skip
    assert (sampling.typical_p, sampling.penalty_last_n, sampling.repeat_penalty) == (0.9, 5, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.2, 0.3)
    assert (sampling.mirostat, sampling.mirostat_tau, sampling.mirostat_eta) == (2, 4, 0.2)
    assert (sampling.seed, request.stop, request.max_tokens) == (9, ("X",), 7)
    assert request.grammar is not None
    assert (request.grammar.kind, request.top_logprobs) == (GrammarKind.JSON_SCHEMA, 2)
    assert request.thinking == Thinking(enabled=True, effort=Effort.XHIGH)
    assert (request.overflow, request.tools[0].name) == (Overflow.ERROR, "get_weather")


@pytest.mark.parametrize("num_predict", [None, -1, -2])
def test_an_answer_without_a_limit_has_none(num_predict: int | None) -> None:
    body = {"prompt": "x", "options": {"num_predict": num_predict, "num_ctx": 0}}
    request = validate(PromptRequest, body).generate_request()
    assert request.max_tokens is None
    assert request.overflow is Overflow.ROLL  # as `truncate` is by default


def test_a_prompt_is_a_conversation_unless_it_is_raw() -> None:
    asked = validate(
        PromptRequest, {"prompt": "x", "system": "s", "images": [PIXEL], "format": "json"}
    ).generate_request()
    system, question = asked.messages or ()
    assert (system.content, question.content, len(question.images)) == ("s", "x", 1)
    assert asked.grammar is not None
    assert asked.grammar.kind is GrammarKind.JSON_OBJECT
    raw = validate(PromptRequest, {"prompt": "x", "raw": True, "format": ""}).generate_request()
    assert (raw.prompt, raw.messages, raw.grammar) == ("x", None, None)
    middle = validate(PromptRequest, {"prompt": "a", "suffix": "b"}).generate_request()
    assert (middle.prompt, middle.suffix, middle.messages) == ("a", "b", None)


@pytest.mark.parametrize(
    ("body", "at_fault"),
    [
        ({"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
        ({"prompt": "x", "context": [1, 2]}, "context"),
        ({"prompt": "x", "raw": True, "system": "s"}, "system"),
        ({"prompt": "x", "suffix": "y", "images": [PIXEL]}, "images"),
        ({"prompt": "x", "width": 512}, "width"),
        ({"prompt": "x", "images": ["%"]}, "images[0]"),
        ({"prompt": "x", "think": "much"}, "think"),
        ({"prompt": "x", "format": "xml"}, "format"),
        ({"prompt": "x", "options": {"temperature": "hot"}}, "options.temperature"),
        ({"prompt": "x", "options": {"num_predict": 0}}, "options.num_predict"),
        ({"prompt": "x", "keep_alive": "soon"}, "keep_alive"),
    ],
)
def test_what_cannot_be_done_names_the_field(body: dict[str, object], at_fault: str) -> None:
    with pytest.raises(ApiError) as refused:
        validate(PromptRequest, body)
    assert refused.value.param == at_fault
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300), (0, 0), (1.5, 1.5), ("5m", 300), ("1h30m", 5400), ("300ms", 0.3), ("0", 0),
        ("10", 10), ("-0", 0), (-1, float("inf")), ("-1", float("inf")), ("-1m", float("inf")),
    ],
)  # fmt: skip
def test_a_time_to_keep_a_model_is_read_as_go_reads_it(value: object, seconds: float) -> None:
    assert validate(ChatRequest, {"keep_alive": value}).keep_alive == pytest.approx(seconds)


@given(st.text(max_size=12) | st.none() | st.booleans() | st.lists(st.integers(), max_size=1))
def test_nonsense_is_no_time(value: object) -> None:
    try:
        body = validate(ChatRequest, {"keep_alive": value})
    except ApiError as error:
        assert error.param == "keep_alive"
    else:
        assert body.keep_alive is None or body.keep_alive >= 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(134_515_008, "134.52M"), (7_241_732_096, "7.2B"), (8_000_000_000, "8B"), (900, "900")],
)
def test_numbers_of_parameters_look_as_in_ollama(count: int, text: str) -> None:
    assert human_number(count) == text


@given(
    queue=st.floats(0, 10), prompt=st.floats(0, 10), answer=st.floats(0, 10), before=st.floats(0, 9)
)
def test_durations_add_up(queue: float, prompt: float, answer: float, before: float) -> None:
    timings = Timings(
        queue_s=queue,
        ttft_s=queue + prompt,
        total_s=queue + prompt + answer,
        prefill_tps=None,
        decode_tps=None,
    )
    end = Finished(
        request_id="r",
        reason=FinishReason.STOP,
        prompt_tokens=5,
        completion_tokens=6,
        cached_tokens=1,
        timings=timings,
    )
    metrics = Metrics.of(end, before + timings.total_s)
    parts = metrics.load_duration + metrics.prompt_eval_duration + metrics.eval_duration
    assert parts == pytest.approx(metrics.total_duration, abs=10)
    assert metrics.prompt_eval_duration == pytest.approx(prompt * 1e9, abs=1e4)
    assert metrics.load_duration == pytest.approx((before + queue) * 1e9, abs=1e4)


def listing(name: str, quant: str, *aliases: str) -> ModelListing:
    file = Path(f"{name}-{quant}.gguf")
    model = InstalledModel(name=name, quant=quant, path=file, size_bytes=1)
    return ModelListing(name=name, model=model, aliases=aliases)


MODELS = (
    listing("starter", "Q4_1", "gpt-4o", "my:model"),
    listing("llama3.2-3b", "Q4_K_M"),
    listing("Qwen3-8B", "Q6_K"),
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("starter", "starter"), ("starter:latest", "starter"), ("STARTER:Latest", "starter"),
        ("starter:q4_1", "starter"), ("gpt-4o:latest", "gpt-4o"), ("my:model", "my:model"),
        ("llama3.2:3b", "llama3.2-3b"), ("llama3.2:3b-q4_K_M", "llama3.2-3b"),
        ("registry.ollama.ai/library/qwen3:8b", "Qwen3-8B"),
        ("starter:q8_0", "starter:q8_0"), ("other", "other"), ("", ""),
    ],
)  # fmt: skip
def test_models_are_found_by_the_names_that_clients_write(text: str, name: str) -> None:
    assert served_name(text, MODELS) == name


def test_a_listed_name_leads_back_to_its_model() -> None:
    for model in MODELS:
        for name in (model.name, *model.aliases):
            assert served_name(tagged(name), MODELS) == name
