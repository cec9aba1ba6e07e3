"""The offers of a repository, against published and really made files; and which files belong
together, by names that publishers really use."""

import csv
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core import gguf
from localllm.core.catalogue import catalogue
from localllm.core.catalogue.catalogue import Entry
from localllm.core.catalogue.requantize import Requantizer
from localllm.core.model.file_types import (
    FILE_TYPES,
    label_in,
    quant_in,
    split_of,
)
from localllm.core.model.quants import row_bytes
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend import Goal, Machine, Preferences, plans
from localllm.core.recommend.repository import SAME_WEIGHT, RepoOffers, candidates, offers_of
from localllm.core.recommend.repository_files import (
    RepoFile,
)
from localllm.core.sizing import footprint
from localllm.core.sizing.load import LoadSettings
from localllm.core.sizing.placement import Budget
from localllm.core.speed import DeviceSpeed
from localllm.core.text import single_line
from localllm.errors import GgufError
from tests.core.forge import spec as forged_spec
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

PUBLISHED = Path(__file__).parent / "data" / "published_sizes.csv"
GIB = 2**30

_QUANTIZE = """
import ctypes, sys
import llama_cpp
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype, settings.allow_requantize, settings.nthread = int(sys.argv[3]), True, 2
source, target = (each.encode() for each in sys.argv[1:3])
sys.exit(llama_cpp.llama_model_quantize(source, target, ctypes.byref(settings)))
"""


@cache
def entries() -> dict[str, Entry]:
    text = (Path(__file__).parents[2] / "models.toml").read_text("utf-8")
    return {entry.name: entry for entry in catalogue.parse(text)}


def header_of(path: Path) -> ModelSpec:
    with path.open("rb") as file:
        return gguf.read(file, path.stat().st_size)


@cache
def qwen() -> ModelSpec:
    return entries()["qwen3-8b"].spec("Q4_K_M")


def file(name: str, size_bytes: int | None = None) -> RepoFile:
    """A file of Qwen3 8B; its length is that of Q4_K_M unless another is given."""
    size = entries()["qwen3-8b"].file_bytes("Q4_K_M") if size_bytes is None else size_bytes
    return RepoFile(name=name, size_bytes=size)


def sort(*files: RepoFile) -> RepoOffers:
    return offers_of("Qwen/Qwen3-8B-GGUF", qwen(), files)


def types(spec: ModelSpec) -> dict[str, tuple[str, int]]:
    return {tensor.name: (tensor.type.name, tensor.size_bytes) for tensor in spec.tensors}


def weight(spec: ModelSpec) -> int:
    return sum(tensor.size_bytes for tensor in spec.tensors)


# against files that llama.cpp makes


