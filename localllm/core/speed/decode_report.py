"""How far decoding is from what the memory allows, and what would bring it nearer.

Every token reads the weights that it is multiplied with once, so the memory's read bandwidth is the
bound on a processor. What is left of the time goes into multiplying, whose share depends on the
quant type and this engine's kernels for it, and into meeting at the end of each layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from localllm.core.model.quants import GgmlType
from localllm.core.speed import constants
from localllm.core.speed.kernels import weight_s
from localllm.core.speed.rates import DeviceSpeed
from localllm.core.speed.threads import ThreadTrial, best_of
from localllm.core.speed.workload import Workload, bytes_per_element

BOUND_BY_MEMORY = 0.7
"""From this share of the measured bandwidth on, a kernel that multiplies faster brings little."""

_LARGE_SHARE = 0.3  # of a token's time, that is worth a sentence
_NOTABLY_FASTER = 1.15
_WORTH_BATCHING = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeReport:
    """The reading of one conversation's decode: `bytes_per_token` of weights, cache and states,
    `bytes_per_s` at the measured rate, and `share`, that rate over the memory's measured one.

    `advice` are sentences on what would make it faster here, the most useful first.
    """

    bytes_per_token: float
    bytes_per_s: float
    memory_bytes_per_s: float
    advice: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return self.bytes_per_s / self.memory_bytes_per_s


def decode_report(
    work: Workload,
    host: DeviceSpeed,
    *,
    tps: float,
    depth: int,
    together: Mapping[int, float],
    trials: Sequence[ThreadTrial] = (),
) -> DecodeReport:
    """Compare a measured rate on the processor, with `depth` tokens in the cache on average, with
    the memory. `host.cores` are the threads that computed, `together` the rates of all of so many
    conversations at once, `trials` what other numbers of threads did (none: nothing was compared).
    Raises ValueError for a rate that is none.
    """
    if not tps > 0:
        raise ValueError(f"a rate must be positive, not {tps}")
    read = work.weight_bytes + work.kv_bytes(depth) + work.state_bytes
    report = DecodeReport(
        bytes_per_token=read,
        bytes_per_s=read * tps,
        memory_bytes_per_s=host.bandwidth_bytes_per_s,
    )
    advice = (
        *_threads(host, trials),
        *_kernels(work, host, tps, report.share),
        *_memory(report.share),
        *_layers(work, tps),
        *_together(tps, together),
    )
    return DecodeReport(
        bytes_per_token=read,
        bytes_per_s=report.bytes_per_s,
        memory_bytes_per_s=report.memory_bytes_per_s,
        advice=advice,
    )


def _threads(host: DeviceSpeed, trials: Sequence[ThreadTrial]) -> Iterator[str]:
    used = next((each for each in trials if each.threads == host.cores), None)
    if used is None:
        return
    best = best_of((used, *(each for each in trials if each is not used)))
    if best != used.threads:
        gain = used.best_s / next(each.best_s for each in trials if each.threads == best)
        yield (
            f"{best} threads decoded {gain:.1f} times as fast as {used.threads} when they were "
            f"compared here: --threads {best}."
        )


def _kernels(work: Workload, host: DeviceSpeed, tps: float, share: float) -> Iterator[str]:
    """Yield a type that would be faster than the one that takes most of the multiplying."""
    seconds = {
        read.type: read.elements * host.kernels.decode_s(read.type) / host.cores
        for read in work.weights
    }
    if not seconds or share >= BOUND_BY_MEMORY:
        return
    slowest = max(seconds, key=seconds.__getitem__)
    part = min(seconds[slowest] * tps, 1.0)
    other = _faster_type(slowest, host)
    if part < _LARGE_SHARE or other is None:
        return
    gain = _weight_s(slowest, host) / _weight_s(other, host)
    repacked = " (it repacks them)" if host.kernels.repacked(other) else ""
    yield (
        f"Multiplying with its {slowest.name} weights takes about {part:.0%} of each token. This "
        f"engine has faster kernels for {other.name} on this processor{repacked}: such weights "
        f"would take {gain:.1f} times less time."
    )


def _faster_type(kind: GgmlType, host: DeviceSpeed) -> GgmlType | None:
    """Return the fastest measured type of about as many bits; None when none is notably faster."""
    if kind not in host.kernels.measured:
        return None
    bits = bytes_per_element(kind)
    similar = [
        each
        for each in host.kernels.measured
        if 0.8 * bits <= bytes_per_element(each) <= 1.2 * bits
    ]
    best = min(similar, key=lambda each: _weight_s(each, host))
    return best if _weight_s(best, host) * _NOTABLY_FASTER <= _weight_s(kind, host) else None


def _weight_s(kind: GgmlType, host: DeviceSpeed) -> float:
    return weight_s(
        kind,
        host.kernels,
        cores=host.cores,
        bandwidth_bytes_per_s=host.bandwidth_bytes_per_s,
    )


def _memory(share: float) -> Iterator[str]:
    if share >= BOUND_BY_MEMORY:
        yield (
            "The memory is the bound: only reading less for each token makes it faster, with a "
            "smaller quant or a mixture of experts."
        )


def _layers(work: Workload, tps: float) -> Iterator[str]:
    part = work.layers * constants.CPU_LAYER_S * tps
    if part >= _LARGE_SHARE:
        yield (
            f"About {min(part, 1.0):.0%} of each token is spent where threads meet between its "
            f"{work.layers} layers: so small a model cannot use the memory well."
        )


def _together(tps: float, together: Mapping[int, float]) -> Iterator[str]:
    if not together:
        return
    most = max(together, key=together.__getitem__)
    gain = together[most] / tps
    if most > 1 and gain >= _WORTH_BATCHING:
        yield (
            f"{most} conversations at once decode {gain:.1f} times as many tokens: each reading of "
            f"the weights serves all of them (serve --parallel {most})."
        )
