"""A written header holds what sizing needs, and a parser reads it back."""

import io
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from localllm.core import gguf
from localllm.core.gguf.writer import header_bytes
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.load import LoadSettings
from localllm.library.store.inspect import inspect_model
from tests.library.tiny import MODEL, header, write

LARGE = 2**40
"""The data is not there: its length is."""


def read_back(spec: ModelSpec) -> ModelSpec:
    return gguf.read(io.BytesIO(header_bytes(spec)), LARGE)


def test_the_header_of_a_real_file_sizes_as_the_file_does(smollm2: Path, gemma3: Path) -> None:
    for path in (smollm2, gemma3):
        spec = inspect_model(path).spec
        written = read_back(spec)
        assert written.vocabulary == spec.vocabulary
        assert [t.name for t in written.tensors] == [t.name for t in spec.tensors]
        load = LoadSettings(context=2048)
        wanted = footprint.of(spec, load)
        assert footprint.of(replace(written, file_bytes=spec.file_bytes), load).kv_bytes == (
            wanted.kv_bytes
        )
        assert len(header_bytes(spec)) < 100_000  # no tokenizer in it


def test_the_tensors_of_all_parts_lie_in_one_file(tmp_path: Path) -> None:
    spec = inspect_model(write(tmp_path / "m.gguf", tensors=2)).spec
    first, second = spec.tensors
    parts = replace(
        spec,
        tensors=(first, replace(second, offset=0)),  # as in the second of two files
        metadata={**spec.metadata, "split.count": 2, "split.no": 0},
    )
    written = read_back(parts)
    assert [t.offset for t in written.tensors] == [0, 128]
    assert not any(key.startswith("split.") for key in written.metadata)


@given(
    st.one_of(
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False),
        st.booleans(),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4).map(tuple),
        st.lists(st.integers(0, 2**64 - 1), max_size=4).map(tuple),
    )
)
def test_any_value_that_a_header_can_hold_can_be_written(
    value: int | float | str | tuple[int, ...],
) -> None:
    raw = header({**MODEL, "llama.block_count": 1})
    spec = gguf.read(io.BytesIO(raw), len(raw))
    written = read_back(replace(spec, metadata={**spec.metadata, "general.extra": value}))
    found = written.metadata["general.extra"]
    if isinstance(value, float):
        assert isinstance(found, float)
    else:
        assert (tuple(found) if isinstance(value, tuple) else found) == value  # type: ignore[arg-type]
