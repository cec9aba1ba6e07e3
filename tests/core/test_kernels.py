"""What an engine's kernels on a processor change: rates, the order of quants, reasons."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend import Candidate, Goal, Machine
from localllm.core.recommend.processor import processor_first, processor_reasons
from localllm.core.recommend.ranking import worth_trying
from localllm.core.sizing.placement import Budget
from localllm.core.speed import DeviceSpeed, DeviceWork, WeightRead, Workload, decode_tps
from localllm.core.speed.kernels import REFERENCE_KERNELS, CpuKernel, CpuKernels
from tests.core.test_recommend import GIB, workstation

PS = 1e-12
SIZES = {  # bytes of a model of 8e9 parameters, as llama.cpp's mixes take
    "Q6_K": 6.56, "Q5_K_M": 5.70, "Q4_K_M": 4.89, "Q4_K_S": 4.67, "IQ4_XS": 4.46, "Q3_K_M": 4.0,
}  # fmt: skip


def kernels(**picoseconds: float) -> CpuKernels:
    """Every type in `picoseconds`; those that are named in lower case are repacked."""
    return CpuKernels(
        measured={
            GgmlType[name.upper()]: CpuKernel(
                decode_s=ps * PS, buffer="CPU_REPACK" if name.islower() else None
            )
            for name, ps in picoseconds.items()
        }
    )


def machine(measured: CpuKernels) -> Machine:
    host = DeviceSpeed(bandwidth_bytes_per_s=60e9, cores=4, kernels=measured)
    return Machine(budget=Budget(host_bytes=16 * GIB), host=host)


def unread() -> ModelSpec:
    raise AssertionError("no header is needed to order quants")


def quant(name: str, parameters: int = 8_000_000_000) -> Candidate:
    return Candidate(
        model="m", quant=name, file=name, size_bytes=int(SIZES[name] / 8 * parameters),
        parameters=parameters, active_parameters=parameters, architecture="llama", released=None,
        installed=False, spec=unread,
    )  # fmt: skip


GROUP = [quant(name) for name in SIZES]


def names(order: list[Candidate]) -> list[str]:
    return [each.quant for each in order]


def test_a_measured_kernel_takes_the_place_of_the_references() -> None:
    work = Workload(
        layers=1,
        weights=(WeightRead(type=GgmlType.Q4_K, elements=10**9, elements_loaded=10**9),),
    )
    host = DeviceSpeed(bandwidth_bytes_per_s=60e9, cores=4)
    slow = replace(host, kernels=kernels(Q4_K=1000.0))
    usual, slowed = (
        decode_tps([DeviceWork(device=each, work=work)]).likely for each in (host, slow)
    )
    seconds = 1e9 * (1000.0 * PS - REFERENCE_KERNELS.decode_s(GgmlType.Q4_K)) / 4
    assert 1 / slowed - 1 / usual == pytest.approx(seconds)
    other = replace(host, kernels=kernels(Q6_K=1000.0))  # a type that this model does not have
    assert decode_tps([DeviceWork(device=other, work=work)]).likely == usual


def test_a_quant_as_good_and_faster_here_comes_first() -> None:
    fast_q6 = kernels(Q6_K=20.0, Q5_K=200.0, q4_k=15.0, IQ4_XS=45.0)
    order = [each for each in GROUP if each.quant != "Q6_K"]
    assert names(processor_first(order, GROUP[:1], machine(fast_q6)))[:2] == ["Q6_K", "Q5_K_M"]


@pytest.mark.parametrize(
    "here",
    [None, machine(REFERENCE_KERNELS), workstation(8), machine(kernels(q4_k=15.0))],
    ids=["no machine", "nothing measured", "a GPU", "one type measured"],
)
def test_without_measurements_of_both_the_order_stays(here: Machine | None) -> None:
    assert processor_first(GROUP[1:], GROUP[:1], here) == GROUP[1:]


def test_quality_comes_first_where_that_was_asked_for() -> None:
    slow_q6 = machine(kernels(Q6_K=500.0, Q5_K=10.0, Q4_K=10.0, IQ4_XS=10.0))
    assert names(worth_trying(GROUP, Goal.QUALITY, slow_q6))[0] == "Q6_K"


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {n: st.floats(1.0, 500.0) for n in ("Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K")}
    ),
    st.integers(0, len(GROUP) - 1),
)
def test_no_quant_is_lost_or_repeated(picoseconds: dict[str, float], knee: int) -> None:
    order = processor_first(GROUP[knee:], GROUP[:knee], machine(kernels(**picoseconds)))
    assert len(set(names(order))) == len(order)
    assert set(names(GROUP[knee:])) <= set(names(order))


def reasons(chosen: str, measured: CpuKernels) -> list[str]:
    [candidate] = [each for each in GROUP if each.quant == chosen]
    return list(processor_reasons(candidate, GROUP, machine(measured)))


def test_the_reason_names_the_quant_that_is_slower_here_and_the_repacking() -> None:
    [reason] = reasons("Q4_K_M", kernels(q4_k=15.0, IQ4_XS=90.0))
    assert reason.startswith("Q4_K_M over IQ4_XS: this engine has faster kernels for it")
    assert "whose weights it repacks" in reason
    [plain] = reasons("Q4_K_M", kernels(Q4_K=15.0, IQ4_XS=90.0))
    assert "repacks" not in plain


def test_a_faster_quant_that_loses_little_more_is_named_with_its_loss() -> None:
    [reason] = reasons("Q5_K_M", kernels(Q5_K=100.0, q4_k=15.0))
    assert reason.startswith("Q4_K_M would decode")
    assert "+2.4 %" in reason
    assert reasons("IQ4_XS", kernels(IQ4_XS=100.0, Q3_K=1.0)) == []  # it loses far more


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert reasons("Q4_K_M", REFERENCE_KERNELS) == []
    assert reasons("Q4_K_M", kernels(q4_k=15.0)) == []
