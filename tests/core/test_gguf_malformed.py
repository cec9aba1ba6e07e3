"""Files that lie. Each is named, and stands for a class of holes that readers of GGUF have had."""

import io
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

import pytest

from localllm.core import gguf
from localllm.core.model.quants import GgmlType
from localllm.errors import GgufError
from tests.core.malformed import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I32,
    I64,
    TEXT,
    U8,
    U32,
    U64,
    File,
    Pair,
    Tensor,
    array,
    counted,
    good,
    pair,
    with_pair,
    with_tensor,
)

MEMORY_LIMIT = 64 << 20
MAX_U64 = 2**64 - 1


class Danger(StrEnum):
    """What has gone wrong in readers (SECURITY.md lists the CVEs)."""

    ALLOCATION = "over-allocation (CVE-2025-0315)"
    OVERFLOW = "integer overflow (CVE-2025-53630)"
    BOUNDS = "read out of bounds (CVE-2024-39720)"
    BLOCKS = "division by zero, rows against blocks (CVE-2025-0317)"
    TWICE = "one name for two things"
    NAMES = "names that reach a path or a terminal (CVE-2024-37032, CVE-2025-64496)"
    TYPES = "a value of another type than is read"
    SENSE = "numbers that no model has"
    FORMAT = "not this format"
    CUT = "a file that is not all there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """`says` is in the message, `size` is the file's length where `raw` is not all of it."""

    name: str
    danger: Danger
    raw: bytes
    says: str
    size: int | None = None


def _bad(name: str, danger: Danger, file: File | bytes, says: str) -> Bad:
    return Bad(
        name=name, danger=danger, raw=file if isinstance(file, bytes) else file.build(), says=says
    )


def _huge(name: str, danger: Danger, file: File, says: str) -> Bad:
    """As `_bad`, in a file with a hole of a terabyte: its length alone refutes nothing."""
    return Bad(name=name, danger=danger, raw=file.build() + bytes(64), says=says, size=1 << 40)


def _value(key: str, raw: bytes) -> File:
    return with_pair(Pair(key=key.encode(), raw=raw))


def _text_claiming(length: int) -> File:
    return _value("general.name", struct.pack("<IQ", TEXT, length) + b"x")


def _token_claiming(length: int) -> File:
    raw = struct.pack("<IIQ", ARRAY, TEXT, 2) + counted(b"a") + struct.pack("<Q", length)
    return _value("tokenizer.ggml.tokens", raw + b"x")


def _allocation() -> Iterator[Bad]:
    kind = Danger.ALLOCATION
    many = 10**12
    yield _huge("a trillion tensors", kind, replace(good(), tensor_count=many), "tensors; at most")
    yield _huge("a trillion keys", kind, replace(good(), key_count=many), "keys; at most")
    yield _bad("more tensors than bytes", kind, replace(good(), tensor_count=999), "list of 999")
    yield _bad("more keys than bytes", kind, replace(good(), key_count=99), "list of 99 keys")
    yield _bad("2^64-1 tensors", kind, replace(good(), tensor_count=MAX_U64), "at most")
    yield _bad("2^64-1 keys", kind, replace(good(), key_count=MAX_U64), "at most")
    for element, label in ((U8, "bytes"), (U32, "numbers"), (F64, "doubles"), (BOOL, "booleans")):
        claim = array("x", element, [], count=many)
        yield _bad(f"a trillion {label}", kind, with_pair(claim), f"({many} elements)")
    texts = with_pair(array("x", TEXT, [], count=many))
    yield _bad("a trillion texts", kind, texts, f"({many} texts)")
    numbers = with_pair(array("x", U64, [], count=10**10))
    yield _huge("ten billion numbers in a long file", kind, numbers, "a header may have")
    yield _huge(
        "three million texts in a long file", kind, with_pair(array("x", TEXT, [], count=3 << 20)),
        "texts; all arrays",
    )  # fmt: skip
    yield _huge("a text of 3 MiB", kind, _text_claiming(3 << 20), "all texts of a header")
    yield _huge("a text of a gigabyte", kind, _text_claiming(1 << 30), "a header may have")
    yield _huge("a token of a gigabyte", kind, _token_claiming(1 << 30), "a header may have")
    long_key = with_pair(Pair(key=b"k", key_length=1 << 30, raw=b""))
    yield _huge("a key of a gigabyte", kind, long_key, "claims a length of 1073741824")
    flat = with_pair(Pair(key=b"k" * 257, raw=struct.pack("<IB", U8, 1)))
    yield _bad("a key of 257 bytes", kind, flat, "at most 256")


