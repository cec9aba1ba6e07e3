"""The structs of llama.cpp as ctypes classes, with the layouts that the loaded build has."""

import ctypes
import os
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from ctypes import POINTER, c_bool, c_float, c_int8, c_int32, c_int64, c_size_t, c_void_p
from functools import cache

from localllm.engine.worker.binding.layouts import (
    COMMITS,
    CONTEXT_PARAMS,
    MODEL_PARAMS,
    DefaultParams,
    Layout,
    ctypes_fields,
    fitting,
    mismatch,
)
from localllm.engine.worker.binding.libraries import loaded
from localllm.errors import EngineUnavailable

llama_token = c_int32
llama_pos = c_int32
llama_seq_id = c_int32

_RESERVE_BYTES = 64
_LARGEST_BYTES = 512
"""More than any of the structs has, or will have."""


class llama_token_data(ctypes.Structure):  # noqa: N801  # the C name
    """A candidate for the next token."""

    _fields_ = (("id", llama_token), ("logit", c_float), ("p", c_float))


class llama_token_data_array(ctypes.Structure):  # noqa: N801
    """The candidates that a sampler works on."""

    _fields_ = (
        ("data", POINTER(llama_token_data)),
        ("size", c_size_t),
        ("selected", c_int64),
        ("sorted", c_bool),
    )


class llama_batch(ctypes.Structure):  # noqa: N801
    """The input of `llama_decode`; `logits` marks the tokens that have an output."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(llama_token)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(llama_pos)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(llama_seq_id))),
        ("logits", POINTER(c_int8)),
    )


class llama_logit_bias(ctypes.Structure):  # noqa: N801
    """A number that is added to the logit of a token."""

    _fields_ = (("token", llama_token), ("bias", c_float))


class llama_sampler_chain_params(ctypes.Structure):  # noqa: N801
    """Parameters of a chain of samplers."""

    _fields_ = (("no_perf", c_bool),)


def default_params(role: str, function: str) -> DefaultParams:
    """Call a `*_default_params()` without knowing the struct that it returns.

    Raises EngineUnavailable when the library has no such function.
    """
    try:
        call = loaded().handle(role)[function]  # of its own: its types are set here
    except AttributeError:
        raise EngineUnavailable(
            f"The engine {loaded().candidate.name} has no function {function}"
        ) from None
    if not _takes_result_address():
        call.restype = type(
            "struct",
            (ctypes.Structure,),
            {"_fields_": [("bytes", ctypes.c_ubyte * _LARGEST_BYTES)]},
        )
        return DefaultParams(data=bytes(call()))
    call.restype, call.argtypes = None, [c_void_p]
    first, second = (_filled(call, value) for value in (0xA5, 0x5A))
    written = frozenset(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a == b)
    return DefaultParams(data=first, written=written)


def _filled(call: "ctypes._NamedFuncPointer", value: int) -> bytes:
    """Call a function that writes a struct to memory whose bytes all are `value`."""
    memory = ctypes.create_string_buffer(bytes([value]) * _LARGEST_BYTES, _LARGEST_BYTES)
    call(ctypes.addressof(memory))
    return memory.raw


def _takes_result_address() -> bool:
    """Return True where a large struct is returned through an address that is the first argument
    (x86-64, both calling conventions); on Arm it goes in a register that ctypes sets itself."""
    if sys.platform == "win32":
        machine = os.environ.get("PROCESSOR_ARCHITECTURE", "")
    else:
        machine = os.uname().machine
    return machine.lower() in {"x86_64", "amd64"} and struct.calcsize("P") == 8


def fitted_fields(known: Sequence[Layout], role: str, function: str) -> Sequence[tuple[str, type]]:
    """Return the fields of the struct that a `*_default_params()` of the loaded build returns.

    Raises EngineUnavailable when the build has none of the known layouts.
    """
    found = default_params(role, function)
    strict = not _commit().startswith(COMMITS)
    layout = fitting(known, found, strict=strict)
    if layout is None:
        reason = mismatch(known[-1].fields, found, strict=strict) or "it fits more than one"
        commits = " and ".join(COMMITS)
        raise EngineUnavailable(
            f"The engine {loaded().candidate.name} has an unknown layout of {known[0].struct} "
            f"({reason}). Known are those of llama.cpp {commits}; this is {_commit() or 'another'}."
        )
    fitted_commits[layout.struct] = layout.commit
    return ctypes_fields(layout.fields, _RESERVE_BYTES)


@cache
def _commit() -> str:
    """Return the commit that the build states."""
    with suppress(KeyError, AttributeError):
        call = loaded().handles["ggml-base"]["ggml_commit"]
        call.restype = ctypes.c_char_p
        return (call() or b"").decode("utf-8", "replace")
    return ""


fitted_commits: dict[str, str] = {}
"""The commit of the layout that each struct has, once it is known."""


class llama_model_params(ctypes.Structure):  # noqa: N801
    """How a model is loaded."""

    _fields_ = fitted_fields(MODEL_PARAMS, "llama", "llama_model_default_params")


class llama_context_params(ctypes.Structure):  # noqa: N801
    """How a context is made."""

    _fields_ = fitted_fields(CONTEXT_PARAMS, "llama", "llama_context_default_params")
