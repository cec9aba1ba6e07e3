"""Where an image encoder goes beside a model that is placed already."""

from dataclasses import replace

from localllm.core.load import Encoder
from localllm.core.placement.shares import Placement


def seat(placement: Placement, encoder: Encoder | None) -> tuple[Placement, Encoder | None]:
    """Put the encoder on the first GPU that holds layers and has room for it, else on the host:
    an image is encoded once, the model's layers are needed for every token."""
    if encoder is None:
        return placement, None
    *gpus, host = placement.devices
    needed = encoder.size_bytes
    for i, gpu in enumerate(gpus):
        named = gpu.engine_name is not None and gpu.layers > 0
        if named and gpu.total_bytes + needed <= gpu.free_bytes:
            gpus[i] = replace(gpu, encoder_bytes=needed)
            seated = replace(encoder, device=gpu.engine_name)
            return replace(placement, devices=(*gpus, host)), seated
    fits = host.fits and host.total_bytes + needed <= host.free_bytes
    host = replace(host, encoder_bytes=needed, fits=fits)
    return replace(placement, devices=(*gpus, host)), replace(encoder, device=None)
