"""llama.h: the functions and constants of llama.cpp that this program uses, under their C names.

Importing this module loads the chosen build. Signatures are those of llama.cpp 0c1e570, which
86a2835 has too.
"""

from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
)

from localllm.engine.worker.binding.layouts import llama_progress_callback
from localllm.engine.worker.binding.libraries import Functions
from localllm.engine.worker.binding.structs import (
    llama_batch,
    llama_context_params,
    llama_logit_bias,
    llama_model_params,
    llama_pos,
    llama_sampler_chain_params,
    llama_seq_id,
    llama_token,
    llama_token_data,
    llama_token_data_array,
)

__all__ = (  # those of other modules that belong to llama.h
    "llama_batch",
    "llama_context_params",
    "llama_logit_bias",
    "llama_model_params",
    "llama_pos",
    "llama_progress_callback",
    "llama_seq_id",
    "llama_token",
    "llama_token_data",
    "llama_token_data_array",
)

LLAMA_FLASH_ATTN_TYPE_AUTO = -1
LLAMA_FLASH_ATTN_TYPE_DISABLED = 0
LLAMA_FLASH_ATTN_TYPE_ENABLED = 1
LLAMA_LOAD_MODE_NONE = 0
LLAMA_LOAD_MODE_MMAP = 1
LLAMA_POOLING_TYPE_NONE = 0
LLAMA_POOLING_TYPE_RANK = 4
LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED = -1
LLAMA_ROPE_SCALING_TYPE_NONE = 0
LLAMA_ROPE_SCALING_TYPE_LINEAR = 1
LLAMA_ROPE_SCALING_TYPE_YARN = 2
LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY = 1
LLAMA_STATE_SEQ_MAGIC = 0x67677371
LLAMA_STATE_SEQ_VERSIONS = (3, 4)
"""LLAMA_STATE_SEQ_VERSION of 0c1e570 and of 86a2835; both begin alike."""
LLAMA_TOKEN_ATTR_UNKNOWN = 1 << 0
LLAMA_TOKEN_ATTR_CONTROL = 1 << 3
LLAMA_TOKEN_ATTR_USER_DEFINED = 1 << 4
LLAMA_TOKEN_ATTR_LSTRIP = 1 << 7
LLAMA_TOKEN_ATTR_RSTRIP = 1 << 8

llama_log_callback = CFUNCTYPE(None, c_int, c_char_p, c_void_p)
ggml_abort_callback = CFUNCTYPE(c_bool, c_void_p)

_function = Functions("llama")

