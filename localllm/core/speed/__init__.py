"""How fast a model will run, before it runs: bytes over bandwidth, operations over compute."""

from localllm.core.speed.estimate import Estimate, calibrated
from localllm.core.speed.rates import DeviceSpeed, DeviceWork, decode_tps, prefill_tps, ttft_s
from localllm.core.speed.workload import Attention, WeightRead, Workload, remembered, workload_of

__all__ = [
    "Attention",
    "DeviceSpeed",
    "DeviceWork",
    "Estimate",
    "WeightRead",
    "Workload",
    "calibrated",
    "decode_tps",
    "prefill_tps",
    "remembered",
    "ttft_s",
    "workload_of",
]
