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
    ALIASES,
    FILE_TYPES,
    fork_of,
    label_in,
    quant_in,
    split_of,
)
from localllm.core.model.quants import fork_type, row_bytes
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend import Goal, Machine, Preferences, plans
from localllm.core.recommend.repository import SAME_WEIGHT, RepoOffers, candidates, offers_of
from localllm.core.recommend.repository_files import (
    ModelFile,
    RepoFile,
    files_named,
    header_sources,
    mmproj_for,
    model_files,
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


def test_the_files_that_may_hold_a_model_are_known_before_any_header_is_read() -> None:
    parts = [file(f"big/Q8_0/m-{n:05d}-of-00002.gguf", 5) for n in (1, 2)]
    found = model_files([*parts, file("mmproj-F16.gguf"), file("a.Q4_K_M.gguf"), file("README.md")])
    assert [(each.names, each.size_bytes, each.label) for each in found] == [
        (("a.Q4_K_M.gguf",), file("x").size_bytes, "Q4_K_M"),
        (tuple(part.name for part in parts), 10, "Q8_0"),
    ]


def files_of(*names: str, size_bytes: int = 1000) -> tuple[RepoFile, ...]:
    return tuple(RepoFile(name=name, size_bytes=size_bytes + n) for n, name in enumerate(names))


def model_file(stem: str) -> ModelFile:
    return ModelFile(stem, (f"{stem}.gguf",), 1000)


def mmproj_name(stem: str, *names: str) -> str | None:
    found = mmproj_for(model_file(stem), files_of(*names))
    return found.name if found else None


def test_the_usual_quant_is_read_first_then_the_smallest_whole_file() -> None:
    found = listing(**{"m-Q2_K": 2600, "m-Q4_K_M": 4500, "m-Q8_0": 8500})
    assert [f.label for f in header_sources(found)] == ["Q4_K_M", "Q2_K", "Q8_0"]
    found = listing(**{"m-Q2_K-00001-of-00001": 2600, "m-Q8_0": 8500, "m-Q6_K": 6500})
    assert [f.label for f in header_sources(found)] == ["Q2_K", "Q6_K", "Q8_0"]
    assert header_sources(()) == ()


# drafters, forks, twins


def listing(**sizes: int) -> tuple[ModelFile, ...]:
    """Model files of these sizes; `__` in a name stands for a slash, `_dot_` for a dot."""
    return model_files(
        [
            RepoFile(name=f"{name.replace('__', '/').replace('_dot_', '.')}.gguf", size_bytes=size)
            for name, size in sizes.items()
        ]
    )


DRAFTERS = [
    "MTP/gemma-4-12B-it-Q8_0-MTP",
    "MTP/gemma-4-12B-it-MTP-F16",
    "mtp-gemma-4-12B-it",
    "gemma-4-12B-it-EAGLE3-Q8_0",
    "gemma-4-12B-it-assistant-Q4_K_M",
    "gemma-4-12B-it.draft.Q4_K_M",
    "draft_model/model-Q4_K_M",
    "gemma-4-12B-it-DFlash-BF16",
    "gemma-4-12B-it-speculator.eagle3-Q8_0",
    "gemma-4-12B-it-nextn-Q8_0-00001-of-00001",
]


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_drafter_beside_a_model_is_never_taken_for_it(drafter: str) -> None:
    models = [
        RepoFile(name="gemma-4-12B-it-Q4_K_M.gguf", size_bytes=7_300_000_000),
        RepoFile(name="gemma-4-12B-it-Q8_0.gguf", size_bytes=12_700_000_000),
        RepoFile(name="gemma-4-12B-it-F16.gguf", size_bytes=23_800_000_000),
    ]
    found = model_files([RepoFile(name=f"{drafter}.gguf", size_bytes=450_000_000), *models])
    assert [each.names[0] for each in found if each.drafter] == [f"{drafter}.gguf"]
    assert f"{drafter}.gguf" not in [each.names[0] for each in header_sources(found)]
    assert [f.names[0] for f in files_named(found, "Q8_0")] == ["gemma-4-12B-it-Q8_0.gguf"]
    # Who wants it says its name.
    assert [f.names[0] for f in files_named(found, f"{drafter}.gguf")] == [f"{drafter}.gguf"]


def test_a_model_that_is_called_after_its_own_mtp_layers_is_a_model() -> None:
    every = listing(**{"Qwen-MTP-Q4_K_M": 5_000_000, "Qwen-MTP-Q8_0": 9_000_000})
    mixed = listing(**{"Qwen-MTP-Q4_K_M": 5_100_000, "Qwen-Q4_K_M": 5_000_000, "Qwen-F16": 10**7})
    alone = listing(**{"llama-68m-draft-Q8_0": 70_000})
    for found in (every, mixed, alone):
        assert not any(each.drafter for each in found)
        assert header_sources(found)


def test_a_small_model_beside_a_large_one_is_not_the_one_whose_header_is_read() -> None:
    found = listing(**{"small-Q8_0": 600_000_000, "large-Q8_0": 34_000_000_000})
    assert [each.stem for each in header_sources(found)] == ["large-Q8_0", "small-Q8_0"]
    found = listing(
        **{"a-Q4_K_M": 5_000, "a-Q6_K": 6_600, "a-Q8_0": 8_500, "huge-Q8_0": 85_000_000}
    )
    assert header_sources(found)[0].stem == "a-Q4_K_M"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["mtp-", "MTP/", "eagle3-", "", "x/"]),
            st.sampled_from(["Q4_K_M", "Q8_0", "F16", "IQ4_KSS", ""]),
            st.integers(1, 10**11),
        ),
        max_size=8,
    )
)
def test_the_headers_to_read_are_all_files_but_drafters_each_once(
    rows: list[tuple[str, str, int]],
) -> None:
    listed = [
        RepoFile(name=f"{prefix}m{n}-{label}.gguf", size_bytes=size)
        for n, (prefix, label, size) in enumerate(rows)
    ]
    found = model_files(listed)
    assert {f.names for f in found} == {(each.name,) for each in listed}
    expected = [f for f in found if not f.drafter]
    sources = header_sources(found)
    assert sorted(f.stem for f in sources) == sorted(f.stem for f in expected)
    assert not found or sources  # what is left when every file is called a drafter are models


