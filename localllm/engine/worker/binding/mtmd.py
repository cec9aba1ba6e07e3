"""mtmd.h and mtmd-helper.h: the functions that see images, under their C names.

Importing this module raises EngineUnavailable for a build without them.
"""

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_bool,
    c_char_p,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_void_p,
)

from localllm.engine.worker.binding.layouts import MTMD_CONTEXT_PARAMS
from localllm.engine.worker.binding.libraries import Functions
from localllm.engine.worker.binding.llama import llama_log_callback
from localllm.engine.worker.binding.structs import fitted_fields, llama_pos, llama_seq_id

MTMD_INPUT_CHUNK_TYPE_TEXT = 0


class mtmd_context_params(ctypes.Structure):  # noqa: N801  # the C name
    """How an encoder is loaded."""

    _fields_ = fitted_fields(MTMD_CONTEXT_PARAMS, "mtmd", "mtmd_context_params_default")


class mtmd_input_text(ctypes.Structure):  # noqa: N801  # the C name
    """A piece of text of a prompt."""

    _fields_ = (
        ("text", c_char_p),
        ("text_len", c_size_t),
        ("add_special", c_bool),
        ("parse_special", c_bool),
    )


class mtmd_input_part(ctypes.Structure):  # noqa: N801
    """A piece of a prompt: text, or else an image."""

    _fields_ = (("text", POINTER(mtmd_input_text)), ("bitmap", c_void_p))


class mtmd_helper_bitmap_wrapper(ctypes.Structure):  # noqa: N801
    """An image that was decoded; `video_ctx` is set when it was a video."""

    _fields_ = (("bitmap", c_void_p), ("video_ctx", c_void_p))


class mtmd_helper_video_init_params(ctypes.Structure):  # noqa: N801
    """How a video is read, and the directory of the program that does it."""

    _fields_ = (
        ("fps_target", c_float),
        ("ffmpeg_bin_dir", c_char_p),
        ("timestamp_interval_ms", c_int64),
    )


class mtmd_helper_init_opt(ctypes.Structure):  # noqa: N801
    """Options of decoding an image."""

    _fields_ = (("video_params", mtmd_helper_video_init_params),)


class mtmd_helper_embd_batch(ctypes.Structure):  # noqa: N801
    """Embeddings of an image that were computed."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("embd", POINTER(c_float)),
        ("n_embd", c_int32),
        ("pos", POINTER(llama_pos)),
        ("n_pos", c_int32),
        ("seq_id", llama_seq_id),
    )


mtmd_helper_post_decode_callback = CFUNCTYPE(c_int32, POINTER(mtmd_helper_embd_batch), c_void_p)

_function = Functions("mtmd")

mtmd_bitmap_free = _function("mtmd_bitmap_free", None, c_void_p)
mtmd_bitmap_get_nx = _function("mtmd_bitmap_get_nx", c_uint32, c_void_p)
mtmd_bitmap_get_ny = _function("mtmd_bitmap_get_ny", c_uint32, c_void_p)
mtmd_bitmap_init = _function("mtmd_bitmap_init", c_void_p, c_uint32, c_uint32, POINTER(c_uint8))
mtmd_bitmap_set_id = _function("mtmd_bitmap_set_id", None, c_void_p, c_char_p)
mtmd_context_params_default = _function("mtmd_context_params_default", mtmd_context_params)
mtmd_decode_use_non_causal = _function("mtmd_decode_use_non_causal", c_bool, c_void_p, c_void_p)
mtmd_encode_chunk = _function("mtmd_encode_chunk", c_int32, c_void_p, c_void_p)
mtmd_free = _function("mtmd_free", None, c_void_p)
mtmd_get_output_embd = _function("mtmd_get_output_embd", POINTER(c_float), c_void_p)
mtmd_helper_bitmap_init_from_buf = _function(
    "mtmd_helper_bitmap_init_from_buf",
    mtmd_helper_bitmap_wrapper,
    c_void_p,
    POINTER(c_uint8),
    c_size_t,
    c_bool,
    mtmd_helper_init_opt,
)
mtmd_helper_decode_image_chunk = _function(
    "mtmd_helper_decode_image_chunk",
    c_int32,
    c_void_p,
    c_void_p,
    c_void_p,
    POINTER(c_float),
    c_int32,
    c_int32,
    c_int32,
    POINTER(c_int32),
    mtmd_helper_post_decode_callback,
    c_void_p,
)
mtmd_helper_init_opt_default = _function("mtmd_helper_init_opt_default", mtmd_helper_init_opt)
mtmd_helper_log_set = _function("mtmd_helper_log_set", None, llama_log_callback, c_void_p)
mtmd_init_from_file = _function(
    "mtmd_init_from_file", c_void_p, c_char_p, c_void_p, mtmd_context_params
)
mtmd_input_chunk_get_id = _function("mtmd_input_chunk_get_id", c_char_p, c_void_p)
mtmd_input_chunk_get_n_pos = _function("mtmd_input_chunk_get_n_pos", c_int32, c_void_p)
mtmd_input_chunk_get_n_tokens = _function("mtmd_input_chunk_get_n_tokens", c_size_t, c_void_p)
mtmd_input_chunk_get_tokens_text = _function(
    "mtmd_input_chunk_get_tokens_text", POINTER(c_int32), c_void_p, POINTER(c_size_t)
)
mtmd_input_chunk_get_type = _function("mtmd_input_chunk_get_type", c_int32, c_void_p)
mtmd_input_chunks_free = _function("mtmd_input_chunks_free", None, c_void_p)
mtmd_input_chunks_get = _function("mtmd_input_chunks_get", c_void_p, c_void_p, c_size_t)
mtmd_input_chunks_init = _function("mtmd_input_chunks_init", c_void_p)
mtmd_input_chunks_size = _function("mtmd_input_chunks_size", c_size_t, c_void_p)
mtmd_support_vision = _function("mtmd_support_vision", c_bool, c_void_p)
mtmd_tokenize_from_parts = _function(
    "mtmd_tokenize_from_parts",
    c_int32,
    c_void_p,
    c_void_p,
    POINTER(POINTER(mtmd_input_part)),
    c_size_t,
    c_bool,
)

_function.check()
