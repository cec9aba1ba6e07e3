"""The rates that `engine bench` keeps of each build."""

from pathlib import Path

from localllm.engine.builds.candidates import chosen_candidate
from localllm.runtime.engine_rates import keep_rates, known_rates, rates_of


def test_the_median_of_the_rounds_counts() -> None:
    rates = rates_of("m", [(100.0, 9.0), (1.0, 10.0), (90.0, 50.0)], measured_at="now")
    assert (rates.prompt_tps, rates.decode_tps) == (90.0, 10.0)


def test_rates_are_kept_and_a_damaged_file_is_none(home: Path) -> None:
    candidate = chosen_candidate()
    rates = rates_of("m", [(100.0, 9.0)], measured_at="now")
    assert known_rates(candidate) is None
    keep_rates({candidate: rates})
    assert known_rates(candidate) == rates
    (home / "data" / "engine-rates.json").write_text("nonsense")
    assert known_rates(candidate) is None
    keep_rates({candidate: rates})
    assert known_rates(candidate) == rates