def test_a_drafter_is_left_out_as_a_companion() -> None:
    drafter = file("mtp-Qwen3-8B.gguf", 400_000_000)
    found = sort(file("Qwen3-8B-Q4_K_M.gguf"), drafter)
    assert [offer.files for offer in found.offers] == [("Qwen3-8B-Q4_K_M.gguf",)]
    (left,) = found.left_out
    assert (left.name, left.companion) == ("mtp-Qwen3-8B.gguf", True)
    assert "drafter" in left.reason


@pytest.mark.parametrize(
    ("label", "fork"),
    [
        ("IQ4_KSS", True), ("IQ5_K", True), ("IQ2_KL", True), ("iq3_kt", True), ("Q6_0", True),
        ("IQ4_K_R4", True), ("Q8_0_R8", True), ("Q4_K_R4", True), ("IQ1_BN", True),
        ("Q4_K", False), ("Q6_K_L", False), ("IQ4_NL", False), ("IQ4_XS", False), ("Q8_0", False),
        ("UD-Q4_K_XL", False), ("IQ1_M", False), ("Q4_0_4_8", False), (None, False),
    ],
)  # fmt: skip
def test_the_quants_of_another_fork_are_known_by_their_labels(
    label: str | None, fork: bool
) -> None:
    assert (fork_of(label) is not None) is fork
    if label is not None and fork:
        name = f"Qwen3-8B-{label}.gguf"
        (left,) = sort(file(name, 4_900_000_000), file("Qwen3-8B-Q4_K_M.gguf")).left_out
        assert left.name == name
        assert "ik_llama.cpp" in left.reason
        assert not left.companion