def _overflow() -> Iterator[Bad]:
    kind = Danger.OVERFLOW
    yield _bad("a text of 2^64-1 bytes", kind, _text_claiming(MAX_U64), str(MAX_U64))
    yield _bad("a token of 2^64-1 bytes", kind, _token_claiming(MAX_U64), "text 2 of 2")
    wrap = with_pair(array("x", U64, [], count=2**61 + 1))
    yield _bad("elements x 8 wraps around 2^64", kind, wrap, "2305843009213693953 elements")
    wrap = with_pair(array("x", TEXT, [], count=2**61 + 1))
    yield _bad("texts x 8 wraps around 2^64", kind, wrap, "2305843009213693953 texts")
    key = with_pair(Pair(key=b"k", key_length=MAX_U64, raw=b""))
    yield _bad("a key of 2^64-1 bytes", kind, key, "claims a length")
    for label, shape in (
        ("2^64 elements", (2**32, 2**32)),
        ("2^63 elements", (2**32, 2**31)),
        ("four dimensions that wrap to 0", (2**16, 2**16, 2**16, 2**16)),
        ("a negative dimension", (MAX_U64, 1)),
        ("a dimension of 2^63", (2**63,)),
    ):
        yield _bad(label, kind, with_tensor(Tensor(name=b"t", shape=shape)), "2^63 elements")
    bytes_wrap = Tensor(name=b"t", shape=(2**31, 2**31), type=GgmlType.F64)
    yield _bad("2^65 bytes", kind, with_tensor(bytes_wrap), "overflow")
    far = Tensor(name=b"t", offset=2**64 - 32)
    yield _bad("offset + size wraps around 2^64", kind, with_tensor(far), "overflow")


def _bounds() -> Iterator[Bad]:
    kind = Danger.BOUNDS
    yield _bad("a text longer than the file", kind, _text_claiming(9999), "'general.name'")
    yield _bad("a token longer than the file", kind, _token_claiming(9999), "text 2 of 2")
    yield _bad(
        "a tensor that begins behind the file", kind,
        with_tensor(Tensor(name=b"t", offset=1 << 40)), "gap",
    )  # fmt: skip
    yield _bad(
        "a tensor that ends behind the file", kind,
        with_tensor(Tensor(name=b"t", shape=(1 << 20, 1 << 10))), "its tensors need",
    )  # fmt: skip
    first = replace(good(), tensors=(Tensor(name=b"t", offset=32),))
    yield _bad("a gap before the first tensor", kind, first, "gap")
    yield _bad("a gap", kind, with_tensor(Tensor(name=b"t", offset=512)), "gap")
    yield _bad("an offset between the steps", kind, with_tensor(Tensor(name=b"t", offset=257)),
               "not aligned to 32")  # fmt: skip
    yield _bad("two tensors in one place", kind, with_tensor(Tensor(name=b"t", offset=0)),
               "overlaps")  # fmt: skip
    yield _bad("tensors that overlap", kind, with_tensor(Tensor(name=b"t", offset=128)),
               "overlaps")  # fmt: skip
    scores = with_pair(array("tokenizer.ggml.scores", F32, [0.0]))
    yield _bad("fewer scores than tokens", kind, scores, "1 elements for 3 tokens")
    kinds = with_pair(array("tokenizer.ggml.token_type", I32, [1, 1, 1, 1]))
    yield _bad("more token types than tokens", kind, kinds, "4 elements for 3 tokens")
    yield _bad("five dimensions", kind, with_tensor(Tensor(name=b"t", shape=(1,) * 5)),
               "5 dimensions")  # fmt: skip
    dimensions = Tensor(name=b"t", dimensions=2**32 - 1)
    yield _bad("2^32-1 dimensions", kind, with_tensor(dimensions), "4294967295 dimensions")


def _blocks() -> Iterator[Bad]:
    kind = Danger.BLOCKS
    yield _bad("no dimensions", kind, with_tensor(Tensor(name=b"t", shape=())), "0 dimensions")
    for shape in ((0,), (32, 0), (32, 1, 0), (0, 0, 0, 0)):
        zero = with_tensor(Tensor(name=b"t", shape=shape))
        yield _bad(f"a dimension of zero in {shape}", kind, zero, "dimension of 0")
    for type_, columns in ((GgmlType.Q4_0, 31), (GgmlType.Q4_K, 128), (GgmlType.NVFP4, 32)):
        partial = with_tensor(Tensor(name=b"t", shape=(columns, 2), type=type_))
        yield _bad(f"{columns} columns of {type_.name}", kind, partial, "do not fill blocks")
    for value in (0, 1, 4, 24, 33, 2**31, 2**32 - 1):
        file = with_pair(pair("general.alignment", U32, value))
        yield _bad(f"an alignment of {value}", kind, file, f"general.alignment is {value}")


