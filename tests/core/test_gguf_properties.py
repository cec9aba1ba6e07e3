"""Generated headers read back as written; damaged and random ones end in ModelSpec or GgufError.

Also: what our reader passes, llama.cpp's own reader takes, and no file takes more than 64 MiB.
"""

import ctypes
import io
import struct
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from localllm.core import gguf
from localllm.core.gguf.byte_reader import MAX_HEADER_BYTES, MAX_TEXT_BYTES
from localllm.core.gguf.metadata import MAX_KEY_BYTES, MAX_KEYS, MAX_STRINGS
from localllm.core.gguf.tensors import MAX_TENSORS
from localllm.core.model.quants import BLOCKS, GgmlType, row_bytes
from localllm.core.model.spec import MetadataValue, ModelSpec
from localllm.errors import GgufError
from tests.core.malformed import (
    ARRAY,
    BOOL,
    CODES,
    F32,
    F64,
    I64,
    TEXT,
    U8,
    U32,
    File,
    Pair,
    Scalar,
    Tensor,
    array,
    counted,
    good,
    pair,
    with_pair,
)

Values = list[Scalar]
Written = tuple[str, int, Scalar | Values]

MEMORY_LIMIT = 64 << 20
INTEGER_BITS = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 32, 10: 64, 11: 64}


def scalars(kind: int) -> st.SearchStrategy[Scalar]:
    if kind == TEXT:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    if kind == BOOL:
        return st.booleans()
    if kind in (F32, F64):
        return st.floats(width=32 if kind == F32 else 64, allow_nan=False)
    bits = INTEGER_BITS[kind]
    low = -(1 << bits - 1) if CODES[kind].islower() else 0
    return st.integers(low, low + (1 << bits) - 1)


kinds = st.sampled_from([TEXT, *CODES])
keys = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1)
values: st.SearchStrategy[tuple[int, Scalar | Values]] = kinds.flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.one_of(scalars(kind), st.lists(scalars(kind), max_size=30))
    )
)
pairs = st.dictionaries(keys.map(lambda key: f"x.{key[:60]}"), values, max_size=8)
alignments = st.sampled_from([8, 16, 32, 64, 4096])


@st.composite
def tensors(draw: st.DrawFn, name: str) -> Tensor:
    kind = draw(st.sampled_from(sorted(GgmlType)))
    blocks = draw(st.integers(1, 3))
    rest = draw(st.lists(st.integers(1, 4), max_size=3))
    shape = (blocks * BLOCKS[kind].elements, *rest)
    return Tensor(name=name.encode(), shape=shape, type=kind)


names = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=63)


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, MetadataValue], File]:
    """What a file says, and the file."""
    architecture = draw(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True))
    alignment = draw(alignments)
    written = draw(pairs)
    metadata: dict[str, MetadataValue] = {
        "general.architecture": architecture,
        "general.alignment": alignment,
    }
    metadata |= {key: value for key, (_, value) in written.items()}  # type: ignore[misc]  # mixed list
    file = File(
        pairs=(
            pair("general.architecture", TEXT, architecture),
            pair("general.alignment", U32, alignment),
            *(_written(key, kind, value) for key, (kind, value) in written.items()),
        ),
        tensors=tuple(
            draw(tensors(name)) for name in draw(st.lists(names, max_size=5, unique=True))
        ),
        alignment=alignment,
    )
    return metadata, file


def _written(key: str, kind: int, value: Scalar | Values) -> Pair:
    return array(key, kind, value) if isinstance(value, list) else pair(key, kind, value)


def read(raw: bytes, size: int | None = None) -> ModelSpec:
    return gguf.read(io.BytesIO(raw), len(raw) if size is None else size)


@given(files())
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read(written_file: tuple[dict[str, MetadataValue], File]) -> None:
    metadata, file = written_file
    raw = file.build()
    spec = read(raw)
    assert spec.metadata == metadata
    assert list(spec.metadata) == list(metadata)
    assert [(t.name.encode(), t.shape, int(t.type)) for t in spec.tensors] == [
        (t.name, t.shape, int(t.type)) for t in file.tensors
    ]
    assert [t.offset for t in spec.tensors] == file.true_offsets()[: len(file.tensors)]
    for tensor in spec.tensors:
        blocks = tensor.elements // BLOCKS[tensor.type].elements
        assert tensor.size_bytes == blocks * row_bytes(tensor.type, BLOCKS[tensor.type].elements)
    assert (spec.alignment, spec.file_bytes) == (file.alignment, len(raw))


@given(written_file=files(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_cut_file_is_refused_wherever_it_is_cut(
    written_file: tuple[dict[str, MetadataValue], File], data: st.DataObject
) -> None:
    raw = written_file[1].build()
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(GgufError):
        read(cut)


@given(st.binary(max_size=200))
@example(b"")
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(GgufError):
        read(raw)
    with pytest.raises(GgufError):
        read(b"GGUF\3\0\0\0" + raw, 1 << 40)


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([bytes(8), b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(7) + b"\x80"]),
        ),
    ),
    min_size=1,
    max_size=4,
)
Edits = list[tuple[float, bytes]]


def damaged(raw: bytes, changes: Edits) -> bytes:
    """Overwrite bytes at each place (a fraction of the whole)."""
    out = bytearray(raw)
    for place, new in changes:
        at = int(place * len(raw))
        out[at : at + len(new)] = new
    return bytes(out[: len(raw)])


def outcome(raw: bytes, size: int) -> ModelSpec | None:
    """The model, or None when the file is refused; anything else fails the test."""
    try:
        return read(raw, size)
    except GgufError:
        return None


