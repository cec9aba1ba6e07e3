"""Headers of real models, of generated ones, cut ones and damaged ones."""

import copy
import io
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core import gguf
from localllm.core.gguf.metadata import Strings
from localllm.core.model.spec import MetadataValue, ModelSpec
from localllm.errors import GgufError
from tests.core.forge import Forged, write
from tests.core.forge import spec as spec_of
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT
from tests.core.malformed import (
    BOOL,
    I32,
    TEXT,
    U16,
    U32,
    array,
    good,
    pair,
    with_pair,
)


def read(raw: bytes, size: int | None = None) -> ModelSpec:
    return gguf.read(io.BytesIO(raw), len(raw) if size is None else size)


def header_of(path: Path) -> tuple[bytes, int]:
    """The bytes before the tensor data, and the length of the file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        end = gguf.read(stream, size).data_offset
        stream.seek(0)
        return stream.read(end), size


# real models


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_every_value_of_a_real_model_agrees_with_the_gguf_package(
    model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: Path = request.getfixturevalue(model)
    with monkeypatch.context() as patch:  # one slice of a map costs as much as four of an array
        patch.setattr(np, "memmap", lambda path, mode: np.fromfile(path, np.uint8))
        theirs = reference.GGUFReader(path)
    with path.open("rb") as stream:
        ours = gguf.read(stream, path.stat().st_size)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        assert _plain(ours.metadata[key]) == field.contents(), key
    assert [(t.name, t.shape, int(t.type), t.size_bytes) for t in ours.tensors] == [
        (t.name, tuple(t.shape.tolist()), int(t.tensor_type), int(t.n_bytes))
        for t in theirs.tensors
    ]
    assert [ours.data_offset + t.offset for t in ours.tensors] == [
        int(t.data_offset) for t in theirs.tensors
    ]
    assert (ours.data_offset, ours.alignment) == (theirs.data_offset, theirs.alignment)


def _plain(value: MetadataValue) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return value


@pytest.mark.smoke
def test_exactly_the_header_is_taken_from_the_stream(gemma3: Path) -> None:
    class Counting(io.RawIOBase):
        consumed = 0

        def read(self, size: int = -1) -> bytes:
            piece = stream.read(size)
            self.consumed += len(piece)
            return piece

    with gemma3.open("rb", buffering=0) as stream:
        counting = Counting()
        spec = gguf.read(counting, gemma3.stat().st_size)  # type: ignore[arg-type]  # only read()
    assert spec.data_offset - spec.alignment < counting.consumed <= spec.data_offset


def test_a_file_whose_data_is_a_hole_passes(smollm2: Path, tmp_path: Path) -> None:
    header, size = header_of(smollm2)
    sparse = tmp_path / "sparse.gguf"
    with sparse.open("wb") as out:
        out.write(header)
        out.truncate(size)
    with sparse.open("rb") as stream, smollm2.open("rb") as original:
        assert gguf.read(stream, size) == gguf.read(original, size)


@pytest.mark.smoke
@pytest.mark.parametrize("forged", [*EVERY_ATTENTION, *EVERY_RECURRENT], ids=lambda f: f.name)
def test_no_published_architecture_is_refused(forged: Forged, tmp_path: Path) -> None:
    path = tmp_path / "forged.gguf"
    write(forged, path)
    with path.open("rb") as stream:
        spec = gguf.read(stream, path.stat().st_size)
    expected = spec_of(forged)
    assert _rounded(spec.metadata) == _rounded(expected.metadata)
    assert replace(spec, metadata=expected.metadata) == expected


def _rounded(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    """As the file has it: floats of 32 bits."""
    return {
        key: struct.unpack("<f", struct.pack("<f", value))[0] if isinstance(value, float) else value
        for key, value in metadata.items()
    }


# one by one


def test_a_stream_that_gives_one_byte_at_a_time_reads_the_same() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(1, size or 0))

    raw = good().build()
    assert gguf.read(Slow(raw), len(raw)) == read(raw)


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_are_read(version: int) -> None:
    assert read(replace(good(), version=struct.pack("<I", version)).build()).version == version


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_a_stated_alignment_moves_the_data(alignment: int) -> None:
    file = replace(with_pair(pair("general.alignment", U32, alignment)), alignment=alignment)
    spec = read(file.build())
    assert spec.alignment == alignment
    assert spec.data_offset == -(-len(file.header()) // alignment) * alignment
    assert [tensor.offset for tensor in spec.tensors] == file.true_offsets()


def test_a_vocabulary_without_tensors_is_a_valid_header() -> None:
    raw = replace(good(), tensors=()).build()
    spec = read(raw)
    assert (spec.tensors, spec.vocabulary, spec.data_offset) == ((), 3, len(raw))


def test_a_later_part_of_a_split_model_needs_no_architecture() -> None:
    keys = (
        pair("split.no", U16, 1),
        pair("split.count", U16, 3),
        pair("split.tensors.count", I32, 2),
    )
    spec = read(replace(good(), pairs=keys).build())
    assert spec.architecture == "unknown"
    assert spec.metadata["split.count"] == 3
    assert len(spec.tensors) == 2


def test_the_first_part_of_a_split_model_is_read_like_any_other() -> None:
    spec = read(with_pair(pair("split.no", U16, 0), pair("split.count", U16, 2)).build())
    assert (spec.architecture, spec.metadata["split.count"]) == ("llama", 2)


def test_text_that_is_not_utf8_is_read_with_marks_in_its_place() -> None:
    spec = read(
        with_pair(
            pair("general.name", TEXT, b"caf\xe9 \xf0\x9f\x98\x80"),
            array("tokenizer.ggml.tokens", TEXT, [b"\xe2\x96\x81", b"\xff\xfe", b""]),
        ).build()
    )
    assert spec.name == "caf\ufffd \U0001f600"
    assert list(spec.metadata["tokenizer.ggml.tokens"]) == [  # type: ignore[arg-type]  # an array
        "\u2581",
        "\ufffd\ufffd",
        "",
    ]


def test_layers_may_have_no_attention_heads_and_slide_by_an_array_of_booleans() -> None:
    spec = read(
        with_pair(
            array("llama.attention.head_count_kv", I32, [0, 2]),
            array("llama.attention.sliding_window_pattern", BOOL, [True, False]),
        ).build()
    )
    assert (spec.head_count_kv(0), spec.head_count_kv(1)) == (0, 2)
    assert spec.value("attention.sliding_window_pattern") == [True, False]


def test_a_length_that_is_longer_than_the_tensors_is_fine() -> None:
    raw = good().build()
    assert read(raw, len(raw) + 1).file_bytes == len(raw) + 1


def test_arrays_are_sequences_that_compare_copy_and_refuse_what_is_outside() -> None:
    metadata = read(good().build()).metadata
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    assert isinstance(tokens, Strings)
    assert tokens[-1] == "b"
    assert tokens[1:] == ("a", "b")
    assert "a" in tokens
    assert tokens != ["<s>", "a"]
    assert tokens != "<s>ab"
    assert repr(scores) == "[0.0, -1.0, -2.0] (3)"
    with pytest.raises(IndexError, match="index 3 of an array of 3"):
        tokens[3]
    for value in (tokens, scores):
        assert copy.deepcopy(value) == value
        assert pickle.loads(pickle.dumps(value)) == value


# the beginning of a file


def test_a_beginning_says_how_much_more_is_needed_until_the_header_is_whole() -> None:
    raw, length, rounds = good().build(), 0, 0
    while True:
        try:
            spec = read(raw[:length], len(raw))
        except gguf.HeaderIncomplete as error:
            assert length < error.needed_bytes <= len(good().header())
            length, rounds = error.needed_bytes, rounds + 1
        else:
            break
    assert spec == read(raw)
    assert length == len(good().header())
    assert rounds > 10


@given(part=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25, deadline=None)
def test_a_cut_real_header_is_incomplete_or_the_file_is_too_short(
    smollm2_header: tuple[bytes, int], part: float
) -> None:
    header, size = smollm2_header
    cut = header[: int(part * (len(header) - 32))]
    with pytest.raises(gguf.HeaderIncomplete) as caught:
        read(cut, size)
    assert len(cut) < caught.value.needed_bytes <= len(header)
    with pytest.raises(GgufError, match=r"[Dd]ownload") as refused:
        read(cut)
    assert not isinstance(refused.value, gguf.HeaderIncomplete)


def test_an_unfinished_download_is_told_in_numbers(smollm2_header: tuple[bytes, int]) -> None:
    header, size = smollm2_header
    with pytest.raises(GgufError) as caught:
        read(header, size - 1000)
    assert f"the file is {size - 1000} bytes, its tensors need {size}" in str(caught.value)


@pytest.fixture(scope="module")
def smollm2_header(smollm2: Path) -> tuple[bytes, int]:
    return header_of(smollm2)