def _twice() -> Iterator[Bad]:
    kind = Danger.TWICE
    name = pair("general.name", TEXT, "x")
    yield _bad("a key twice", kind, with_pair(name, name), "duplicate")
    alignments = with_pair(*(pair("general.alignment", U32, value) for value in (32, 64)))
    yield _bad("two alignments", kind, alignments, "duplicate")
    yield _bad("a tensor twice", kind, with_tensor(Tensor(name=b"output_norm.weight")), "duplicate")


def _names() -> Iterator[Bad]:
    kind = Danger.NAMES
    for label, raw, says in (
        ("an escape", b"\x1b]0;owned\x07", "control"),
        ("a line end", b"a\nb", "control"),
        ("a NUL", b"a\0b", "control"),
        ("a C1 control", "a\x9b31m".encode(), "control"),
        ("a mark that reverses the line", "a\u202eb".encode(), "control"),
        ("no UTF-8", b"a\xff", "not UTF-8"),
        ("a lone surrogate", b"\xed\xa0\x80", "not UTF-8"),
        ("nothing", b"", "empty"),
    ):
        in_key = with_pair(Pair(key=raw, raw=struct.pack("<IB", U8, 1)))
        yield _bad(f"{label} in a key", kind, in_key, says)
        yield _bad(f"{label} in a tensor's name", kind, with_tensor(Tensor(name=raw)), says)
    yield _bad("a tensor's name of 64 bytes", kind, with_tensor(Tensor(name=b"n" * 64)), "64 bytes")
    claim = with_tensor(Tensor(name=b"n", name_length=MAX_U64))
    yield _bad("a tensor's name of 2^64-1 bytes", kind, claim, "at most 63")
    for label, architecture in (
        ("a path", "../../etc/passwd"),
        ("nothing", ""),
        ("an escape", "llama\x1b[2J"),
        ("no UTF-8", b"ll\xffma"),
        ("a line end at its end", "llama\n"),
        ("65 letters", "a" * 65),
    ):
        file = with_pair(pair("general.architecture", TEXT, architecture))
        yield _bad(f"{label} as the architecture", kind, file, "not a plain name")