@pytest.mark.parametrize(
    ("number", "name"),
    [(144, "IQ4_KS"), (158, "IQ1_KT"), (344, "IQ4_KS in rows"), (202, "Q4_0 in rows"),
     (2, None), (39, None), (255, None), (2**32 - 1, None)],
)  # fmt: skip
def test_the_types_of_another_fork_are_known_by_their_ids(number: int, name: str | None) -> None:
    assert fork_type(number) == name


def test_no_label_of_llama_cpp_is_a_forks() -> None:
    assert not [label for label in (*FILE_TYPES, *ALIASES) if fork_of(label)]


def test_a_file_whose_header_was_bad_is_left_out_with_its_reason() -> None:
    listed = [file("a-Q4_K_M.gguf"), file("b-Q4_K_M.gguf")]
    found = offers_of("a/b", qwen(), listed, unusable={"b-Q4_K_M.gguf": "it is damaged"})
    assert [offer.files for offer in found.offers] == [("a-Q4_K_M.gguf",)]
    assert [(each.name, each.reason) for each in found.left_out] == [
        ("b-Q4_K_M.gguf", "it is damaged")
    ]


def test_the_same_quant_whole_and_in_parts_is_not_a_question() -> None:
    size = file("x").size_bytes
    parts = [file(f"Q4_K_M/m-Q4_K_M-{n:05d}-of-00002.gguf", size // 2 + 9000) for n in (1, 2)]
    whole = file("m-Q4_K_M.gguf")
    files = model_files([*parts, whole])
    assert [f.names for f in files_named(files, "Q4_K_M")] == [(whole.name,)]
    assert len(files_named(files, parts[1].name)[0].names) == 2
    found = sort(*parts, whole)
    assert len(found.offers) == 2
    assert [each.file for each in found.candidates] == [f"Qwen/Qwen3-8B-GGUF:{whole.name}"]


def test_two_other_files_of_one_quant_stay_a_question() -> None:
    files = listing(**{"a-Q8_0": 1000, "old__a-Q8_0": 1000})
    assert len(files_named(files, "Q8_0")) == 2


@pytest.mark.parametrize("asked", ["Q4_K_XL", "q4_k_xl", "UD-Q4_K_XL", "ud_q4_k_xl", "Q4KXL"])
def test_a_quant_is_found_however_its_label_is_written(asked: str) -> None:
    files = listing(**{"m-UD-Q4_K_XL": 1000, "m-Q4_K_M": 1100})
    assert [f.stem for f in files_named(files, asked)] == ["m-UD-Q4_K_XL"]


def test_a_label_as_it_is_written_wins_over_the_same_words() -> None:
    files = listing(**{"m-UD-Q4_K_M": 1000, "m-Q4_K_M": 1000})
    assert [f.stem for f in files_named(files, "Q4_K_M")] == ["m-Q4_K_M"]
    assert [f.stem for f in files_named(files, "UD-Q4_K_M")] == ["m-UD-Q4_K_M"]


# experts that stay in MXFP4


def mxfp4_experts(quant: str) -> ModelSpec:
    """gpt-oss in a quant, its experts in MXFP4 as its publishers leave them."""
    spec = entries()["gpt-oss-20b"].spec("MXFP4")
    mix = Requantizer(spec)
    applied = mix.match((quant,), 0)  # the lightest: with the experts as they are
    assert applied.experts_kept
    return mix.spec(applied, file_bytes=applied.weights_bytes)


@pytest.mark.parametrize("read", ["MXFP4", "F16", "Q4_K_M"])
def test_quants_that_keep_their_experts_are_offered_whichever_header_is_read(read: str) -> None:
    header = entries()["gpt-oss-20b"].spec("MXFP4") if read == "MXFP4" else mxfp4_experts(read)
    around = header.file_bytes - weight(header)
    quants = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K")
    listed = [
        RepoFile(name=f"gpt-oss-20b-{q}.gguf", size_bytes=weight(mxfp4_experts(q)) + around)
        for q in quants
    ]
    found = offers_of("maker/gpt-oss-20b-GGUF", header, listed)
    assert found.left_out == ()
    assert {offer.candidate.quant for offer in found.offers} == set(quants)
    for offer in found.offers:
        derived = offer.candidate.spec()
        experts = {t.type.name for t in derived.tensors if "_exps." in t.name and t.shape[0] > 32}
        assert offer.note is None, offer.candidate.quant
        assert "MXFP4" in experts


def test_experts_in_mxfp4_are_requantized_where_the_length_says_so() -> None:
    spec = entries()["qwen3-30b-a3b-2507"].spec("Q8_0")
    mxfp4 = Requantizer(spec).spec(Requantizer(spec).match(("MXFP4",), 0), file_bytes=1)
    size = weight(entries()["qwen3-30b-a3b-2507"].spec("Q8_0"))
    applied = Requantizer(mxfp4).match(("Q8_0",), size)
    assert not applied.experts_kept
    assert applied.weights_bytes == size


def test_a_quant_is_named_in_any_case_and_a_file_by_its_own_name() -> None:
    files = model_files(
        files_of("m-q4_k_m.gguf", "m-UD-Q4_K_XL.gguf", "Q8_0/m-00001-of-00002.gguf",
               "Q8_0/m-00002-of-00002.gguf")
    )  # fmt: skip
    assert [f.names for f in files_named(files, "Q4_K_M")] == [("m-q4_k_m.gguf",)]
    assert [f.names for f in files_named(files, "ud-q4_k_xl")] == [("m-UD-Q4_K_XL.gguf",)]
    assert len(files_named(files, "q8_0")[0].names) == 2
    assert files_named(files, "m-00002-of-00002.gguf") == files_named(files, "Q8_0")
    assert files_named(files, "m-q4_k_m.gguf") == files_named(files, "Q4_K_M")
    assert files_named(files, "Q5_K_M") == ()


@pytest.mark.parametrize(
    ("stem", "names", "expected"),
    [
        (
            "gemma-3-4b-it-Q4_K_M",
            ("mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"),
            "mmproj-F16.gguf",
        ),
        (
            "Qwen2.5-VL-7B-Instruct-Q4_K_M",
            ("mmproj-Qwen2.5-VL-7B-Instruct-f16.gguf", "mmproj-Qwen2.5-VL-3B-Instruct-f16.gguf"),
            "mmproj-Qwen2.5-VL-7B-Instruct-f16.gguf",
        ),
        ("ggml-model-Q4_K_M", ("mmproj-model-f16.gguf",), "mmproj-model-f16.gguf"),
        (
            "Qwen3VL-8B-Q8_0",
            ("mmproj-Qwen3-VL-8B-Q8_0.gguf", "mmproj-Qwen3-VL-8B-F16.gguf"),
            "mmproj-Qwen3-VL-8B-F16.gguf",
        ),
        ("llama-Q4_0", ("mmproj-owl-f16.gguf", "mmproj-cat-f16.gguf"), None),
        ("b/m-Q4_0", ("a/mmproj-F16.gguf", "b/mmproj-F16.gguf"), "b/mmproj-F16.gguf"),
        ("m-Q4_0", ("m-Q8_0.gguf", "mmproj.txt", "../mmproj-F16.gguf", "mmproj\x1b[2J.gguf"), None),
    ],
)
def test_a_vision_model_gets_the_encoder_that_is_meant_for_it(
    stem: str, names: tuple[str, ...], expected: str | None
) -> None:
    assert mmproj_name(stem, *names) == expected


@given(st.lists(st.text(max_size=30).map(lambda text: f"mmproj{text}.gguf"), max_size=5), st.text())
def test_no_name_breaks_the_choice(names: list[str], stem: str) -> None:
    found = mmproj_name(stem, *names)
    assert found is None or found in names
