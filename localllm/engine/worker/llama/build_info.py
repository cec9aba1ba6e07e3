"""The installed build of llama.cpp: version, backends, and the devices that it sees."""

import ctypes
from importlib.metadata import version

import llama_cpp.llama_cpp as llama
from llama_cpp._ggml import libggml

from localllm.core.hardware import EngineBuild, EngineDevice
from localllm.engine.worker.seccomp import network_access

_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
"""enum ggml_backend_dev_type (ggml-backend.h, b11434)."""


def _declare(name: str, result: type | None, *arguments: type) -> "ctypes._NamedFuncPointer":
    function = getattr(libggml, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function  # type: ignore[no-any-return]  # ctypes looks symbols up at run time


_commit = _declare("ggml_commit", ctypes.c_char_p)
_reg_count = _declare("ggml_backend_reg_count", ctypes.c_size_t)
_reg_get = _declare("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
_reg_name = _declare("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
_dev_count = _declare("ggml_backend_dev_count", ctypes.c_size_t)
_dev_get = _declare("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
_dev_name = _declare("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
_dev_description = _declare("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
_dev_type = _declare("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
_dev_memory = _declare(
    "ggml_backend_dev_memory",
    None,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.POINTER(ctypes.c_size_t),
)
_dev_buffer_type = _declare("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
_buft_max_size = _declare("ggml_backend_buft_get_max_size", ctypes.c_size_t, ctypes.c_void_p)

_NO_LIMIT = ctypes.c_size_t(-1).value
_NOT_A_CAP = ("vulkan",)
"""Backends whose figure is no limit: Vulkan answers with the 1 GiB blocks it likes to allocate
(`suballocation_block_size`, ggml-vulkan.cpp, b11434), and takes larger tensors."""


def describe() -> EngineBuild:
    """Describe the loaded library; `llama_backend_init` must have run."""
    return EngineBuild(
        version=version("llama-cpp-python"),
        commit=_text(_commit()),
        backends=tuple(_text(_reg_name(_reg_get(i))) for i in range(_reg_count())),
        gpu_offload=bool(llama.llama_supports_gpu_offload()),
        devices=tuple(_device(_dev_get(i)) for i in range(_dev_count())),
        system_info=_text(llama.llama_print_system_info()),
        network=network_access(),
    )


def _device(handle: int) -> EngineDevice:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    name = _text(_dev_name(handle))
    return EngineDevice(
        name=name,
        description=_text(_dev_description(handle)),
        kind=_KINDS.get(_dev_type(handle), "accel"),
        total_bytes=total.value or None,
        free_bytes=free.value if total.value else None,
        max_buffer_bytes=buffer_cap(name, _buft_max_size(_dev_buffer_type(handle))),
    )


def buffer_cap(device: str, size_bytes: int) -> int | None:
    """Return the largest tensor that a device takes, given what `ggml_backend_buft_get_max_size`
    returns for it; None where the backend knows no limit, or its figure is not one."""
    if size_bytes in (0, _NO_LIMIT) or device.lower().startswith(_NOT_A_CAP):
        return None
    return size_bytes


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace").strip()