def _types() -> Iterator[Bad]:
    kind = Danger.TYPES
    for number in (13, 255, 2**32 - 1):
        file = _value("x", struct.pack("<I", number))
        yield _bad(f"value type {number}", kind, file, f"unknown value type {number}")
        file = _value("x", struct.pack("<IIQ", ARRAY, number, 1))
        yield _bad(f"element type {number}", kind, file, f"unknown value type {number}")
    nested = _value("x", struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", U8, 0))
    yield _bad("an array of arrays", kind, nested, "nested")
    yield _bad("a boolean of 2", kind, _value("x", struct.pack("<IB", BOOL, 2)), "boolean of 2")
    booleans = _value("x", struct.pack("<IIQ4B", ARRAY, BOOL, 4, 0, 1, 7, 1))
    yield _bad("a boolean of 7 in an array", kind, booleans, "boolean of 7")
    for key, value_kind, value in (
        ("general.architecture", U32, 7),
        ("general.alignment", U64, 32),
        ("tokenizer.ggml.tokens", TEXT, "a"),
    ):
        yield _bad(f"{key} of another type", kind, with_pair(pair(key, value_kind, value)),
                   "it must be")  # fmt: skip
    for key, element in (
        ("general.architecture", TEXT),
        ("tokenizer.ggml.tokens", U8),
        ("tokenizer.ggml.merges", I8),
        ("tokenizer.ggml.scores", U8),
        ("tokenizer.ggml.token_type", I64),
    ):
        yield _bad(f"{key} of other elements", kind, with_pair(array(key, element, [])),
                   "it must be")  # fmt: skip
    for number in (4, 5, 31, 33, 36, 38):
        retired = with_tensor(Tensor(name=b"t", type=number))
        yield _bad(f"the retired tensor type {number}", kind, retired, "no longer reads")
    for number in (43, 255, 2**31, 2**32 - 1):
        unknown = with_tensor(Tensor(name=b"t", type=number))
        yield _bad(f"tensor type {number}", kind, unknown, f"unknown type {number}")


def _sense() -> Iterator[Bad]:
    kind = Danger.SENSE
    for key, value in (
        ("block_count", 0),
        ("block_count", 513),
        ("block_count", 2**32 - 1),
        ("context_length", 0),
        ("embedding_length", 2**31),
        ("attention.head_count", 2**32 - 1),
        ("attention.key_length", 2**20),
        ("expert_count", 2**30),
        ("vocab_size", 2**32 - 1),
    ):
        file = with_pair(pair(f"llama.{key}", U32, value))
        yield _bad(f"{key} of {value}", kind, file, f"llama.{key} is {value};")
    negative = with_pair(pair("llama.attention.head_count_kv", I32, -1))
    yield _bad("-1 heads", kind, negative, "is -1;")
    fraction = with_pair(pair("llama.block_count", F32, 1.5))
    yield _bad("one and a half layers", kind, fraction, "a whole number is needed")
    text = with_pair(pair("llama.block_count", TEXT, "\x1b[2J"))
    yield _bad("layers in words", kind, text, r"'\x1b[2J'")
    layers = with_pair(array("llama.attention.head_count", U32, [4] * 513))
    yield _bad("heads for 513 layers", kind, layers, "513 elements")
    heads = with_pair(array("llama.attention.head_count", I32, [4, -4]))
    yield _bad("-4 heads in one layer", kind, heads, "head_count[1] is -4")
    split = with_pair(pair("split.count", I32, -2))
    yield _bad("-2 parts", kind, split, "split.count is -2")


def _format() -> Iterator[Bad]:
    kind = Danger.FORMAT
    raw = good().build()
    yield _bad("big-endian", kind, replace(good(), version=struct.pack(">I", 3)), "big-endian")
    for version in (0, 1, 4, 2**32 - 1):
        file = replace(good(), version=struct.pack("<I", version))
        yield _bad(f"version {version}", kind, file, f"version {version}")
    for label, start, says in (
        ("other letters", b"GGUG", "not a GGUF file"),
        ("letters backwards", b"FUGG", "not a GGUF file"),
        ("an old ggml file", b"lmgg", "before GGUF"),
        ("a zip archive", b"PK\3\4", "zip archive"),
        ("a web page", b"<!DOCTYPE html>", "web page"),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        ("a terminal escape", b"\x1b[2J", "letters GGUF"),
    ):
        yield _bad(label, kind, start + raw[len(start) :], says)
    nameless = replace(good(), pairs=good().pairs[1:])
    yield _bad("no architecture", kind, nameless, "no general.architecture")


def _cut() -> Iterator[Bad]:
    kind = Danger.CUT
    raw = good().build()
    yield _bad("an empty file", kind, b"", "ends at 0")
    yield _bad("three bytes", kind, raw[:3], "Download it again")
    yield _bad("a magic and nothing else", kind, raw[:4], "not complete")
    yield _bad("half a start", kind, raw[:14], "not complete")
    yield _bad("no keys", kind, raw[:24], "list of 8 keys")
    yield _bad("half a key", kind, raw[:130], "not complete")
    header = len(good().header())
    yield _bad("half a list of tensors", kind, raw[: header - 20], "not complete")
    yield _bad("no data", kind, raw[:header], "its tensors need")
    yield _bad("one byte too few", kind, raw[:-1], "(1 bytes are missing)")


CASES = [
    *_allocation(), *_overflow(), *_bounds(), *_blocks(), *_twice(), *_names(), *_types(),
    *_sense(), *_format(), *_cut(),
]  # fmt: skip


@contextmanager
def memory_limit() -> Iterator[None]:
    """Fail when the block's own allocations peak above the limit."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT, f"peak of {peak} bytes"


def test_the_file_that_the_others_are_made_from_is_good() -> None:
    raw = good().build()
    spec = gguf.read(io.BytesIO(raw), len(raw))
    assert (spec.architecture, spec.blocks, spec.vocabulary) == ("llama", 1, 3)


def test_every_danger_has_files_and_every_file_a_name_of_its_own() -> None:
    assert {case.danger for case in CASES} == set(Danger)
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.danger.name}: {case.name}")
def test_a_bad_file_is_refused_with_a_reason_and_little_memory(case: Bad) -> None:
    stream = io.BytesIO(case.raw)
    size = len(case.raw) if case.size is None else case.size
    with memory_limit(), pytest.raises(GgufError) as caught:
        gguf.read(stream, size)
    message = str(caught.value)
    assert case.says in message
    assert message.isprintable()
    assert len(message) < 600
    assert not isinstance(caught.value, gguf.HeaderIncomplete)
