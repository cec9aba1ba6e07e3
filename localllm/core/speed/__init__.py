"""The speed of a model before it runs: bytes over bandwidth, operations over compute."""

from localllm.core.speed.estimate import Estimate, calibrated
from localllm.core.speed.rates import DeviceSpeed, DeviceWork, decode_tps, prefill_tps, ttft_s
from localllm.core.speed.workload import (
    AttentionReads,
    WeightRead,
    Workload,
    cache_workload,
    workload_of,
)

__all__ = [
    "AttentionReads",
    "DeviceSpeed",
    "DeviceWork",
    "Estimate",
    "WeightRead",
    "Workload",
    "cache_workload",
    "calibrated",
    "decode_tps",
    "prefill_tps",
    "ttft_s",
    "workload_of",
]
