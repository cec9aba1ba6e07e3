"""The catalogue as JSON says what the catalogue says."""

from pathlib import Path

from localllm.core.catalogue.catalogue import parse
from localllm.core.catalogue.json_cache import compiled, restored

ENTRIES = parse((Path(__file__).parents[2] / "models.toml").read_text("utf-8"))


def test_every_entry_comes_back_as_it_was() -> None:
    assert restored(compiled(ENTRIES)) == ENTRIES


def test_what_was_worked_out_before_is_what_the_blueprints_answer() -> None:
    for entry, again in zip(ENTRIES, restored(compiled(ENTRIES)), strict=True):
        assert again.answers is not None
        assert again.recalls() == entry.blueprint.recalls()
        for quant in entry.quants:
            assert again.file_bytes(quant) == entry.blueprint.file_bytes(quant)
            assert again.reads(quant) == entry.blueprint.reads(quant)


def test_a_header_is_drawn_of_what_came_back() -> None:
    for entry, again in zip(ENTRIES[::20], restored(compiled(ENTRIES))[::20], strict=True):
        assert again.spec("Q4_K_M") == entry.spec("Q4_K_M")
