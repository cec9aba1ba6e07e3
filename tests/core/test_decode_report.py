"""How far decoding is from the memory's bandwidth, and what would help."""

from collections.abc import Mapping

import pytest

from localllm.core.model.quants import GgmlType
from localllm.core.speed import DeviceSpeed, WeightRead, Workload
from localllm.core.speed.decode_report import DecodeReport, decode_report
from localllm.core.speed.kernels import REFERENCE_KERNELS, CpuKernel, CpuKernels
from localllm.core.speed.threads import ThreadTrial

ELEMENTS = 4 * 10**9
FAST_Q4 = CpuKernels(
    measured={
        GgmlType.Q4_0: CpuKernel(decode_s=15e-12, buffer="CPU_REPACK"),
        GgmlType.Q4_1: CpuKernel(decode_s=60e-12),
        GgmlType.Q2_K: CpuKernel(decode_s=1e-12),  # faster, but of far fewer bits
    }
)


def report(
    kind: GgmlType = GgmlType.Q4_1,
    *,
    tps: float = 10.0,
    layers: int = 30,
    elements: int = ELEMENTS,
    kernels: CpuKernels = FAST_Q4,
    together: Mapping[int, float] | None = None,
    trials: tuple[ThreadTrial, ...] = (),
) -> DecodeReport:
    read = WeightRead(type=kind, elements=elements, elements_loaded=elements)
    return decode_report(
        Workload(layers=layers, weights=(read,)),
        DeviceSpeed(bandwidth_bytes_per_s=50e9, cores=4, kernels=kernels),
        tps=tps,
        depth=64,
        together=together or {},
        trials=trials,
    )


def test_the_share_is_what_is_read_over_what_the_memory_gives() -> None:
    found = report()
    assert found.bytes_per_token == ELEMENTS * 20 / 32
    assert found.bytes_per_s == pytest.approx(25e9)
    assert found.share == pytest.approx(0.5)


def test_a_slow_type_is_named_with_a_faster_one_of_about_its_bits() -> None:
    [advice] = report().advice
    assert "Q4_1 weights takes about 60% of each token" in advice
    assert "faster kernels for Q4_0 on this processor (it repacks them)" in advice


def test_nothing_is_promised_of_types_that_were_not_measured() -> None:
    assert report(kernels=REFERENCE_KERNELS).advice == ()


def test_at_the_memorys_bound_only_reading_less_helps() -> None:
    [advice] = report(tps=18.0).advice
    assert "The memory is the bound" in advice


def test_a_small_model_spends_its_time_between_layers() -> None:
    [advice] = report(GgmlType.Q4_0, elements=10**7, layers=100, tps=200.0).advice
    assert "78% of each token is spent where threads meet between its 100 layers" in advice


def test_conversations_together_and_fewer_threads_are_named_when_they_were_faster() -> None:
    trials = (
        ThreadTrial(threads=4, steps_s=(0.2, 0.2)), ThreadTrial(threads=2, steps_s=(0.1, 0.1)),
    )  # fmt: skip
    found = report(GgmlType.Q4_0, together={1: 10.0, 4: 35.0, 8: 30.0}, trials=trials)
    assert found.advice == (
        "2 threads decoded 2.0 times as fast as 4 when they were compared here: --threads 2.",
        "4 conversations at once decode 3.5 times as many tokens: each reading of the weights "
        "serves all of them (serve --parallel 4).",
    )
    assert report(GgmlType.Q4_0, together={1: 10.0, 4: 11.0}, trials=trials[:1]).advice == ()


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        report(tps=0.0)
