"""What `engine bench` has measured of each build, by the digest of its files."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from localllm.engine.builds.candidates import Candidate
from localllm.engine.builds.verdict import files_digest
from localllm.errors import EngineUnavailable
from localllm.library.files import atomic_write, paths

_MOST_KEPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRates:
    """Medians over the rounds, in tokens/s, of one model; `measured_at` is ISO 8601, UTC."""

    model: str
    prompt_tps: float
    decode_tps: float
    measured_at: str


def rates_of(model: str, rounds: Sequence[tuple[float, float]], *, measured_at: str) -> EngineRates:
    """Take the medians of rounds, each a rate of reading a prompt and one of decoding."""
    prompt, decode = zip(*rounds, strict=True)
    return EngineRates(
        model=model,
        prompt_tps=statistics.median(prompt),
        decode_tps=statistics.median(decode),
        measured_at=measured_at,
    )


def known_rates(candidate: Candidate) -> EngineRates | None:
    """Return what was measured of a build since its files have changed."""
    with suppress(EngineUnavailable, OSError):
        return _read().get(files_digest(candidate))
    return None


def keep_rates(measured: Mapping[Candidate, EngineRates]) -> None:
    """Keep rates beside those of other builds. Raises OSError, EngineUnavailable."""
    new = {files_digest(candidate): rates for candidate, rates in measured.items()}
    others = {key: rates for key, rates in _read().items() if key not in new}
    kept = dict([*others.items(), *new.items()][-_MOST_KEPT:])
    path = paths.engine_rates_file(paths.data_dir())
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write.write_atomically(path, msgspec.json.encode(kept))


def _read() -> dict[str, EngineRates]:
    try:
        data = paths.engine_rates_file(paths.data_dir()).read_bytes()
        return msgspec.json.decode(data, type=dict[str, EngineRates])
    except (OSError, msgspec.DecodeError):
        return {}
