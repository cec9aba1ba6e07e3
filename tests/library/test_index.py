import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.library.files.names import valid
from localllm.library.store.index import IndexCodec, IndexDamaged, IndexTooNew
from localllm.library.store.installed import InstalledFile, InstalledModel

CODEC = IndexCodec(data=Path("/library"))

words = st.text(min_size=1)
sizes = st.integers(min_value=0, max_value=2**63)


@st.composite
def models(draw: st.DrawFn) -> InstalledModel:
    owned = draw(st.booleans())
    name = draw(st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True).filter(valid))
    root = Path("/library/models" if owned else "/elsewhere")
    parts = tuple(
        InstalledFile(
            path=root / f"{name}{number}.gguf",
            size_bytes=draw(sizes),
            mtime_ns=draw(st.none() | st.integers()),
            sha256=draw(st.none() | words),
            damaged=draw(st.booleans()),
        )
        for number in range(draw(st.integers(1, 3)))
    )
    return InstalledModel(
        name=name,
        quant=draw(st.none() | words),
        path=parts[0].path,
        size_bytes=sum(part.size_bytes for part in parts),
        sha256=parts[0].sha256 if len(parts) == 1 else None,
        license=draw(st.none() | words),
        source=draw(words),
        verified_at=draw(st.none() | words),
        parts=parts,
        owned=owned,
    )


libraries = st.lists(models(), unique_by=lambda model: model.name).map(
    lambda found: tuple(sorted(found, key=lambda model: model.name))
)


@settings(deadline=None)
@given(libraries)
def test_what_is_written_is_read_back(found: tuple[InstalledModel, ...]) -> None:
    assert CODEC.parse(CODEC.dump(found)) == found


@settings(deadline=None)
@given(libraries, st.data())
def test_a_torn_index_gives_back_every_entry_that_is_whole(
    found: tuple[InstalledModel, ...], data: st.DataObject
) -> None:
    whole = CODEC.dump(found)
    cut = data.draw(st.integers(0, len(whole)))
    lines_before = whole[:cut].count(b"\n") - 1  # the first line opens the document
    saved = CODEC.salvage(whole[:cut])
    assert saved[: max(lines_before, 0)] == found[: max(lines_before, 0)]
    assert set(saved) <= set(found)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_an_index_or_damage(data: bytes) -> None:
    try:
        CODEC.parse(data)
    except (IndexDamaged, IndexTooNew):
        assert CODEC.salvage(data) == ()


@settings(deadline=None)
@given(libraries, st.data())
def test_a_flipped_bit_never_gives_another_exception(
    found: tuple[InstalledModel, ...], data: st.DataObject
) -> None:
    bent = bytearray(CODEC.dump(found))
    bent[data.draw(st.integers(0, len(bent) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        CODEC.parse(bytes(bent))
    except (IndexDamaged, IndexTooNew):
        CODEC.salvage(bytes(bent))


ENTRY: dict[str, object] = json.loads(
    CODEC.dump(
        (
            InstalledModel(
                name="model",
                quant=None,
                path=Path("/m.gguf"),
                size_bytes=1,
                parts=(InstalledFile(path=Path("/m.gguf"), size_bytes=1),),
            ),
        )
    )
)["models"][0]
PART: dict[str, object] = {"path": "/m.gguf", "size_bytes": 1, "mtime_ns": None, "sha256": None}


@pytest.mark.parametrize(
    "row",
    [
        ENTRY | {"name": "../../x"},
        ENTRY | {"name": 5},
        ENTRY | {"owned": "yes"},
        ENTRY | {"parts": []},
        ENTRY | {"parts": [PART | {"size_bytes": -1}]},
        ENTRY | {"parts": [PART | {"size_bytes": True}]},
        ENTRY | {"parts": [PART | {"path": "relative.gguf"}]},
        ENTRY | {"parts": [PART | {"path": "/a\0b"}]},
        ENTRY | {"parts": [PART | {"path": 7}]},
        ENTRY | {"owned": True, "parts": [PART | {"path": "../../etc/passwd"}]},
        ENTRY | {"owned": True, "parts": [PART | {"path": "/etc/passwd"}]},
        [],
        None,
    ],
)
def test_an_entry_that_we_would_not_write_is_damage(row: object) -> None:
    with pytest.raises(IndexDamaged):
        CODEC.parse(json.dumps({"schema": 1, "models": [row]}).encode())


def test_deep_nesting_is_damage_and_no_recursion_error() -> None:
    data = b'{"name":' * 100_000
    with pytest.raises(IndexDamaged):
        CODEC.parse(data)


def test_two_entries_with_one_name_are_damage_and_the_first_is_kept() -> None:
    data = json.dumps({"schema": 1, "models": [ENTRY, ENTRY | {"license": "MIT"}]}).encode()
    with pytest.raises(IndexDamaged, match="one name"):
        CODEC.parse(data)
    assert [model.license for model in CODEC.salvage(data)] == [None]


def test_a_later_schema_is_not_damage() -> None:
    with pytest.raises(IndexTooNew, match="schema 3"):
        CODEC.parse(b'{"schema": 3, "models": {}}')
