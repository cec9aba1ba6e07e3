"""The memory of a context: the KV cache and the recurrent state, to the byte.

The arithmetic of llama.cpp b11434: `llama_kv_cache::llama_kv_cache` (`src/llama-kv-cache.cpp`),
`llama_kv_cache_iswa` (`src/llama-kv-cache-iswa.cpp`), `llama_memory_recurrent`
(`src/llama-memory-recurrent.cpp`), the widths in `src/llama-hparams.cpp`, and the contexts in
`llama_context::llama_context` (`src/llama-context.cpp`).
"""

from dataclasses import dataclass, replace

from localllm.core.model.quants import BLOCKS, GgmlType, row_bytes
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.graph import check_graph, fits_graph
from localllm.core.sizing.load import CONTEXT_PADDING, FlashAttention, KvType, LoadSettings
from localllm.errors import UsageError

MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ (`llama-cparams.h`)."""

_STATE_BYTES = 4  # recurrent states are F32 (`llama_model::create_memory`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Cells of the cache: `full` of dense layers, `window` of sliding ones, each for one stream.

    A unified cache has one stream, a split one a stream per sequence."""

    full: int
    window: int
    streams: int


def padded(cells: int) -> int:
    """Round up to whole blocks of cells, as llama.cpp does (GGML_PAD(n_ctx, 256))."""
    return -(-cells // CONTEXT_PADDING) * CONTEXT_PADDING


def ubatch(settings: LoadSettings) -> int:
    """Return the tokens of the largest micro-batch that the context accepts."""
    return min(settings.cells, settings.batch, settings.ubatch)


def cells(spec: ModelSpec, settings: LoadSettings) -> Cells:
    """Count the cells of a load's cache."""
    streams = 1 if settings.kv_unified else settings.parallel
    full = settings.cells if settings.kv_unified else padded(settings.cells // settings.parallel)
    if settings.swa_full:
        return Cells(full=full, window=full, streams=streams)
    reach = spec.window * (settings.parallel if settings.kv_unified else 1)
    return Cells(full=full, window=padded(min(full, reach + ubatch(settings))), streams=streams)


def flash(spec: ModelSpec, settings: LoadSettings) -> bool:
    """Return True when flash attention is used: no attention matrix is made.

    AUTO counts as on: llama.cpp keeps it on wherever the device of a layer can run it, which the
    CPU and CUDA backends do. A quantized V cache forces it (`llama_init_from_model`).
    """
    return spec.arch.flash_attention and settings.flash_attention is not FlashAttention.OFF


def unified_if_needed(spec: ModelSpec, settings: LoadSettings) -> LoadSettings:
    """Give all sequences one cache where llama.cpp's graph has no room for one each."""
    unified = replace(settings, kv_unified=True)
    on = flash(spec, settings)
    if fits_graph(spec, settings, flash=on) or not fits_graph(spec, unified, flash=on):
        return settings
    return unified


def check_settings(spec: ModelSpec, settings: LoadSettings) -> None:
    """Raise UsageError for settings that llama.cpp refuses (`llama_init_from_model`), or
    aborts on."""
    for name, value in (
        ("context", settings.context),
        ("batch", settings.batch),
        ("ubatch", settings.ubatch),
    ):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    if not 1 <= settings.parallel <= MAX_SEQUENCES:
        raise UsageError(f"parallel is {settings.parallel}; it must be 1 to {MAX_SEQUENCES}")
    _check_types(spec, settings)
    check_graph(spec, settings, flash=flash(spec, settings))


def _check_types(spec: ModelSpec, settings: LoadSettings) -> None:
    key, value = _element(settings.kv_type_k), _element(settings.kv_type_v)
    if BLOCKS[value].elements > 1 and not flash(spec, settings):
        raise UsageError(
            f"a {settings.kv_type_v} value cache needs flash attention, which is off; "
            "turn it on or use f16"
        )
    if spec.mla and key is not value:
        raise UsageError(
            f"{spec.architecture} keeps keys and values together: "
            f"{settings.kv_type_k} and {settings.kv_type_v} differ; choose one cache type"
        )
    layers = range(spec.layers)  # every layer, as llama.cpp does, with a cache or without
    if BLOCKS[key].elements > 1:
        for width in dict.fromkeys(map(spec.key_length, layers)):
            _check_width(settings.kv_type_k, width, "key")
    if BLOCKS[value].elements > 1:
        for width in dict.fromkeys(map(spec.value_length, layers)):
            _check_width(settings.kv_type_v, width, "value")


def _check_width(kind: KvType, width: int, which: str) -> None:
    block = BLOCKS[_element(kind)].elements
    if width % block:
        raise UsageError(
            f"a {kind} cache stores blocks of {block} values, and a {which} head of this model "
            f"has {width}; use f16"
        )


_ELEMENTS = {kind: GgmlType[kind.name] for kind in KvType}


def _element(kind: KvType) -> GgmlType:
    return _ELEMENTS[kind]


def kv_bytes(spec: ModelSpec, settings: LoadSettings) -> tuple[int, ...]:
    """Return the bytes of keys and values, one number a block; 0 where a block owns none.

    K is head_k x n_head_kv x cells x bytes(type_k), V likewise. Without flash attention V is
    transposed and as wide as the widest layer's; MLA keeps no V.
    """
    size = cells(spec, settings)
    widest = 0 if flash(spec, settings) else _widest_value(spec)
    return tuple(
        _layer_kv_bytes(spec, settings, layer, size, widest) if spec.caches(layer) else 0
        for layer in range(spec.blocks)
    )


def _layer_kv_bytes(
    spec: ModelSpec, settings: LoadSettings, layer: int, size: Cells, widest: int
) -> int:
    heads = spec.head_count_kv(layer)
    rows = (size.window if spec.slides(layer) else size.full) * size.streams
    key = _row(settings.kv_type_k, spec.key_length(layer) * heads)
    if spec.mla:
        return key * rows
    return (key + _row(settings.kv_type_v, widest or spec.value_length(layer) * heads)) * rows


def _row(kind: KvType, width: int) -> int:
    try:
        return row_bytes(_element(kind), width)
    except ValueError as error:
        raise UsageError(f"a {kind} cache cannot hold rows of {width} values; use f16") from error


def _widest_value(spec: ModelSpec) -> int:
    """Return the values of the widest layer (`llama_hparams::n_embd_v_gqa_max`)."""
    return max(spec.value_length(i) * spec.head_count_kv(i) for i in range(spec.blocks))


def recurrent_bytes(spec: ModelSpec, settings: LoadSettings) -> tuple[int, ...]:
    """Return the bytes of the recurrent states, one number a block: an F32 state per sequence,
    and as many snapshots of each as a load keeps."""
    states = settings.parallel * (1 + settings.snapshots(spec.arch))
    state = (shift_width(spec) + state_width(spec)) * _STATE_BYTES * states
    return tuple(state if spec.recurrent(layer) else 0 for layer in range(spec.blocks))


def shift_width(spec: ModelSpec) -> int:
    """Count the values of the convolution's or token shift's history (`n_embd_r`)."""
    number = spec.integer
    if number("wkv.head_size"):
        return number("token_shift_count", 2) * spec.embedding
    if number("shortconv.l_cache"):
        return spec.embedding * (number("shortconv.l_cache") - 1)
    kernel = number("ssm.conv_kernel")
    if number("kda.head_dim"):
        history = kernel - 1 if kernel else 3
        return 3 * history * spec.head_count(0) * number("kda.head_dim")
    channels = number("ssm.inner_size") + 2 * number("ssm.group_count") * number("ssm.state_size")
    return max(kernel - 1, 0) * channels


def state_width(spec: ModelSpec) -> int:
    """Count the values of the state itself (`llama_hparams::n_embd_s`)."""
    number = spec.integer
    if number("wkv.head_size"):
        return spec.embedding * number("wkv.head_size")
    if number("kda.head_dim"):
        return number("kda.head_dim") ** 2 * spec.head_count(0)
    if spec.arch.square_state:
        return spec.key_length(0) ** 2 * spec.head_count(0)
    return number("ssm.state_size") * number("ssm.inner_size")
