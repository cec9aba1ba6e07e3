"""Which files of a repository belong together, by names that publishers really use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.recommend.repository import (
    ModelFile,
    RepoFile,
    files_named,
    header_source,
    mmproj_for,
    model_files,
)


def listed(*names: str, size_bytes: int = 1000) -> tuple[RepoFile, ...]:
    return tuple(RepoFile(name=name, size_bytes=size_bytes + n) for n, name in enumerate(names))


def model(stem: str) -> ModelFile:
    return ModelFile(stem, (f"{stem}.gguf",), 1000)


def mmproj(stem: str, *names: str) -> str | None:
    found = mmproj_for(model(stem), listed(*names))
    return found.name if found else None


def test_the_usual_quant_is_read_first_then_the_smallest_whole_file() -> None:
    names = ("m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf")
    found = header_source(model_files(listed(*names)))
    assert found is not None
    assert found.names == ("m-Q4_K_M.gguf",)
    split = ("m-Q2_K-00001-of-00001.gguf", "m-Q8_0.gguf", "m-Q6_K.gguf")
    found = header_source(model_files(listed(*split)))
    assert found is not None
    assert found.names == ("m-Q2_K-00001-of-00001.gguf",)
    assert header_source(()) is None


def test_a_quant_is_named_in_any_case_and_a_file_by_its_own_name() -> None:
    files = model_files(
        listed("m-q4_k_m.gguf", "m-UD-Q4_K_XL.gguf", "Q8_0/m-00001-of-00002.gguf",
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
    assert mmproj(stem, *names) == expected


@given(st.lists(st.text(max_size=30).map(lambda text: f"mmproj{text}.gguf"), max_size=5), st.text())
def test_no_name_breaks_the_choice(names: list[str], stem: str) -> None:
    found = mmproj(stem, *names)
    assert found is None or found in names