@pytest.mark.parametrize(
    ("model", "quant"), [("smollm2", "Q4_K_M"), ("smollm2", "Q4_0"), ("gemma3", "Q8_0")]
)
def test_a_derived_header_is_that_of_the_file_llama_cpp_makes(
    model: str, quant: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Path = request.getfixturevalue(model)
    target = tmp_path / f"{model}-{quant}.gguf"
    number = str(FILE_TYPES[quant].number)
    command = [sys.executable, "-c", _QUANTIZE, str(source), str(target), number]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    real = header_of(target)
    listed = RepoFile(name=target.name, size_bytes=target.stat().st_size)
    (offer,) = offers_of("maker/model-GGUF", header_of(source), [listed]).offers
    derived = offer.candidate.spec()
    assert offer.note is None
    assert offer.candidate.quant == derived.quant == quant
    assert types(derived) == types(real)
    assert derived.file_bytes == real.file_bytes
    load = LoadSettings(context=2048)
    assert footprint.of(derived, load) == footprint.of(real, load)


def test_the_file_whose_header_was_read_keeps_it(smollm2: Path) -> None:
    header = header_of(smollm2)
    listed = RepoFile(name="SmolLM2.Q4_1.gguf", size_bytes=header.file_bytes)
    (offer,) = offers_of("maker/model", header, [listed]).offers
    assert offer.candidate.spec() is header
    assert (offer.candidate.quant, offer.mix, offer.note) == ("Q4_1", None, None)


# against files that publishers made


def published() -> list[tuple[str, tuple[RepoFile, ...]]]:
    rows: dict[str, list[RepoFile]] = defaultdict(list)
    with PUBLISHED.open(newline="") as stream:
        for row in csv.DictReader(stream):
            name = f"{row['model']}-{row['quant']}.gguf"
            rows[row["model"]].append(RepoFile(name=name, size_bytes=int(row["size_bytes"])))
    return [(model, tuple(files)) for model, files in rows.items()]


def follows_llama_cpp(model: str) -> bool:
    """Unsloth gives Qwen3.5's recurrent layers more bits than llama.cpp would."""
    return model != "qwen3.5-4b"


@pytest.mark.parametrize(
    ("model", "files"), [(m, f) for m, f in published() if follows_llama_cpp(m)]
)
def test_every_published_quant_is_sized_from_the_header_of_one(
    model: str, files: tuple[RepoFile, ...]
) -> None:
    entry = entries()[model]
    found = offers_of(entry.repos[0], entry.spec(entry.quants[0]), files)
    assert found.left_out == ()
    assert {offer.candidate.size_bytes for offer in found.offers} == {f.size_bytes for f in files}
    around = entry.file_bytes("Q8_0") - entry.weights_bytes("Q8_0")
    for offer in found.offers:
        candidate = offer.candidate
        assert offer.note is None, candidate.quant
        assert candidate.quant in FILE_TYPES
        derived = weight(candidate.spec())
        assert derived == pytest.approx(candidate.size_bytes - around, rel=SAME_WEIGHT)


def test_a_publishers_own_mix_is_as_large_as_its_file_and_said_to_be_one() -> None:
    entry = entries()["qwen3.5-4b"]
    (listed,) = dict(published())["qwen3.5-4b"]
    header = entry.spec("Q8_0")
    (offer,) = offers_of(entry.repos[0], header, [listed]).offers
    around = header.file_bytes - weight(header)
    assert offer.note is not None
    assert "larger than llama.cpp makes Q4_K_M" in offer.note
    assert weight(offer.candidate.spec()) == listed.size_bytes - around
    assert offer.candidate.spec().file_bytes == listed.size_bytes


def test_made_larger_a_spec_keeps_its_types_and_its_unquantized_tensors() -> None:
    entry = entries()["qwen3-8b"]
    size = entry.file_bytes("Q5_K_M") * 11 // 10
    (offer,) = sort(file("q-Q5_K_M.gguf", size)).offers
    plain, spec = entry.spec("Q5_K_M"), offer.candidate.spec()
    assert "10.0 % larger" in (offer.note or "")
    assert [t.type for t in spec.tensors] == [t.type for t in plain.tensors]
    for before, after in zip(plain.tensors, spec.tensors, strict=True):
        if before.type.name == "F32":
            assert after.size_bytes == before.size_bytes
        else:
            assert after.size_bytes == pytest.approx(before.size_bytes * 1.1, rel=0.01)
    ends = [t.offset + t.size_bytes for t in spec.tensors]
    starts = [t.offset for t in spec.tensors]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


@given(factor=st.floats(0.7, 2.4))
@settings(max_examples=25, deadline=None)
def test_whatever_a_file_weighs_its_tensors_add_up_to_it(factor: float) -> None:
    header = qwen()
    size = int(entries()["qwen3-8b"].file_bytes("Q6_K") * factor)
    (offer,) = sort(file("q-Q6_K.gguf", size)).offers
    around = header.file_bytes - weight(header)
    tolerance = 0 if offer.note else SAME_WEIGHT
    assert weight(offer.candidate.spec()) == pytest.approx(size - around, rel=tolerance, abs=0)


@pytest.mark.parametrize(
    "model", ["deepseek-v2-lite", "qwen3-30b-a3b-2507", "llama-3.3-70b", "phi-4", "qwen3.5-4b"]
)
def test_experts_fused_matrices_and_70b_get_the_types_their_blueprint_has(model: str) -> None:
    entry = entries()[model]
    files = [RepoFile(name=f"m-{q}.gguf", size_bytes=entry.file_bytes(q)) for q in FILE_TYPES]
    for offer in offers_of("a/b", entry.spec("Q8_0"), files).offers:
        derived = offer.candidate.spec()
        assert offer.note is None
        assert types(derived) == types(entry.spec(offer.candidate.quant)), offer.candidate.quant


def test_every_architecture_can_be_given_every_quant() -> None:
    for forged in (*EVERY_ATTENTION, *EVERY_RECURRENT):
        header = forged_spec(forged)
        requantizer = Requantizer(header)
        for quant in FILE_TYPES:
            recipe = requantizer.match((quant,), weight(header))
            spec = requantizer.spec(recipe, file_bytes=1)
            assert spec.metadata["general.file_type"] == FILE_TYPES[quant].number
            assert weight(spec) == recipe.weights_bytes
            assert [t.name for t in spec.tensors] == [t.name for t in header.tensors]
            for tensor in spec.tensors:
                assert tensor.size_bytes == row_bytes(tensor.type, tensor.elements), tensor.name


def test_a_header_gives_itself_back_through_another_quant(smollm2: Path, gemma3: Path) -> None:
    for path in (smollm2, gemma3):
        header = header_of(path)
        assert header.quant is not None
        own = Requantizer(header)
        there = own.spec(own.match(("BF16",), 0), file_bytes=1)
        requantizer = Requantizer(there)
        back = requantizer.spec(requantizer.match((header.quant,), weight(header)), file_bytes=1)
        assert types(back) == types(header)


# names


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Qwen3-8B-Q4_K_M", "Q4_K_M"),
        ("qwen3-8b-q4_k_m", "Q4_K_M"),
        ("Qwen3-8B-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("Qwen3-8B.i1-IQ3_XXS", "IQ3_XXS"),
        ("gemma-3-4b-it-q4_0_s", "Q4_0_S"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("model-f16", "F16"),
        ("model_q4_0_instruct", "Q4_0"),
        ("mistral-Q4_0_4_8", "Q4_0_4_8"),
        ("notaQ4_0", None),
        ("Qwen3-8B", None),
    ],
)
def test_a_label_is_read_wherever_it_stands(name: str, label: str | None) -> None:
    assert label_in(name) == label


def test_what_is_no_model_is_left_out_with_the_reason() -> None:
    found = sort(
        file("mmproj-model-f16.gguf"),
        file("Qwen3-8B-mmproj-Q8_0.gguf"),
        file("Qwen3-8B-LoRA-F16.gguf"),
        file("Qwen3-8B.imatrix.gguf"),
        file("Qwen3-8B-Q4_0_4_8.gguf"),
        file("Qwen3-0.6B-Q4_K_M.gguf", 397_000_000),
        file("Qwen3-8B-Q6_K.gguf", 0),
        file("README.md"),
        file("Qwen3-8B-imatrix-Q4_K_M.gguf"),
    )
    assert [offer.files for offer in found.offers] == [("Qwen3-8B-imatrix-Q4_K_M.gguf",)]
    reasons = {each.name: each.reason for each in found.left_out}
    assert "README.md" not in reasons
    assert "encoder" in reasons["mmproj-model-f16.gguf"]
    assert "encoder" in reasons["Qwen3-8B-mmproj-Q8_0.gguf"]
    assert "adapter" in reasons["Qwen3-8B-LoRA-F16.gguf"]
    assert "importance matrix" in reasons["Qwen3-8B.imatrix.gguf"]
    assert "no longer reads" in reasons["Qwen3-8B-Q4_0_4_8.gguf"]
    assert "another model" in reasons["Qwen3-0.6B-Q4_K_M.gguf"]
    assert "how large" in reasons["Qwen3-8B-Q6_K.gguf"]


def test_the_parts_of_a_split_model_are_one_candidate() -> None:
    half = entries()["qwen3-8b"].file_bytes("BF16") // 2
    names = [f"BF16/Qwen3-8B-{number:05d}-of-00002.gguf" for number in (2, 1)]
    (offer,) = sort(*(file(name, half) for name in names)).offers
    assert offer.files == tuple(reversed(names))
    assert offer.candidate.size_bytes == 2 * half
    assert (offer.candidate.quant, offer.note) == ("BF16", None)


@pytest.mark.parametrize(
    ("numbers", "count", "reason"),
    [((1, 3), 3, "2 of its 3 parts"), ((1, 2, 3), 2, "2 of its 2"), ((0,), 0, "parts of none")],
)
def test_an_incomplete_split_is_left_out(numbers: Sequence[int], count: int, reason: str) -> None:
    found = sort(*(file(f"q-Q4_K_M-{n:05d}-of-{count:05d}.gguf") for n in numbers))
    assert found.offers == ()
    (left,) = found.left_out
    assert reason in left.reason


def test_a_label_that_llama_cpp_does_not_know_takes_the_nearest_mix_and_says_so() -> None:
    size = entries()["qwen3-8b"].file_bytes("Q5_K_S")
    for name, label in (("q-UD-Q5_K_XL.gguf", "UD-Q5_K_XL"), ("q-Q5_K_P.gguf", "Q5_K_P")):
        (offer,) = sort(file(name, size)).offers
        assert (offer.candidate.quant, offer.mix) == (label, "Q5_K_S")
        assert offer.note is not None
        assert f"{label} is no llama.cpp mix; Q5_K_S is the nearest" in offer.note
    (offer,) = sort(file("qwen.gguf", size)).offers
    assert offer.candidate.quant == "Q5_K_S"
    assert "states no quant" in (offer.note or "")


HOSTILE = [
    "../Q4_K_M.gguf",
    "/etc/Q4_K_M.gguf",
    "a//Q4_K_M.gguf",
    "a/./Q4_K_M.gguf",
    "C:\\Q4_K_M.gguf",
    "c:Q4_K_M.gguf",
    "\x1b]0;title\x07Q4_K_M.gguf",
    "Q4_K_M\n.gguf",
    "\u202eQ4_K_M.gguf",
    "\ud800Q4_K_M.gguf",
    "x" * 4000 + "-Q4_K_M.gguf",
    "../x-Q4_K_M-00001-of-00001.gguf",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_left_out_and_safe_to_show(name: str) -> None:
    found = sort(file(name))
    assert found.offers == ()
    (left,) = found.left_out
    assert single_line(left.name) == left.name
    assert len(left.name) <= 80


@given(st.text())
def test_reading_a_name_never_raises(name: str) -> None:
    for each in (name, f"{name}-Q4_K_M", f"{name}-00001-of-00002.gguf"):
        for label in (label_in(each), quant_in(each)):
            assert label is None or label.isascii()
        split_of(each)


names = st.text() | st.from_regex(r"[-A-Z0-9_./]{0,20}(-0000[0-3]-of-0000[0-3])?", fullmatch=True)


sizes = st.integers() | st.integers(0, 20 * GIB)


@given(st.lists(st.tuples(names, sizes), max_size=6))
@settings(deadline=None, max_examples=60)
def test_any_listing_is_sorted_without_an_error(rows: list[tuple[str, int]]) -> None:
    found = sort(*(RepoFile(name=f"{name}.gguf", size_bytes=size) for name, size in rows))
    offered = [name for offer in found.offers for name in offer.files]
    assert len(offered) == len(set(offered))
    assert set(offered) <= {f"{name}.gguf" for name, _ in rows}
    for each in found.left_out:
        assert single_line(each.name) == each.name
    assert not rows or found.offers or found.left_out


def test_the_repositorys_name_is_cleaned() -> None:
    found = offers_of("a/\x1b[31mb" + "x" * 4000, qwen(), [file("q-Q4_K_M.gguf")])
    (candidate,) = found.candidates
    assert candidate.model.isprintable()
    assert candidate.file.isprintable()
    assert len(candidate.model) <= 400


# headers


def test_the_header_of_one_part_alone_is_refused(smollm2: Path) -> None:
    header = header_of(smollm2)
    part = replace(header, metadata={**header.metadata, "split.tensors.count": 1000})
    with pytest.raises(GgufError, match="272 of 1000 tensors"):
        candidates("a/b", part, [])


def test_a_header_without_tensors_is_refused(smollm2: Path) -> None:
    with pytest.raises(GgufError, match="no tensors"):
        candidates("a/b", replace(header_of(smollm2), tensors=()), [])


# the use of it


def test_a_repository_is_planned_with_like_the_catalogue() -> None:
    entry = entries()["qwen3-8b"]
    offered = candidates(
        entry.repos[0],
        entry.spec("Q8_0"),
        [file(f"Qwen3-8B-{q}.gguf", entry.file_bytes(q)) for q in entry.quants],
    )
    machine = Machine(
        budget=Budget(host_bytes=8 * GIB),
        host=DeviceSpeed(bandwidth_bytes_per_s=100e9, cores=8),
    )
    advice = plans(offered, Preferences(goal=Goal.QUALITY), machine, limit=3)
    (plan,) = advice.plans
    assert plan.placement.fits
    assert plan.candidate.model == entry.repos[0]
    assert plan.candidate.size_bytes < 8 * GIB
    larger = [c for c in offered if plan.candidate.size_bytes < c.size_bytes < 7 * GIB]
    assert not larger
    assert plan.reasons


def test_what_is_not_exact_about_a_file_is_told_among_the_reasons_of_its_plan() -> None:
    machine = Machine(
        budget=Budget(host_bytes=64 * GIB), host=DeviceSpeed(bandwidth_bytes_per_s=60e9, cores=8)
    )
    usual = entries()["qwen3-8b"].file_bytes("Q4_K_M")
    found = sort(file("Qwen3-8B-Q4_K_M.gguf", int(usual * 1.1)))
    (plan,) = plans(found.candidates, Preferences(), machine, limit=1).plans
    assert found.offers[0].note is not None
    assert found.offers[0].note in plan.reasons
