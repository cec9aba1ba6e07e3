"""Where a load's bytes lie, and whether each device has room: `place(spec, settings, budget)`."""

from localllm.core.sizing.placement.budget import Budget, GpuBudget, budget
from localllm.core.sizing.placement.search import place
from localllm.core.sizing.placement.shares import HOST, Placement, Share

__all__ = ["HOST", "Budget", "GpuBudget", "Placement", "Share", "budget", "place"]
