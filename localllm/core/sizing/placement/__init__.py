"""The placement of a load on the devices of a machine: `place(spec, settings, budget)`."""

from localllm.core.sizing.placement.budget import Budget, GpuBudget, budget_of
from localllm.core.sizing.placement.search import host_placement, place, with_encoder_on_host
from localllm.core.sizing.placement.shares import HOST, DeviceShare, Placement

__all__ = [
    "HOST",
    "Budget",
    "DeviceShare",
    "GpuBudget",
    "Placement",
    "budget_of",
    "host_placement",
    "place",
    "with_encoder_on_host",
]
