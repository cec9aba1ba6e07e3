"""Functions of llama.cpp that only tests call: ways of its own to what the engine does itself."""

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_int32, c_size_t, c_uint32, c_void_p

from localllm.core.sizing.load import Graphs
from localllm.engine.worker.binding import ggml
from localllm.engine.worker.binding.libraries import Functions
from localllm.engine.worker.binding.llama import llama_logit_bias, llama_pos

LLAMA_FTYPE_MOSTLY_Q4_0 = 2

GRAPHS = Graphs.of_commit((ggml.ggml_commit() or b"").decode())
"""Whose graphs this build makes."""

_function = Functions("llama", "mtmd")


class llama_model_quantize_params(ctypes.Structure):  # noqa: N801  # the C name
    """How a model is quantized; the beginning of the struct, and room for its rest."""

    _fields_ = (
        ("nthread", c_int32),
        ("ftype", c_int32),
        ("output_tensor_type", c_int32),
        ("token_embedding_type", c_int32),
        ("allow_requantize", c_bool),
        ("rest", c_size_t * 32),
    )


llama_model_quantize_default_params = _function(
    "llama_model_quantize_default_params", llama_model_quantize_params
)
llama_model_quantize = _function(
    "llama_model_quantize", c_uint32, c_char_p, c_char_p, POINTER(llama_model_quantize_params)
)
llama_memory_clear = _function("llama_memory_clear", None, c_void_p, c_bool)
llama_state_get_size = _function("llama_state_get_size", c_size_t, c_void_p)
llama_sampler_init_logit_bias = _function(
    "llama_sampler_init_logit_bias", c_void_p, c_int32, c_int32, POINTER(llama_logit_bias)
)
mtmd_helper_eval_chunks = _function(
    "mtmd_helper_eval_chunks",
    *(c_int32, c_void_p, c_void_p, c_void_p, c_int32, c_int32, c_int32, c_bool),
    POINTER(llama_pos),
)

_function.check()
