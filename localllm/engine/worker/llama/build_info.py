"""The installed build of llama.cpp: version, backends, and the devices that it sees."""

import ctypes
import os

from localllm.core.hardware import EngineBuild, EngineDevice
from localllm.engine.builds.verdict import files_digest
from localllm.engine.worker.binding import ggml, llama
from localllm.engine.worker.binding.libraries import loaded
from localllm.engine.worker.llama.vulkan_driver import vulkan_drivers
from localllm.engine.worker.seccomp import network_access

_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
"""enum ggml_backend_dev_type (ggml-backend.h, b11434)."""


_NO_LIMIT = ctypes.c_size_t(-1).value
_NOT_A_CAP = ("vulkan",)
"""Backends whose figure is no limit: Vulkan answers with the 1 GiB blocks it likes to allocate
(`suballocation_block_size`, ggml-vulkan.cpp, b11434), and takes larger tensors."""

SOFTWARE_GPUS = "LOCALLLM_SOFTWARE_GPUS"
"""Variable for tests: 1 counts devices that a driver computes on the processor as GPUs."""


def describe() -> EngineBuild:
    """Describe the loaded library; `llama_backend_init` must have run."""
    candidate = loaded().candidate
    return EngineBuild(
        name=candidate.name,
        version=candidate.version or _text(llama.llama_version()),
        commit=_text(ggml.ggml_commit()),
        backends=tuple(
            _text(ggml.ggml_backend_reg_name(ggml.ggml_backend_reg_get(i)))
            for i in range(ggml.ggml_backend_reg_count())
        ),
        gpu_offload=bool(llama.llama_supports_gpu_offload()),
        devices=tuple(
            _device(ggml.ggml_backend_dev_get(i)) for i in range(ggml.ggml_backend_dev_count())
        ),
        system_info=_text(llama.llama_print_system_info()),
        network=network_access(),
        digest=files_digest(candidate),
    )


def _device(handle: int) -> EngineDevice:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    buffer_type = ggml.ggml_backend_dev_buffer_type(handle)
    name = _text(ggml.ggml_backend_dev_name(handle))
    description = _text(ggml.ggml_backend_dev_description(handle))
    vulkan = name.startswith("Vulkan")
    return EngineDevice(
        name=name,
        description=description,
        kind=_KINDS.get(ggml.ggml_backend_dev_type(handle), "accel"),
        total_bytes=total.value or None,
        free_bytes=free.value if total.value else None,
        max_buffer_bytes=buffer_cap(name, ggml.ggml_backend_buft_get_max_size(buffer_type)),
        driver=vulkan_drivers().get(description) if vulkan else None,
        test_device=os.environ.get(SOFTWARE_GPUS) == "1",
    )


def buffer_cap(device: str, size_bytes: int) -> int | None:
    """Return the largest tensor that a device takes, given what `ggml_backend_buft_get_max_size`
    returns for it; None where the backend knows no limit, or its figure is not one."""
    if size_bytes in (0, _NO_LIMIT) or device.lower().startswith(_NOT_A_CAP):
        return None
    return size_bytes


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace").strip()
