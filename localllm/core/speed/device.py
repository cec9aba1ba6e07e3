"""What the estimate knows of a device."""

from dataclasses import dataclass

from localllm.core.gpus import Generation
from localllm.core.hardware import Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpeed:
    """A device as the roofline sees it.

    `backend` None is the CPU. `bandwidth_bytes_per_s`: a GPU's nominal one (data sheet, driver or
    `core/gpus.py`), a CPU's measured one. `compute_flops`: for a CPU, float32 matrix products of
    all its cores as `machine/bandwidth.py` measures them; for a GPU, what a prompt was seen to
    reach; None uses what the generation usually has. `cores` are the CPU's threads at work.
    Raises ValueError for numbers that no device has.
    """

    bandwidth_bytes_per_s: float
    backend: Backend | None = None
    generation: Generation | None = None
    compute_flops: float | None = None
    cores: int = 1

    def __post_init__(self) -> None:
        for name in ("bandwidth_bytes_per_s", "compute_flops"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {value}")
        if self.cores < 1:
            raise ValueError(f"cores must be at least 1, not {self.cores}")
