"""The catalogue: what its text may say, and what follows from an entry."""

from pathlib import Path

import pytest

from localllm.core.catalogue import Entry, parse
from localllm.errors import UsageError

MODELS = Path(__file__).parents[2] / "models.toml"


@pytest.fixture(scope="module")
def entries() -> tuple[Entry, ...]:
    return parse(MODELS.read_text(encoding="utf-8"))


def test_every_entry_states_the_parameters_its_tensors_add_up_to(
    entries: tuple[Entry, ...],
) -> None:
    for entry in entries:
        assert entry.parameters == pytest.approx(entry.blueprint.parameters, rel=0.01), entry.name


def test_a_spec_weighs_what_the_quick_sum_says(entries: tuple[Entry, ...]) -> None:
    for entry in entries:
        for quant in entry.quants:
            tensors = entry.spec(quant).tensors
            assert sum(t.size_bytes for t in tensors) == entry.weights_bytes(quant)


def test_an_error_names_the_line_and_the_field() -> None:
    text = MODELS.read_text(encoding="utf-8").replace('license = "', 'license = "x', 1)
    line = next(i for i, each in enumerate(text.splitlines(), 1) if "xApache" in each)
    with pytest.raises(UsageError, match=rf"line {line}: .*license"):
        parse(text)
