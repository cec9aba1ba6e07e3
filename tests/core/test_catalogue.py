"""The catalogue: what its text may say, what models.toml promises, what follows from an entry."""

import csv
import statistics
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core import gguf
from localllm.core.catalogue.catalogue import COMMON_QUANTS, Entry, Task, parse
from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import ModelSpec
from localllm.errors import UsageError

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "models.toml").read_text(encoding="utf-8")
PUBLISHED = Path(__file__).parent / "data" / "published_sizes.csv"

ONE = """\
[[model]]
name = "tiny"
title = "Tiny"
family = "Tiny"
tasks = ["chat"]
source = "maker/tiny"
repos = ["maker/tiny-GGUF"]
license = "MIT"
business = true
parameters = 20_640
context = 128
released = 2025-01-02
architecture = "llama"
vocabulary = 32
tokenizer = "llama"
[model.gguf]
block_count = 2
embedding_length = 32
feed_forward_length = 64
attention.head_count = 4
attention.head_count_kv = 2
"""


@pytest.fixture(scope="module")
def entries() -> tuple[Entry, ...]:
    return parse(TEXT)


@pytest.fixture(scope="module")
def named(entries: tuple[Entry, ...]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


def test_the_file_covers_every_task_and_size_class(entries: tuple[Entry, ...]) -> None:
    assert len(entries) >= 60
    assert len({entry.family for entry in entries}) >= 12
    assert {task for entry in entries for task in entry.tasks} == {*Task}
    edges = (0, 1e9, 3e9, 6e9, 12e9, 20e9, 40e9, 100e9, 1e12)
    for low, high in pairwise(edges):
        assert sum(low <= e.parameters < high for e in entries) >= 3, (low, high)


def test_every_entry_states_the_parameters_its_tensors_hold(entries: tuple[Entry, ...]) -> None:
    for entry in entries:
        assert entry.parameters == pytest.approx(entry.blueprint.parameters, rel=0.01), entry.name
        active = entry.blueprint.active_parameters
        assert entry.active_parameters == pytest.approx(active, rel=0.01), entry.name


def test_the_starter_is_in_the_file(named: dict[str, Entry]) -> None:
    assert named["smollm2-135m"].parameters == 134_515_008


def test_published_files_are_sized_within_a_percent(named: dict[str, Entry]) -> None:
    """Each file as its publisher makes it; Phi-4's IQ files are made without an importance
    matrix, and unsloth gives Qwen3.5's recurrent layers more bits than llama.cpp would."""
    known = {("phi-4", "IQ3_XXS"), ("qwen3.5-4b", "Q4_K_M")}
    errors: dict[tuple[str, str], float] = {}
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            imatrix = row["repository"].startswith(("unsloth/", "bartowski/"))
            blueprint = replace(named[row["model"]].blueprint, imatrix=imatrix)
            size = int(row["size_bytes"])
            errors[row["model"], row["quant"]] = blueprint.file_bytes(row["quant"]) / size - 1
    assert len(errors) > 200
    assert {key for key, error in errors.items() if abs(error) > 0.01} <= known
    assert statistics.median(abs(error) for error in errors.values()) < 0.0005


def test_a_spec_weighs_what_the_quick_sum_says(entries: tuple[Entry, ...]) -> None:
    for entry in entries:
        spec = entry.spec(entry.quants[-1])
        assert sum(t.size_bytes for t in spec.tensors) == entry.weights_bytes(entry.quants[-1])
        assert len({t.name for t in spec.tensors}) == len(spec.tensors)


def test_fewer_bits_never_weigh_more(entries: tuple[Entry, ...]) -> None:
    for entry in entries:
        for rich, poor in (("BF16", "Q8_0"), ("Q8_0", "Q6_K"), ("Q6_K", "Q4_K_M")):
            assert entry.weights_bytes(poor) <= entry.weights_bytes(rich), entry.name


def test_a_spec_reads_like_the_header_of_the_file(named: dict[str, Entry]) -> None:
    spec = named["deepseek-v2-lite"].spec("Q4_K_M")
    assert spec.architecture == "deepseek2"
    assert spec.metadata["general.file_type"] == 15
    assert spec.metadata["deepseek2.attention.kv_lora_rank"] == 512
    assert spec.metadata["deepseek2.context_length"] == 163840
    ends = [t.offset + t.size_bytes for t in spec.tensors]
    assert all(t.offset % spec.alignment == 0 for t in spec.tensors)
    assert max(ends) <= spec.file_bytes - spec.data_offset


def types(spec: ModelSpec) -> dict[str, tuple[tuple[int, ...], GgmlType]]:
    return {tensor.name: (tensor.shape, tensor.type) for tensor in spec.tensors}


def test_real_files_hold_the_tensors_the_catalogue_expects(
    named: dict[str, Entry], smollm2: Path, gemma3: Path
) -> None:
    for path, name, quant in (
        (smollm2, "smollm2-135m", "Q4_1"),
        (gemma3, "gemma-3-270m", "Q4_K_M"),
    ):
        with path.open("rb") as file:
            real = gguf.read(file, path.stat().st_size)
        expected = named[name].spec(quant)
        assert types(real) == types(expected)
        assert real.file_bytes == pytest.approx(expected.file_bytes, rel=0.01)
        for key, value in expected.metadata.items():
            if key in real.metadata and key != "general.name":
                assert real.metadata[key] == value, key


def test_llama_cpp_takes_one_model_of_each_architecture(entries: tuple[Entry, ...]) -> None:
    """Every name, shape and quantized type, by llama.cpp's own loader and quantizer."""
    first = {entry.blueprint.hparams.architecture: entry.name for entry in reversed(entries)}
    script = [sys.executable, str(ROOT / "benchmarks" / "check_catalogue.py"), "--engine"]
    done = subprocess.run(
        [*script, *first.values()], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" ok") == len(first)


def test_an_unknown_quant_is_a_key_error(named: dict[str, Entry]) -> None:
    with pytest.raises(KeyError):
        named["qwen3-8b"].weights_bytes("Q9_K")


def test_a_well_formed_entry_is_read() -> None:
    (entry,) = parse(ONE)
    assert (entry.name, entry.line, entry.quants) == ("tiny", 1, COMMON_QUANTS)
    assert entry.parameters == entry.active_parameters == entry.blueprint.parameters
    assert entry.checked == ()


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('name = "tiny"', 'name = "Tiny"', 2, "name"),
        ('name = "tiny"\n', "", 1, "name is missing"),
        ('tasks = ["chat"]', 'tasks = ["poetry"]', 5, "tasks holds 'poetry'"),
        ('tasks = ["chat"]', "tasks = []", 5, "tasks is empty"),
        ('tasks = ["chat"]', 'tasks = ["chat", "chat"]', 5, "tasks names something twice"),
        ('source = "maker/tiny"', 'source = "tiny"', 6, "source"),
        ('["maker/tiny-GGUF"]', '["../tiny-GGUF"]', 7, "repos"),
        ('["maker/tiny-GGUF"]', "[]", 7, "repos is empty"),
        ('license = "MIT"', 'license = "mit"', 8, "license = 'mit'"),
        ("business = true", "business = false", 9, "business"),
        ("parameters = 20_640", "parameters = 20.6", 10, "parameters"),
        ("parameters = 20_640", "parameters = true", 10, "parameters"),
        ("parameters = 20_640", "parameters = 20_640\nactive_parameters = 99_999", 11, "active"),
        ("context = 128", "context = 0", 11, "context"),
        ("2025-01-02", "2025-01-02T03:04:05", 12, "released"),
        ("2025-01-02", "1999-01-02", 12, "released"),
        ('architecture = "llama"', 'architecture = "lama"', 16, "gguf .*'lama'"),
        ('tokenizer = "llama"', 'tokenizer = "bytes"', 16, "gguf .*'bytes'"),
        ('tokenizer = "llama"', 'tokenizer = "llama"\nextra = ["wings"]', 16, "extra"),
        ("[model.gguf]", 'colour = "red"\n[model.gguf]', 16, "colour is not a field"),
        ("block_count = 2", "block_count = -2", 17, "block_count"),
        ("block_count = 2", "block_count = 2_000_000", 16, "gguf .*2000000 layers"),
        ("block_count = 2", 'block_count = "2"', 16, "gguf .*block_count"),
        ("head_count_kv = 2", "head_count_kv = [2]", 16, "gguf"),
        ("head_count = 4", "head_count = 1979-05-27", 20, "head_count"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_field(
    old: str, new: str, line: int, says: str
) -> None:
    assert old in ONE
    with pytest.raises(UsageError, match=rf"models\.toml line {line}: model .*{says}"):
        parse(ONE.replace(old, new, 1))


@pytest.mark.parametrize(
    "text",
    ["[[model]", "model = 3", "[[model]]\nname = 1", "x = 1", "a = " + "[" * 5000, ONE + ONE],
    ids=["not toml", "not a list", "no fields", "stray key", "deep", "twice"],
)
def test_a_text_that_is_no_catalogue_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"models\.toml"):
        parse(text)


def test_a_name_used_twice_names_the_first_line() -> None:
    with pytest.raises(UsageError, match=r"line 23: .*used already, in line 1"):
        parse(ONE + ONE)


def test_an_interval_of_zero_is_a_usage_error() -> None:
    hybrid = ONE.replace('"llama"\nvocab', '"qwen35"\nvocab') + "full_attention_interval = 0\n"
    with pytest.raises(UsageError, match="gguf"):
        parse(hybrid)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(ONE.splitlines()) - 1), st.text(max_size=40))
