"""Nothing outside its range reaches native code."""

from dataclasses import fields, replace

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import (
    EmbedRequest,
    GenerateRequest,
    LoraScale,
    Message,
    Role,
    Sampling,
    Tool,
    ToolCall,
)
from localllm.engine.messages.limits import Range, ranges_of
from localllm.engine.messages.validation import (
    check_embed,
    check_generate,
    check_settings,
    check_tokens,
)
from localllm.errors import BadRequest, LoadFailed

REQUEST = GenerateRequest(request_id="a", prompt="hello")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 5.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_k", 2**31),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", float("inf")),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("penalty_last_n", -1),
        ("penalty_last_n", 2**31 - 1),
        ("typical_p", 1.01),
        ("top_n_sigma", -1.0),
        ("dynatemp_range", float("nan")),
        ("dynatemp_exponent", -1.0),
        ("xtc_probability", 1.1),
        ("xtc_threshold", -0.1),
        ("dry_multiplier", float("inf")),
        ("dry_base", -1.0),
        ("dry_allowed_length", -1),
        ("dry_penalty_last_n", 2**31 - 1),
        ("dry_sequence_breakers", ("",)),
        ("dry_sequence_breakers", ("x" * 41,)),
        ("dry_sequence_breakers", ("a\0b",)),
        ("dry_sequence_breakers", ("x",) * 17),
        ("mirostat", 3),
        ("mirostat_tau", float("nan")),
        ("mirostat_eta", -0.1),
        ("logit_bias", ((1, 101.0),)),
        ("logit_bias", ((1, 0.0),) * 4097),
        ("seed", -1),
        ("seed", 2**32 - 1),
        ("seed", 2**64),
        ("seed", 1.5),
    ],
)
def test_a_sampling_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    sampling = replace(Sampling(), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match=field):
        check_generate(replace(REQUEST, sampling=sampling))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0, top_k=0, top_p=0, min_p=1, seed=0),
        Sampling(temperature=5, top_p=1, min_p=0, seed=2**32 - 2, repeat_penalty=10),
        Sampling(frequency_penalty=-2, presence_penalty=2, penalty_last_n=0),
    ],
)
def test_the_edges_of_every_range_are_accepted(sampling: Sampling) -> None:
    check_generate(replace(REQUEST, sampling=sampling, max_tokens=1, stop=("x",) * 256))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LoadSettings(context=0), "context is 0"),
        (LoadSettings(context=-5), "context is -5"),
        (LoadSettings(parallel=257), "parallel is 257"),
        (LoadSettings(context=2**31 - 1, parallel=4), "smaller context"),
        (LoadSettings(parallel=64, batch=32), "Raise batch"),
        (LoadSettings(threads=0), "threads is 0"),
        (LoadSettings(threads=513), "threads is 513"),
        (LoadSettings(ubatch=0), "ubatch is 0"),
        (LoadSettings(gpu_layers=-2), "gpu_layers is -2"),
    ],
)
def test_a_setting_that_native_code_must_not_see_is_refused_by_name(
    settings: LoadSettings, message: str
) -> None:
    with pytest.raises(LoadFailed, match=message):
        check_settings(settings)


def test_the_default_settings_are_accepted() -> None:
    check_settings(LoadSettings())


@pytest.mark.parametrize(
    "request_",
    [
        replace(REQUEST, stop_tokens=(100,)),
        replace(REQUEST, stop_tokens=(-1,)),
        replace(REQUEST, stop_tokens=(1,) * 257),
        replace(REQUEST, sampling=Sampling(logit_bias=((100, 1.0),))),
    ],
)
def test_a_token_that_the_vocabulary_has_not_is_refused(request_: GenerateRequest) -> None:
    with pytest.raises(BadRequest, match=r"this model's are 0 to 99|257 stop tokens"):
        check_tokens(request_, 100)


@pytest.mark.parametrize(("field", "value"), [("min_tokens", -1), ("top_logprobs", 21)])
def test_a_count_out_of_range_is_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(BadRequest, match=field):
        check_generate(replace(REQUEST, **{field: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", ["", "[]", "{", "1", '{"a":' * 200 + "1" + "}" * 200])
def test_an_earlier_call_is_taken_as_the_model_wrote_it(arguments: str) -> None:
    call = ToolCall(id="a", name="", arguments=arguments)
    message = Message(role=Role.ASSISTANT, content="", tool_calls=(call,))
    check_generate(GenerateRequest(request_id="a", messages=(message,)))


def test_a_schema_that_is_nested_too_deep_is_refused() -> None:
    deep = '{"properties": {"a": ' * 200 + "{}" + "}}" * 200
    tool = Tool(name="f", parameters=deep)
    hello = Message(role=Role.USER, content="Hello")
    with pytest.raises(BadRequest, match="nested more than"):
        check_generate(GenerateRequest(request_id="a", messages=(hello,), tools=(tool,)))


def test_every_number_of_sampling_has_a_range_that_holds_its_default() -> None:
    ranges = ranges_of(Sampling)
    texts = {"dry_sequence_breakers", "logit_bias"}
    assert set(ranges) == {field.name for field in fields(Sampling)} - texts
    for name, values in ranges.items():
        default = getattr(Sampling(), name)
        assert default is None or default in values, name
        assert default is None or isinstance(default, values.type), name


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        (Range(int, 0, 2), (0, 1, 2), (-1, 3, 1.0, "1", None)),
        (Range(float, 0, 1), (0, 0.5, 1.0), (-0.1, 1.1, float("nan"), "1", None)),
        (Range(float, 0, 1, low_open=True), (1e-300, 1), (0, 0.0, float("inf"))),
    ],
)
def test_a_range_holds_its_ends_and_no_other_type(
    values: Range, inside: tuple[object, ...], outside: tuple[object, ...]
) -> None:
    assert all(value in values for value in inside)
    assert not any(value in values for value in outside)


def test_the_numbers_of_other_messages_are_checked_by_the_same_table() -> None:
    with pytest.raises(BadRequest, match="adapters: id is 64; it can be a whole number from 0 to"):
        check_generate(replace(REQUEST, loras=(LoraScale(id=64),)))
    with pytest.raises(BadRequest, match="dimensions is 0"):
        check_embed(EmbedRequest(request_id="a", inputs=("x",), dimensions=0))
    with pytest.raises(BadRequest, match="repeat_penalty is 0; it can be above 0 to 10"):
        check_generate(replace(REQUEST, sampling=Sampling(repeat_penalty=0)))
