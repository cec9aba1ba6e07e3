"""The shared options: what each becomes, and `--lora` as a user gives it."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import click
import gguf
import pytest

from localllm.cli import options
from localllm.cli.commands import run, size
from localllm.cli.commands.server import serve
from localllm.cli.options import parse_lora
from localllm.core.sizing.load import FlashAttention, KvType, Lora, RopeScaling, Speculate
from localllm.runtime.load_policy import CHAT, LoadChoice
from tests.engine import forged_lora, tiny


@pytest.mark.parametrize(
    ("value", "path", "scale"),
    [
        ("a.gguf", "a.gguf", 1.0),
        ("a.gguf:0.5", "a.gguf", 0.5),
        ("a.gguf:-1", "a.gguf", -1.0),
        ("a:b.gguf", "a:b.gguf", 1.0),
        ("a:b.gguf:2", "a:b.gguf", 2.0),
        (r"C:\models\a.gguf", r"C:\models\a.gguf", 1.0),
        (r"C:\models\a.gguf:0.5", r"C:\models\a.gguf", 0.5),
    ],
)
def test_a_scale_follows_the_last_colon(value: str, path: str, scale: float) -> None:
    assert parse_lora(value) == Lora(path=os.path.abspath(path), scale=scale)  # noqa: PTH100


def test_a_file_that_ends_like_a_scale_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:1").touch()
    assert parse_lora("a:1") == Lora(path=str(tmp_path / "a:1"))


@pytest.mark.parametrize("scale", ["nan", "inf", "1e9", "-101"])
def test_a_scale_out_of_range_is_refused(scale: str) -> None:
    with pytest.raises(click.BadParameter, match="-100 to 100"):
        parse_lora(f"a.gguf:{scale}")


def test_an_adapter_of_another_model_is_one_message_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    adapter = forged_lora.forge(tmp_path / "small.gguf", tiny.plain(tmp_path / "plain.gguf"))
    for file, message in (
        (adapter, b"another model's"),
        (tmp_path / "plain.gguf", b"not an adapter"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "localllm", "run", "starter", "Hi", "--lora", str(file)],
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count(b"\n") == 1
        assert not done.stdout


def test_size_counts_adapters(tmp_path: Path, smollm2: Path) -> None:
    adapter = forged_lora.forge(tmp_path / "adapter.gguf", smollm2)
    done = subprocess.run(
        [sys.executable, "-m", "localllm", "size", "starter", "--json", "--lora", f"{adapter}:0.5"],
        capture_output=True,
        timeout=120,
        check=True,
    )
    footprint = json.loads(done.stdout)["footprint"]
    tensors = gguf.GGUFReader(adapter).tensors
    assert footprint["adapter_bytes"] == sum(int(tensor.n_bytes) for tensor in tensors)


# --- the options of a load ---


def parsed(*arguments: str) -> LoadChoice:
    """The choice that a verb with every shared option of a load gets."""
    choices: list[LoadChoice] = []

    @click.command()
    @options.load_options(
        options.CONTEXT,
        options.PARALLEL,
        options.KV_TYPE,
        options.BATCH,
        options.UBATCH,
        options.GPU_LAYERS,
        options.CPU_MOE,
        options.NO_KV_OFFLOAD,
        options.CACHE_RAM,
        options.FLASH_ATTENTION,
        options.SWA_FULL,
        options.SPECULATE,
        options.DRAFT,
        options.LORA,
        *options.ROPE,
        base=CHAT,
    )
    def command(choice: LoadChoice) -> None:
        choices.append(choice)

    command.main(arguments, standalone_mode=False)
    return choices[0]


def test_without_an_option_a_load_is_as_the_verb_has_it() -> None:
    assert parsed() == CHAT


def test_every_option_of_a_load_is_its_field() -> None:
    given = (
        *("--ctx", "2048", "--parallel", "3", "--kv-type", "q8_0", "--batch", "1024"),
        *("--ubatch", "256", "--gpu-layers", "7", "--cpu-moe", "2", "--no-kv-offload"),
        *("--flash-attn", "on", "--swa-full", "--speculate", "ngram", "--draft", "small"),
        *("--lora", "a.gguf:0.5", "--rope-scaling", "yarn", "--rope-scale", "4"),
        *("--rope-freq-base", "1e6", "--rope-freq-scale", "0.25", "--yarn-orig-ctx", "8192"),
        *("--cache-ram", "2GiB"),
    )
    assert parsed(*given) == replace(
        CHAT, context=2048, parallel=3, kv_type=KvType.Q8_0, batch=1024, ubatch=256, gpu_layers=7,
        cpu_moe=2, kv_offload=False, flash_attention=FlashAttention.ON, swa_full=True,
        speculate=Speculate.NGRAM, draft="small", loras=(parse_lora("a.gguf:0.5"),),
        rope_scaling=RopeScaling.YARN, rope_scale=4.0, rope_freq_base=1e6, rope_freq_scale=0.25,
        yarn_orig_ctx=8192, cache_ram=2 * 2**30,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "base"),
    [
        (run.command, CHAT),
        (serve.command, LoadChoice()),
        (size.command, LoadChoice(parallel=1, vision=False)),
    ],
)
def test_a_verb_without_options_leaves_the_load_to_the_policy(
    verb: click.Command, base: LoadChoice
) -> None:
    parameters = verb.make_context("verb", ["starter"]).params
    for field in fields(base):
        expected = getattr(base, field.name)
        assert parameters.get(field.name, expected) == expected


@pytest.mark.parametrize(
    ("text", "parallel"), [(None, None), ("auto", None), ("1", 1), ("256", 256)]
)
def test_parallel_is_a_number_or_left_open(text: str | None, parallel: int | None) -> None:
    assert options.parse_parallel(text) == parallel