llama_adapter_lora_init = _function("llama_adapter_lora_init", c_void_p, c_void_p, c_char_p)
llama_backend_init = _function("llama_backend_init", None)
llama_batch_free = _function("llama_batch_free", None, llama_batch)
llama_batch_init = _function("llama_batch_init", llama_batch, c_int32, c_int32, c_int32)
llama_context_default_params = _function("llama_context_default_params", llama_context_params)
llama_decode = _function("llama_decode", c_int32, c_void_p, llama_batch)
llama_free = _function("llama_free", None, c_void_p)
llama_get_embeddings = _function("llama_get_embeddings", POINTER(c_float), c_void_p)
llama_get_embeddings_seq = _function(
    "llama_get_embeddings_seq", POINTER(c_float), c_void_p, c_int32
)
llama_get_logits_ith = _function("llama_get_logits_ith", POINTER(c_float), c_void_p, c_int32)
llama_get_memory = _function("llama_get_memory", c_void_p, c_void_p)
llama_get_model = _function("llama_get_model", c_void_p, c_void_p)
llama_init_from_model = _function("llama_init_from_model", c_void_p, c_void_p, llama_context_params)
llama_log_get = _function("llama_log_get", None, POINTER(llama_log_callback), POINTER(c_void_p))
llama_log_set = _function("llama_log_set", None, llama_log_callback, c_void_p)
llama_max_devices = _function("llama_max_devices", c_size_t)
llama_max_parallel_sequences = _function("llama_max_parallel_sequences", c_size_t)
llama_memory_seq_cp = _function(
    "llama_memory_seq_cp", None, c_void_p, c_int32, c_int32, c_int32, c_int32
)
llama_memory_seq_pos_max = _function("llama_memory_seq_pos_max", c_int32, c_void_p, c_int32)
llama_memory_seq_pos_min = _function("llama_memory_seq_pos_min", c_int32, c_void_p, c_int32)
llama_memory_seq_rm = _function("llama_memory_seq_rm", c_bool, c_void_p, c_int32, c_int32, c_int32)
llama_model_chat_template = _function("llama_model_chat_template", c_char_p, c_void_p, c_char_p)
llama_model_default_params = _function("llama_model_default_params", llama_model_params)
llama_model_free = _function("llama_model_free", None, c_void_p)
llama_model_get_vocab = _function("llama_model_get_vocab", c_void_p, c_void_p)
llama_model_is_hybrid = _function("llama_model_is_hybrid", c_bool, c_void_p)
llama_model_is_recurrent = _function("llama_model_is_recurrent", c_bool, c_void_p)
llama_model_load_from_file = _function(
    "llama_model_load_from_file", c_void_p, c_char_p, llama_model_params
)
llama_model_meta_val_str = _function(
    "llama_model_meta_val_str", c_int32, c_void_p, c_char_p, c_char_p, c_size_t
)
llama_model_n_embd_out = _function("llama_model_n_embd_out", c_int32, c_void_p)
llama_model_n_layer = _function("llama_model_n_layer", c_int32, c_void_p)
llama_model_n_swa = _function("llama_model_n_swa", c_int32, c_void_p)
llama_n_ctx = _function("llama_n_ctx", c_uint32, c_void_p)
llama_n_ctx_seq = _function("llama_n_ctx_seq", c_uint32, c_void_p)
llama_n_rs_seq = _function("llama_n_rs_seq", c_uint32, c_void_p)
llama_print_system_info = _function("llama_print_system_info", c_char_p)
llama_sampler_accept = _function("llama_sampler_accept", None, c_void_p, c_int32)
llama_sampler_apply = _function(
    "llama_sampler_apply", None, c_void_p, POINTER(llama_token_data_array)
)
llama_sampler_chain_add = _function("llama_sampler_chain_add", None, c_void_p, c_void_p)
llama_sampler_chain_default_params = _function(
    "llama_sampler_chain_default_params", llama_sampler_chain_params
)
llama_sampler_chain_init = _function(
    "llama_sampler_chain_init", c_void_p, llama_sampler_chain_params
)
llama_sampler_free = _function("llama_sampler_free", None, c_void_p)
llama_sampler_init_dist = _function("llama_sampler_init_dist", c_void_p, c_uint32)
llama_sampler_init_dry = _function(
    "llama_sampler_init_dry",
    c_void_p,
    c_void_p,
    c_float,
    c_float,
    c_int32,
    c_int32,
    POINTER(c_char_p),
    c_size_t,
)
llama_sampler_init_greedy = _function("llama_sampler_init_greedy", c_void_p)
llama_sampler_init_min_p = _function("llama_sampler_init_min_p", c_void_p, c_float, c_size_t)
llama_sampler_init_mirostat = _function(
    "llama_sampler_init_mirostat", c_void_p, c_int32, c_uint32, c_float, c_float, c_int32
)
llama_sampler_init_mirostat_v2 = _function(
    "llama_sampler_init_mirostat_v2", c_void_p, c_uint32, c_float, c_float
)
llama_sampler_init_penalties = _function(
    "llama_sampler_init_penalties", c_void_p, c_int32, c_int32, c_float, c_float, c_float
)
llama_sampler_init_temp = _function("llama_sampler_init_temp", c_void_p, c_float)
llama_sampler_init_temp_ext = _function(
    "llama_sampler_init_temp_ext", c_void_p, c_float, c_float, c_float
)
llama_sampler_init_top_k = _function("llama_sampler_init_top_k", c_void_p, c_int32)
llama_sampler_init_top_n_sigma = _function("llama_sampler_init_top_n_sigma", c_void_p, c_float)
llama_sampler_init_top_p = _function("llama_sampler_init_top_p", c_void_p, c_float, c_size_t)
llama_sampler_init_typical = _function("llama_sampler_init_typical", c_void_p, c_float, c_size_t)
llama_sampler_init_xtc = _function(
    "llama_sampler_init_xtc", c_void_p, c_float, c_float, c_size_t, c_uint32
)
llama_sampler_sample = _function("llama_sampler_sample", c_int32, c_void_p, c_void_p, c_int32)
llama_set_abort_callback = _function(
    "llama_set_abort_callback", None, c_void_p, ggml_abort_callback, c_void_p
)
llama_set_adapters_lora = _function(
    "llama_set_adapters_lora", c_int32, c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)
)
llama_set_n_threads = _function("llama_set_n_threads", None, c_void_p, c_int32, c_int32)
llama_state_seq_get_data = _function(
    "llama_state_seq_get_data", c_size_t, c_void_p, c_void_p, c_size_t, c_int32
)
llama_state_seq_get_data_ext = _function(
    "llama_state_seq_get_data_ext", c_size_t, c_void_p, c_void_p, c_size_t, c_int32, c_uint32
)
llama_state_seq_get_size = _function("llama_state_seq_get_size", c_size_t, c_void_p, c_int32)
llama_state_seq_get_size_ext = _function(
    "llama_state_seq_get_size_ext", c_size_t, c_void_p, c_int32, c_uint32
)
llama_state_seq_load_file = _function(
    "llama_state_seq_load_file",
    c_size_t,
    c_void_p,
    c_char_p,
    c_int32,
    POINTER(c_int32),
    c_size_t,
    POINTER(c_size_t),
)
llama_state_seq_save_file = _function(
    "llama_state_seq_save_file", c_size_t, c_void_p, c_char_p, c_int32, POINTER(c_int32), c_size_t
)
llama_state_seq_set_data = _function(
    "llama_state_seq_set_data", c_size_t, c_void_p, c_void_p, c_size_t, c_int32
)
llama_state_seq_set_data_ext = _function(
    "llama_state_seq_set_data_ext", c_size_t, c_void_p, c_void_p, c_size_t, c_int32, c_uint32
)
llama_supports_gpu_offload = _function("llama_supports_gpu_offload", c_bool)
llama_supports_mmap = _function("llama_supports_mmap", c_bool)
llama_token_to_piece = _function(
    "llama_token_to_piece", c_int32, c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool
)
llama_tokenize = _function(
    "llama_tokenize",
    c_int32,
    c_void_p,
    c_char_p,
    c_int32,
    POINTER(c_int32),
    c_int32,
    c_bool,
    c_bool,
)
llama_version = _function("llama_version", c_char_p)
llama_vocab_bos = _function("llama_vocab_bos", c_int32, c_void_p)
llama_vocab_eos = _function("llama_vocab_eos", c_int32, c_void_p)
llama_vocab_fim_mid = _function("llama_vocab_fim_mid", c_int32, c_void_p)
llama_vocab_fim_pad = _function("llama_vocab_fim_pad", c_int32, c_void_p)
llama_vocab_fim_pre = _function("llama_vocab_fim_pre", c_int32, c_void_p)
llama_vocab_fim_rep = _function("llama_vocab_fim_rep", c_int32, c_void_p)
llama_vocab_fim_sep = _function("llama_vocab_fim_sep", c_int32, c_void_p)
llama_vocab_fim_suf = _function("llama_vocab_fim_suf", c_int32, c_void_p)
llama_vocab_get_add_bos = _function("llama_vocab_get_add_bos", c_bool, c_void_p)
llama_vocab_get_add_eos = _function("llama_vocab_get_add_eos", c_bool, c_void_p)
llama_vocab_get_add_sep = _function("llama_vocab_get_add_sep", c_bool, c_void_p)
llama_vocab_get_attr = _function("llama_vocab_get_attr", c_int32, c_void_p, c_int32)
llama_vocab_get_text = _function("llama_vocab_get_text", c_char_p, c_void_p, c_int32)
llama_vocab_is_eog = _function("llama_vocab_is_eog", c_bool, c_void_p, c_int32)
llama_vocab_n_tokens = _function("llama_vocab_n_tokens", c_int32, c_void_p)
llama_vocab_pad = _function("llama_vocab_pad", c_int32, c_void_p)
llama_vocab_sep = _function("llama_vocab_sep", c_int32, c_void_p)
llama_vocab_type = _function("llama_vocab_type", c_int32, c_void_p)

_function.check()
