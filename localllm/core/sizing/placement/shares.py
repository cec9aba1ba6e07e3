"""The share of a load on each device, and the settings that make llama.cpp put it there."""

from dataclasses import dataclass, replace

from localllm.core.sizing.load import LoadSettings

HOST = "CPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShare:
    """The share of one device. `weights_bytes` includes adapters, `kv_bytes` recurrent state,
    `compute_bytes` the output; `encoder_bytes` are all of an image encoder's.

    `largest_buffer_bytes` is the largest tensor that needs a buffer in one piece, 0 on the host;
    `engine_name` and `max_buffer_bytes` are the budget's.
    """

    name: str
    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    overhead_bytes: int = 0
    free_bytes: int
    fits: bool = True
    layers: int = 0
    engine_name: str | None = None
    largest_buffer_bytes: int = 0
    max_buffer_bytes: int | None = None
    encoder_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.kv_bytes
            + self.compute_bytes
            + self.overhead_bytes
            + self.encoder_bytes
        )

    @property
    def exceeds_max_buffer(self) -> bool:
        """True when one tensor is larger than the device's backend takes."""
        cap = self.max_buffer_bytes
        return cap is not None and self.largest_buffer_bytes > cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The shares of a load; the host's comes last. `gpu_layers` counts as llama.cpp does: every
    block of the file, draft blocks included, and the output as one more.

    `layout[i]` is the device (an index into `devices`) of block i, the last one the output's. Not
    `mmap`: the file is read instead of mapped, so that the copy the CPU repacks is the only one.
    """

    gpu_layers: int
    cpu_moe: int
    devices: tuple[DeviceShare, ...]
    layout: tuple[int, ...]
    mmap: bool = True

    @property
    def fits(self) -> bool:
        return all(share.fits for share in self.devices)

    @property
    def host(self) -> DeviceShare:
        return self.devices[-1]

    def device_of(self, layer: int | None, *, expert: bool = False) -> int:
        """Return the index of the device that multiplies with a layer's tensors, or with its routed
        experts. `layer` None: those of no layer (a tied embedding is the output's)."""
        if layer is None:
            return self.layout[-1]
        if expert and layer < self.cpu_moe:
            return len(self.devices) - 1
        return self.layout[layer]

    def applied_to(self, settings: LoadSettings) -> LoadSettings:
        """Set a load's devices, the layers for each and the encoder's device so that exactly this
        is loaded."""
        used = [share for share in self.devices[:-1] if share.layers]
        names = tuple(share.engine_name for share in used if share.engine_name is not None)
        named = len(names) == len(used)
        encoder = next((share.engine_name for share in used if share.encoder_bytes), None)
        mmproj = settings.mmproj
        return replace(
            settings,
            mmproj=replace(mmproj, device=encoder) if mmproj is not None else None,
            gpu_layers=self.gpu_layers,
            cpu_moe=self.cpu_moe,
            mmap=settings.mmap and self.mmap,
            devices=names if named else None,
            tensor_split=tuple(share.layers for share in used) if named and len(used) > 1 else (),
        )
