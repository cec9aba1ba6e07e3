"""Loading the catalogue, and the cache of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.core.catalogue import catalogue
from localllm.core.catalogue.catalogue import Entry
from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.library.files.catalogue_file import read_catalogue

Parse = Callable[[str], tuple[Entry, ...]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALLLM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each text that was parsed."""
    lengths: list[int] = []
    parse = catalogue.parse

    def counting(text: str) -> tuple[Entry, ...]:
        lengths.append(len(text))
        return parse(text)

    monkeypatch.setattr(catalogue, "parse", counting)
    return lengths


def test_it_is_parsed_once(parsed: list[int]) -> None:
    assert read_catalogue() == read_catalogue() == read_catalogue()
    assert len(parsed) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw.replace(b"Apache", b"apache", 1),
        lambda raw: b"\xff" * len(raw),
        lambda raw: b"0.0.9 " + raw,
    ],
)
def test_what_was_damaged_is_made_again(
    parsed: list[int], damage: Callable[[bytes], bytes]
) -> None:
    entries = read_catalogue()
    cached = paths.catalogue_cache_file()
    whole = cached.read_bytes()
    cached.write_bytes(damage(whole))
    assert read_catalogue() == entries
    assert len(parsed) == 2
    assert cached.read_bytes() == whole


def test_another_catalogue_is_read(
    tmp_path: Path, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = read_catalogue()
    text = paths.catalogue_path().read_text("utf-8")
    other = tmp_path / "models.toml"
    other.write_text("[[model]]" + text.split("[[model]]")[1], "utf-8")
    monkeypatch.setattr(paths, "catalogue_path", lambda: other)
    assert [entry.name for entry in read_catalogue()] == [everything[0].name]
    assert len(parsed) == 2


def test_a_cache_that_cannot_be_written_is_not_needed(
    cache: Path, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the directory should be")
    assert read_catalogue() == read_catalogue()
    assert len(parsed) == 2


def test_a_damaged_catalogue_is_an_error_every_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "models.toml"
    broken.write_text("[[model]\n")
    monkeypatch.setattr(paths, "catalogue_path", lambda: broken)
    for _ in range(2):
        with pytest.raises(UsageError, match="is not TOML"):
            read_catalogue()
    assert not cache.exists()
