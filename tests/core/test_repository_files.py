"""The files of a repository: models, drafters, encoders, and those of other forks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.catalogue.requantize import Requantizer
from localllm.core.model.file_types import (
    ALIASES,
    FILE_TYPES,
    fork_of,
)
from localllm.core.model.quants import fork_type
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend.repository import offers_of
from localllm.core.recommend.repository_files import (
    ModelFile,
    RepoFile,
    files_named,
    header_sources,
    mmproj_for,
    model_files,
)
from tests.core.test_repository import entries, file, qwen, sort, weight


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
