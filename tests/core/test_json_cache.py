"""The catalogue read from JSON equals the catalogue."""

from pathlib import Path

from localllm.core.catalogue.catalogue import parse
from localllm.core.catalogue.json_cache import dump_entries, load_entries

ENTRIES = parse((Path(__file__).parents[2] / "models.toml").read_text("utf-8"))


def test_every_entry_comes_back_as_it_was() -> None:
    assert load_entries(dump_entries(ENTRIES)) == ENTRIES


def test_what_was_worked_out_before_is_what_the_blueprints_answer() -> None:
    for entry, again in zip(ENTRIES, load_entries(dump_entries(ENTRIES)), strict=True):
        assert again.precomputed is not None
        assert again.cache_reads() == entry.blueprint.cache_reads()
        for quant in entry.quants:
            assert again.file_bytes(quant) == entry.blueprint.file_bytes(quant)
            assert again.weight_reads(quant) == entry.blueprint.weight_reads(quant)


def test_a_header_is_drawn_of_what_came_back() -> None:
    for entry, again in zip(ENTRIES[::20], load_entries(dump_entries(ENTRIES))[::20], strict=True):
        assert again.spec("Q4_K_M") == entry.spec("Q4_K_M")