@given(edits)
@settings(max_examples=500, deadline=None)
def test_a_damaged_small_header_is_a_model_or_an_error(
    llama_cpp_takes: Callable[[bytes], bool], changes: Edits
) -> None:
    raw = damaged(good().build(), changes)
    if outcome(raw, len(raw)) is not None:
        assert llama_cpp_takes(raw)


@given(edits)
@settings(max_examples=40, deadline=None)
def test_a_damaged_real_header_is_a_model_or_an_error(
    outer_header: tuple[bytes, int], changes: Edits
) -> None:
    header, size = outer_header
    outcome(damaged(header, changes), size)


@given(files())
@settings(max_examples=100, deadline=None)
def test_llama_cpp_takes_what_we_pass(
    llama_cpp_takes: Callable[[bytes], bool],
    written_file: tuple[dict[str, MetadataValue], File],
) -> None:
    assert llama_cpp_takes(written_file[1].build())


@pytest.fixture(scope="module")
def outer_header(smollm2: Path) -> tuple[bytes, int]:
    """A real header without its long arrays, so that damage meets keys and tensors."""
    size = smollm2.stat().st_size
    with smollm2.open("rb") as stream:
        spec = gguf.read(stream, size)
        stream.seek(0)
        header = stream.read(spec.data_offset)
    start = header.index(counted(b"tokenizer.ggml.tokens"))
    end = header.index(counted(b"tokenizer.ggml.bos_token_id"))
    counts = struct.pack("<4sIQQ", b"GGUF", 3, len(spec.tensors), len(spec.metadata) - 3)
    short = counts + header[24:start] + header[end:]
    assert read(short, size).tensors == spec.tensors
    return short, size


@pytest.fixture(scope="module")
def llama_cpp_takes() -> Callable[[bytes], bool]:
    """llama.cpp's own reader of headers (`gguf_init_from_buffer` in ggml's library)."""
    package = find_spec("llama_cpp")
    assert package is not None
    assert package.origin is not None
    names = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}
    name = names.get(sys.platform, "libggml-base.so")
    ggml = ctypes.CDLL(str(Path(package.origin).parent / "lib" / name))

    class InitParams(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    ggml.gguf_init_from_buffer.restype = ctypes.c_void_p
    ggml.gguf_init_from_buffer.argtypes = [ctypes.c_char_p, ctypes.c_size_t, InitParams]
    ggml.gguf_free.argtypes = [ctypes.c_void_p]

    def takes(raw: bytes) -> bool:
        context = ggml.gguf_init_from_buffer(raw, len(raw), InitParams(True, None))
        if context:
            ggml.gguf_free(context)
        return bool(context)

    return takes


# the largest headers that pass


SMILE = "\U0001f600"  # four bytes a letter: takes the most as `str`


def _everything_at_its_limit() -> File:
    """As many texts, keys, names and tensors as may be, and numbers in what is left."""
    texts = MAX_STRINGS - 3  # three tokens are there
    letters = SMILE * (MAX_KEY_BYTES // 4 - 2)
    keys = [pair(f"{letters}{number:08}", I64, 1 << 40) for number in range(MAX_KEYS - 20)]
    text = SMILE * ((MAX_TEXT_BYTES - sum(len(each.key) for each in keys)) // 4 - 100)
    tensors = [
        Tensor(name=f"{number:07}{SMILE * 14}".encode(), shape=(300, 1, 1, 1))
        for number in range(MAX_TENSORS)
    ]
    named = with_pair(*keys, pair("t", TEXT, text), _filled("a", TEXT, texts, 8 * texts))
    file = replace(named, tensors=tuple(tensors))
    rest = MAX_HEADER_BYTES - len(file.header()) - 100
    return replace(file, pairs=(*file.pairs, _filled("b", U8, rest, rest)))


def _one_text_at_its_limit() -> File:
    """One text of the array and one by itself, both as long as may be."""
    single = pair("t", TEXT, SMILE * (MAX_TEXT_BYTES // 4 - 250))
    rest = MAX_HEADER_BYTES - MAX_TEXT_BYTES - 2000
    return with_pair(single, _filled("b", TEXT, 1, 8 + rest, struct.pack("<Q", rest)))


def _filled(key: str, element: int, count: int, size: int, start: bytes = b"") -> Pair:
    """An array of `size` bytes, all zero after `start`."""
    claim = struct.pack("<IIQ", ARRAY, element, count)
    return Pair(key=key.encode(), raw=claim + start + bytes(size - len(start)))


@pytest.mark.parametrize("largest", [_everything_at_its_limit, _one_text_at_its_limit])
def test_the_largest_headers_that_pass_stay_under_the_memory_limit(
    largest: Callable[[], File],
) -> None:
    stream = io.BytesIO(largest().build())
    size = len(stream.getbuffer())
    tracemalloc.start()
    try:
        spec = gguf.read(stream, size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(spec.metadata["b"], Sequence)
    assert peak < MEMORY_LIMIT


def test_a_hole_of_a_terabyte_is_refused_without_reading_it() -> None:
    class Zeros(io.RawIOBase):
        """A header's start and zeros without end."""

        consumed = 0

        def read(self, size: int = -1) -> bytes:
            piece = start[self.consumed : self.consumed + size].ljust(size, b"\0")
            self.consumed += size
            return piece

    claim = Pair(key=b"a", raw=struct.pack("<IIQ", 9, 0, 10**11))
    start = File(pairs=(claim,)).header()
    zeros = Zeros()
    with pytest.raises(GgufError, match="a header may have"):
        gguf.read(zeros, 1 << 40)  # type: ignore[arg-type]  # only read() is needed
    assert zeros.consumed <= len(start)
