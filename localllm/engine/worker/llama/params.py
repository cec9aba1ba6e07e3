"""LoadSettings as llama.cpp's parameter structs.

The only place that translates them: the load and the dry run both come through here, so a dry run
probes what a load would load.
"""

import ctypes
from functools import cache

from localllm.core.model.architectures import architecture_of
from localllm.core.model.quants import GgmlType
from localllm.core.sizing.load import FlashAttention, LoadSettings, Pooling, RopeScaling
from localllm.engine.worker.binding import ggml, llama
from localllm.errors import LoadFailed

_Override = ggml.llama_model_tensor_buft_override

ALL_LAYERS = -1
"""llama.cpp's "every layer" for n_gpu_layers."""

_FLASH_ATTENTION = {
    FlashAttention.AUTO: llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
    FlashAttention.ON: llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    FlashAttention.OFF: llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


_ROPE_SCALING = {
    None: llama.LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED,
    RopeScaling.NONE: llama.LLAMA_ROPE_SCALING_TYPE_NONE,
    RopeScaling.LINEAR: llama.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    RopeScaling.YARN: llama.LLAMA_ROPE_SCALING_TYPE_YARN,
}


def model_params(settings: LoadSettings) -> llama.llama_model_params:
    """Return the model's half: devices of the weights, and the mapping of the file.

    Raises LoadFailed for a device that the engine does not have.
    """
    params: llama.llama_model_params = llama.llama_model_default_params()
    params.n_gpu_layers = ALL_LAYERS if settings.gpu_layers is None else settings.gpu_layers
    params.load_mode = (
        llama.LLAMA_LOAD_MODE_MMAP
        if settings.mmap and llama.llama_supports_mmap()
        else llama.LLAMA_LOAD_MODE_NONE
    )
    if settings.cpu_moe:
        params.tensor_buft_overrides = ctypes.cast(
            _experts_on_cpu(settings.cpu_moe), ctypes.c_void_p
        )
    if settings.devices is not None:
        params.devices = ctypes.cast(_devices(settings.devices), ctypes.c_void_p)
    if settings.tensor_split:
        params.tensor_split = _split(settings.tensor_split)
    return params


def device(name: str) -> int:
    """Return llama.cpp's device of this name. Raises LoadFailed."""
    found = ggml.ggml_backend_dev_by_name(name.encode())
    if found is None:
        raise LoadFailed(f"the engine has no device {name} (any more); plan the load again")
    return int(found)


@cache
def _devices(names: tuple[str, ...]) -> "ctypes.Array[ctypes.c_void_p]":
    """Return the devices of these names, ended by a null: an empty list keeps everything, and the
    computing too, off the GPUs. Cached because llama.cpp stores the pointer."""
    found = [device(name) for name in names]
    return (ctypes.c_void_p * (len(found) + 1))(*found, None)


@cache
def _split(layers: tuple[int, ...]) -> "ctypes.Array[ctypes.c_float]":
    """Return the layers of each device. llama.cpp compares the running sums, divided by their
    total, with each layer's own fraction: counts come out as they were put in."""
    length = max(len(layers), int(llama.llama_max_devices()))
    return (ctypes.c_float * length)(*layers)


@cache
def _experts_on_cpu(layers: int) -> "ctypes.Array[_Override]":
    """Return overrides that keep the routed experts of the first layers on the host (the names are
    llama.cpp's `ffn_*_exps`). Cached because llama.cpp stores the pointer."""
    host = ggml.ggml_backend_cpu_buffer_type()
    patterns = [rf"blk\.{i}\.ffn_(up|down|gate|gate_up)_(ch|)exps".encode() for i in range(layers)]
    rows = [_Override(pattern, host) for pattern in patterns]
    return (_Override * (layers + 1))(*rows, _Override(None, None))


def snapshots_of(model: int, settings: LoadSettings) -> int:
    """Return the snapshots of recurrent states that a context of this loaded model is to keep."""
    name = ctypes.create_string_buffer(64)
    llama.llama_model_meta_val_str(model, b"general.architecture", name, len(name))
    return settings.snapshots(architecture_of(name.value.decode("utf-8", "replace")))


def context_params(
    settings: LoadSettings, threads: int, prompt_threads: int | None = None, *, snapshots: int = 0
) -> llama.llama_context_params:
    """Return the context's half: cache, batches, outputs. `prompt_threads` None: as `threads`.
    `snapshots` are those of this model (`snapshots_of`)."""
    params: llama.llama_context_params = llama.llama_context_default_params()
    params.n_ctx = settings.cells
    params.n_seq_max = settings.parallel
    params.n_rs_seq = snapshots
    params.kv_unified = settings.kv_unified
    params.n_batch = settings.batch
    params.n_ubatch = min(settings.ubatch, settings.batch)
    params.n_outputs_max = settings.outputs
    params.embeddings = settings.embeddings
    if settings.embeddings:  # embedding.py pools what is not ranked, request by request
        ranks = settings.pooling is Pooling.RANK
        params.pooling_type = (
            llama.LLAMA_POOLING_TYPE_RANK if ranks else llama.LLAMA_POOLING_TYPE_NONE
        )
    params.type_k = GgmlType[settings.kv_type_k.name]
    params.type_v = GgmlType[settings.kv_type_v.name]
    params.flash_attn_type = _FLASH_ATTENTION[settings.flash_attention]
    params.swa_full = settings.swa_full
    params.offload_kqv = settings.kv_offload
    # 0: the header's own
    params.rope_scaling_type = _ROPE_SCALING[settings.rope.scaling]
    params.rope_freq_base = settings.rope.freq_base or 0.0
    params.rope_freq_scale = settings.rope.freq_scale or 0.0
    params.yarn_orig_ctx = settings.rope.yarn_orig_ctx or 0
    params.n_threads = threads
    params.n_threads_batch = prompt_threads or threads
    params.no_perf = True
    return params
