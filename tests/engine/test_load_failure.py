"""Why a load failed: llama.cpp's own reason, from real refusals and from recorded logs."""

import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.client.exit_reason import exit_reason, last_words
from localllm.engine.messages import LoadRequest, ProbeRequest
from localllm.engine.worker.llama.load_failure import LogLine, failure_reason, refusal
from localllm.errors import EngineCrashed, LoadFailed
from tests.engine import tiny
from tests.engine.tiny import Shapes

SMALL = LoadSettings(context=256, threads=2)
Edit = Callable[[gguf.GGUFWriter], None]


async def refused(path: Path) -> str:
    engine = ProcessEngine()
    try:
        with pytest.raises(LoadFailed) as raised:
            async for _ in engine.load(LoadRequest(path=str(path), settings=SMALL)):
                pass
    finally:
        await engine.close()
    return str(raised.value)


def without(key: str) -> Edit:
    return lambda writer: writer.kv_data[0].pop(key) and None


def text(key: str, value: str) -> Edit:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop(key, None)
        writer.add_string(key, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "names", "helps"),
    [
        (
            without("llama.attention.layer_norm_rms_epsilon"),
            "key not found in model: llama.attention.layer_norm_rms_epsilon",
            "another file",
        ),
        (text("tokenizer.ggml.model", "supertok"), "unknown tokenizer: 'supertok'", "pip install"),
        (text("tokenizer.ggml.pre", "superpre"), "type: 'superpre'", "pip install"),
        (without("tokenizer.ggml.merges"), "cannot find tokenizer merges", "another file"),
        (
            text("general.architecture", "superllm9"),
            "unknown model architecture: 'superllm9'",
            "pip install --upgrade localllm",
        ),
        (text("general.architecture", "flux"), "architecture: 'flux'", "stable-diffusion.cpp"),
        (text("general.architecture", "gptoss"), "architecture: 'gptoss'", "Ollama's own engine"),
    ],
)
async def test_a_refused_header_is_named_with_what_would_help(
    edit: Edit, names: str, helps: str, tmp_path: Path
) -> None:
    message = await refused(tiny.plain(tmp_path / "model.gguf", edit=edit))
    assert "refused model.gguf: " in message
    assert names in message
    assert helps in message
    assert "failed to load model" not in message


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda shapes: shapes | {"blk.1.attn_q.weight": (9, tiny.WIDTH)}, "blk.1.attn_q.weight"),
        (lambda shapes: shapes | {"blk.0.extra.weight": (tiny.WIDTH,)}, "number of tensors"),
        (
            lambda shapes: {k: v for k, v in shapes.items() if k != "blk.1.ffn_up.weight"},
            "blk.1.ffn_up.weight",
        ),
    ],
)
async def test_a_refused_tensor_is_named(
    change: Callable[[Shapes], Shapes], names: str, tmp_path: Path
) -> None:
    message = await refused(tiny.plain(tmp_path / "model.gguf", tensors=change))
    assert names in message
    assert "converted for llama.cpp" in message or "another file of the model" in message


async def test_a_dry_run_gives_the_same_reason_as_the_load(tmp_path: Path) -> None:
    path = tiny.plain(tmp_path / "m.gguf", edit=text("general.architecture", "superllm9"))
    engine = ProcessEngine()
    with pytest.raises(LoadFailed) as raised:
        await engine.probe(ProbeRequest(path=str(path), settings=SMALL))
    await engine.close()
    assert str(raised.value) == await refused(path)


def lines(*texts: str) -> list[LogLine]:
    return [LogLine(each, error=True) for each in texts]


def test_the_word_of_a_backend_on_memory_is_part_of_the_reason() -> None:
    reason = failure_reason(
        lines(
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB on device 0: "
            "cudaMalloc failed: out of memory",
            "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4294967296",
            "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
            "llama_model_load_from_file_impl: failed to load model",
        )
    )
    assert reason is not None
    assert reason.startswith("unable to allocate CUDA0 buffer (allocating 4096.00 MiB")
    assert "out of memory" in reason


def test_a_context_that_cannot_be_made_says_why() -> None:
    message = refusal(
        "a context with these settings",
        lines(
            "llama_init_from_model: V cache quantization requires flash_attn",
            "llama_init_from_model: failed to initialize the context",
        ),
    )
    assert message == (
        "llama.cpp refused a context with these settings: V cache quantization requires flash_attn."
    )


def test_a_mapping_that_fails_names_the_option_that_does_without() -> None:
    message = refusal("m", lines("llama_model_load: error loading model: mmap failed: No device"))
    assert "--no-mmap" in message


def test_a_warning_that_sounds_like_an_error_is_taken_when_nothing_else_is_there() -> None:
    assert failure_reason([LogLine("foo_bar: something failed here", error=False)]) == (
        "something failed here"
    )
    assert failure_reason([LogLine("all is well", error=False)]) is None
    assert "it gave no reason" in refusal("m", ())


def test_names_from_a_file_cannot_write_on_the_terminal() -> None:
    message = refusal(
        "m", lines("llama_model_load: error loading model: unknown tokenizer: 'a\x1b[2Jb\n'")
    )
    assert "\x1b" not in message
    assert "\n" not in message


@given(st.lists(st.builds(LogLine, st.text(max_size=80), st.booleans()), max_size=8))
def test_any_log_gives_one_line(log: list[LogLine]) -> None:
    message = refusal("m", log)
    assert message.startswith("llama.cpp refused m: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (0, "exit status 0"),
        (3, "exit status 3"),
        (-4, "SIGILL"),
        (-11, "SIGSEGV"),
        (3221225501, "SIGILL"),  # STATUS_ILLEGAL_INSTRUCTION, as Windows has it
        (-1073741795, "SIGILL"),
        (3221225477, "access violation (0xC0000005)"),
        (0xC0000135, "a DLL is missing"),
        (-200, "signal 200"),
    ],
)
def test_the_end_of_a_process_has_a_name(status: int, reason: str) -> None:
    assert exit_reason(status).startswith(reason)


def test_a_failed_assertion_is_the_reason_of_a_crash() -> None:
    log = ("llama_context: n_ctx = 512", "/src/ggml.c:12: GGML_ASSERT(n > 0) failed", "")
    assert last_words(log) == "/src/ggml.c:12: GGML_ASSERT(n > 0) failed"
    thrown = ("terminate called after throwing an instance of 'E'", "  what():  no such thing")
    assert last_words(thrown) == "no such thing"
    assert last_words(("llama_context: n_ctx = 512",)) is None


async def test_a_crash_carries_the_advice_of_who_knows_the_machine() -> None:
    program = (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    engine = ProcessEngine(program=program, crash_advice=lambda reason: f" Advice: {reason}.")
    with pytest.raises(EngineCrashed, match=r"ended \(SIGILL\)\. Advice: SIGILL\."):
        await engine.describe()
    await engine.close()
