"""What is listed of the models, in which order, and which file of a model stands for it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.recommend import Preferences
from localllm.core.recommend.quant_sizes import QuantSizes
from localllm.core.sizing.placement import Budget
from localllm.core.speed import Estimate
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.hub.hub import SearchHit
from localllm.library.store.installed import InstalledModel
from localllm.runtime.suggest import candidates
from localllm.tui.screens.models.filtering import (
    FitFilter,
    KnownSizes,
    LicenseFilter,
    ListLine,
    ModelFilter,
    Order,
    SortKey,
    SourceFilter,
    best_row,
    list_lines,
)
from localllm.tui.screens.models.groups import (
    Ability,
    InstalledFacts,
    ModelGroup,
    QuantRow,
    Source,
    catalogue_groups,
    hit_group,
    with_installed,
)

GIB = 2**30
NAMES = ("qwen3-0.6b", "qwen3-8b", "gemma-3-4b", "llama-3.3-70b", "nomic-embed-v1.5")


@pytest.fixture(scope="module")
def groups() -> tuple[ModelGroup, ...]:
    entries = [entry for entry in read_catalogue() if entry.name in NAMES]
    assert len(entries) == len(NAMES)
    return catalogue_groups(entries, candidates(tuple(entries)))


@pytest.fixture(scope="module")
def known(groups: tuple[ModelGroup, ...]) -> KnownSizes:
    sizes = QuantSizes(Budget(host_bytes=6 * GIB))
    return KnownSizes(
        sizes={
            row.key: sizes.size(row.candidate, Preferences())
            for group in groups
            for row in group.rows
            if row.candidate is not None
        }
    )


def names(lines: tuple[ListLine, ...]) -> list[str]:
    return [line.group.name for line in lines if not line.of_group]


def listed(
    groups: tuple[ModelGroup, ...],
    known: KnownSizes,
    chosen: ModelFilter | None = None,
    order: Order | None = None,
    expanded: tuple[str, ...] = (),
) -> tuple[ListLine, ...]:
    return list_lines(groups, chosen or ModelFilter(), order or Order(), expanded, known)


def test_each_word_narrows_the_list_by_names_licences_abilities_and_quants(
    groups: tuple[ModelGroup, ...], known: KnownSizes
) -> None:
    def found(text: str) -> set[str]:
        return set(names(listed(groups, known, ModelFilter(text=text))))

    assert found("QWEN") == {"qwen3-0.6b", "qwen3-8b"}
    assert found("qwen 8b") == {"qwen3-8b"}
    assert found("apache embeds") == {"nomic-embed-v1.5"}
    assert found("gemma q4_k_m") == {"gemma-3-4b"}
    assert found("no such model") == set()
    assert found("  ") == set(NAMES)


def test_filters_by_ability_licence_fit_size_and_place(
    groups: tuple[ModelGroup, ...], known: KnownSizes
) -> None:
    def found(chosen: ModelFilter) -> set[str]:
        return set(names(listed(groups, known, chosen)))

    assert found(ModelFilter(abilities=frozenset({Ability.SEES}))) == {"gemma-3-4b"}
    assert found(ModelFilter(fit=FitFilter.NOT)) == {"llama-3.3-70b"}
    assert "llama-3.3-70b" not in found(ModelFilter(fit=FitFilter.FITS))
    assert found(ModelFilter(fit=FitFilter.PARTLY)) == set()  # there is no GPU
    assert found(ModelFilter(max_bytes=GIB)) == {"qwen3-0.6b", "nomic-embed-v1.5"}
    assert "gemma-3-4b" in found(ModelFilter(license=LicenseFilter.BUSINESS))
    assert found(ModelFilter(license=LicenseFilter.OTHER)) == set()
    assert found(ModelFilter(source=SourceFilter.HERE)) == set()
    assert found(ModelFilter(source=SourceFilter.CATALOGUE)) == set(NAMES)
    nothing = KnownSizes()  # nothing is claimed to fit before it is worked out
    assert names(listed(groups, nothing, ModelFilter(fit=FitFilter.FITS))) == []


def test_sorts_by_any_column_with_the_unknown_last_in_both_directions(
    groups: tuple[ModelGroup, ...], known: KnownSizes
) -> None:
    rows = {group.name: best_row(group, known) for group in groups}
    slow, fast = rows["qwen3-8b"], rows["qwen3-0.6b"]
    assert slow is not None
    assert fast is not None
    rates = {
        slow.key: Estimate(low=1, likely=2, high=3),
        fast.key: Estimate(low=9, likely=20, high=30),
    }
    known = replace(known, rates=rates)
    for key in SortKey:
        for reverse in (False, True):
            order = Order(key=key, reverse=reverse)
            assert set(names(listed(groups, known, order=order))) == set(NAMES), key
    by_size = names(listed(groups, known, order=Order(key=SortKey.SIZE)))
    assert (by_size[0], by_size[-1]) == ("nomic-embed-v1.5", "llama-3.3-70b")
    fastest = Order(key=SortKey.SPEED)
    assert names(listed(groups, known, order=fastest))[:2] == ["qwen3-0.6b", "qwen3-8b"]
    slowest = replace(fastest, reverse=True)
    assert names(listed(groups, known, order=slowest))[:2] == ["qwen3-8b", "qwen3-0.6b"]
    need = [
        known.sizes[line.row.key].total_bytes
        for line in listed(groups, known, order=Order(key=SortKey.NEED))
        if line.row is not None
    ]
    assert need == sorted(need)


def test_the_best_come_first_and_then_those_that_lack_least(
    groups: tuple[ModelGroup, ...], known: KnownSizes
) -> None:
    known = replace(known, ranks={"qwen3-8b": 0, "gemma-3-4b": 1})
    order = names(listed(groups, known))
    assert order[:2] == ["qwen3-8b", "gemma-3-4b"]
    assert order[-1] == "llama-3.3-70b"


def test_a_model_is_stood_for_by_a_file_that_fits_and_else_by_its_smallest(
    groups: tuple[ModelGroup, ...], known: KnownSizes
) -> None:
    by_name = {group.name: group for group in groups}
    row = best_row(by_name["qwen3-8b"], known)
    assert row is not None
    assert known.sizes[row.key].fits
    assert row.quant == "Q4_K_M"
    assert best_row(by_name["llama-3.3-70b"], known) == by_name["llama-3.3-70b"].rows[0]
    suggested = by_name["qwen3-8b"].rows[0].key
    best = best_row(by_name["qwen3-8b"], replace(known, best={"qwen3-8b": suggested}))
    assert best is not None
    assert best.key == suggested


def test_an_expanded_model_is_followed_by_all_its_files_the_smallest_first(
    groups: tuple[ModelGroup, ...], known: KnownSizes
) -> None:
    lines = listed(groups, known, ModelFilter(text="qwen3-8b"), expanded=("qwen3-8b",))
    sizes = [line.row.file_bytes for line in lines[1:] if line.row is not None]
    assert len(sizes) == len(lines[0].group.rows) > 5
    assert sizes == sorted(sizes)
    assert len({line.key for line in lines}) == len(lines)


def test_what_is_installed_takes_the_place_of_the_file_that_it_is(
    groups: tuple[ModelGroup, ...], known: KnownSizes
) -> None:
    qwen = next(group for group in groups if group.name == "qwen3-8b")
    of_catalogue = next(row for row in qwen.rows if row.quant == "Q4_K_M").candidate
    assert of_catalogue is not None

    def installed() -> Iterator[InstalledFacts]:
        model = InstalledModel(
            name="qwen3-8b-q4_k_m", quant="Q4_K_M", path=Path("/m/a.gguf"), size_bytes=5 * GIB
        )
        candidate = replace(of_catalogue, model=model.name, file=str(model.path), installed=True)
        yield InstalledFacts(model=model, candidate=candidate)
        broken = InstalledModel(name="torn", quant=None, path=Path("/m/b.gguf"), size_bytes=7)
        yield InstalledFacts(model=broken, candidate=None, problem="its header is cut short")

    merged = with_installed(groups, tuple(installed()))
    assert [group.name for group in merged if group.source is Source.INSTALLED] == ["torn"]
    with_file = next(group for group in merged if group.name == "qwen3-8b")
    assert len(with_file.rows) == len(qwen.rows)
    here = [row for row in with_file.rows if row.installed is not None]
    assert [(row.quant, row.key) for row in here] == [("Q4_K_M", "/m/a.gguf")]
    found = listed(merged, known, ModelFilter(source=SourceFilter.HERE))
    assert set(names(found)) == {"torn", "qwen3-8b"}
    assert names(listed(merged, known))[:2] == ["qwen3-8b", "torn"]  # what is here comes first


def test_a_repository_of_the_hub_is_listed_before_its_files_are_known(
    groups: tuple[ModelGroup, ...], known: KnownSizes
) -> None:
    hit = SearchHit(
        name="someone/Odd-GGUF", downloads=7, likes=1, updated=None, gated=True,
        tags=("gguf", "license:mit"),
    )  # fmt: skip
    merged = (*groups, hit_group(hit))
    (line,) = listed(merged, known, ModelFilter(text="odd mit"))
    assert (line.row, line.group.gated) == (None, True)
    assert names(listed(merged, known))[-1] == "someone/Odd-GGUF"


def test_a_row_without_a_header_is_listed_with_its_problem() -> None:
    row = QuantRow(key="/x", quant="?", file_bytes=3, candidate=None, problem="is not there")
    group = ModelGroup(key="here:x", name="x", source=Source.INSTALLED, rows=(row,))
    assert best_row(group, KnownSizes()) == row
