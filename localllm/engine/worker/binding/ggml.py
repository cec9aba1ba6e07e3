"""ggml.h and ggml-backend.h: backends, devices and buffers, under their C names."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_void_p

from localllm.engine.worker.binding.libraries import Functions


class llama_model_tensor_buft_override(ctypes.Structure):  # noqa: N801  # the C name, of llama.h
    """Tensors whose name matches go to this kind of buffer."""

    _fields_ = (("pattern", c_char_p), ("buft", c_void_p))


_function = Functions("ggml", "ggml-base")

ggml_commit = _function("ggml_commit", c_char_p)
ggml_backend_reg_count = _function("ggml_backend_reg_count", c_size_t)
ggml_backend_reg_get = _function("ggml_backend_reg_get", c_void_p, c_size_t)
ggml_backend_reg_name = _function("ggml_backend_reg_name", c_char_p, c_void_p)
ggml_backend_dev_count = _function("ggml_backend_dev_count", c_size_t)
ggml_backend_dev_get = _function("ggml_backend_dev_get", c_void_p, c_size_t)
ggml_backend_dev_by_name = _function("ggml_backend_dev_by_name", c_void_p, c_char_p)
ggml_backend_dev_name = _function("ggml_backend_dev_name", c_char_p, c_void_p)
ggml_backend_dev_description = _function("ggml_backend_dev_description", c_char_p, c_void_p)
ggml_backend_dev_type = _function("ggml_backend_dev_type", c_int, c_void_p)
ggml_backend_dev_memory = _function(
    "ggml_backend_dev_memory", None, c_void_p, POINTER(c_size_t), POINTER(c_size_t)
)
ggml_backend_dev_buffer_type = _function("ggml_backend_dev_buffer_type", c_void_p, c_void_p)
ggml_backend_buft_get_max_size = _function("ggml_backend_buft_get_max_size", c_size_t, c_void_p)
ggml_backend_cpu_buffer_type = _function("ggml_backend_cpu_buffer_type", c_void_p)

_function.check()