def test_any_line_may_be_anything(line: int, text: str) -> None:
    lines = ONE.splitlines()
    lines[line] = text
    try:
        parse("\n".join(lines))
    except UsageError as error:
        assert str(error).startswith("models.toml")


MIB = 2**20


def test_every_model_that_sees_has_its_encoder(entries: tuple[Entry, ...]) -> None:
    for entry in entries:
        assert (entry.mmproj is not None) == (Task.VISION in entry.tasks)
        if entry.mmproj is not None:
            assert 150 * MIB < entry.mmproj.weights_bytes < 1800 * MIB
            assert 10 * MIB < entry.mmproj.compute_bytes < 800 * MIB


@pytest.mark.parametrize(
    ("name", "published_mb"),
    [  # lengths of mmproj files in F16 as their repositories list them
        ("gemma-3-4b", 851),
        ("qwen3.5-4b", 672),
    ],
)
def test_a_published_encoder_is_sized_within_a_percent(
    named: dict[str, Entry], name: str, published_mb: int
) -> None:
    mmproj = named[name].mmproj
    assert mmproj is not None
    assert mmproj.weights_bytes / 1e6 == pytest.approx(published_mb, rel=0.01)


def test_an_entry_without_an_encoder_does_not_see() -> None:
    text = (Path(__file__).parents[2] / "models.toml").read_text("utf-8")
    start = text.index("[model.mmproj]")
    end = text.index("[model.gguf]", start)
    with pytest.raises(UsageError, match="mmproj must be there for the task vision"):
        parse(text[:start] + text[end:])
    for old, new in (
        ("patch_size = 14", "patch_size = 0"),
        ("image_size = 560", 'image_size = "560"'),
        ("projector_type = ", "projector = "),
    ):
        with pytest.raises(UsageError, match=r"line \d+: model 'qwen2.5-vl-3b': mmproj must have"):
            parse(text.replace(old, new, 1))
