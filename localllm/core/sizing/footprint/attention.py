"""Attention in the graph: its inputs, and its nodes layer by layer.

Follows `build_attn` and `build_attn_mha` (`src/llama-graph.cpp`) and the graphs of
`src/models/*.cpp` in llama.cpp b11434.
"""

from localllm.core.model.architecture import Memory, Rope
from localllm.core.model.quants import BLOCKS, GgmlType
from localllm.core.sizing.footprint.forward import AttentionInputs, GraphContext, Shapes
from localllm.core.sizing.load import KvType

_FLOAT, _HALF, _INDEX = 4, 2, 8


def add_attention_inputs(ctx: GraphContext) -> None:
    if ctx.arch.memory is Memory.NONE:
        ctx.encoder_mask = ctx.graph.input(
            (_HALF if ctx.flash else _FLOAT) * ctx.tokens * ctx.tokens
        )
        return
    for sliding in sorted(
        {ctx.spec.slides(i) for i in range(ctx.spec.layers) if ctx.spec.attends(i)}
    ):
        ctx.attention_inputs[sliding] = _attention_input(ctx, sliding)


def _attention_input(ctx: GraphContext, sliding: bool) -> AttentionInputs:
    spec, tokens = ctx.spec, ctx.tokens
    span = ctx.cells.window if sliding else ctx.cells.full
    like = [i for i in range(spec.layers) if spec.attends(i) and spec.slides(i) is sliding]
    transposed = (
        1
        if ctx.flash
        else max(spec.value_length(i) * spec.head_count_kv(i) for i in range(spec.layers))
    )
    key = {spec.key_length(i) for i in like}
    value = set() if spec.mla else {spec.value_length(i) for i in like}
    return AttentionInputs(
        keys=ctx.graph.input(_INDEX * tokens),
        values=ctx.graph.input(_INDEX * tokens * transposed),
        mask=ctx.graph.input((_HALF if ctx.flash else _FLOAT) * span * tokens),
        rotation_k=None if spec.mla else _rotation(ctx, ctx.settings.kv_type_k, key, largest=True),
        rotation_v=_rotation(ctx, ctx.settings.kv_type_v, value, largest=False),
        cells=span,
    )


def _rotation(ctx: GraphContext, kind: KvType, lengths: set[int], *, largest: bool) -> int | None:
    """Add the Hadamard matrix that rotates a quantized cache (`build_input_k_rot`, `_v_rot`), if
    there is one. `largest`: its side is the largest power of two that divides the head."""
    if BLOCKS[GgmlType[kind.name]].elements == 1 or len(lengths) != 1:
        return None
    (length,) = lengths
    if length % 64:
        return None
    side = 64
    while largest and length % (side * 2) == 0:
        side *= 2
    return ctx.graph.input(_FLOAT * side * side)


def attend(ctx: GraphContext, layer: int, node: int, *, project: bool = True) -> int:
    """Add the attention of `node`, which is normed already; `project`: with the output matrix."""
    shapes = ctx.shapes[layer]
    if ctx.encoder_mask >= 0:
        mixed = _uncached_attention(ctx, layer, node)
    elif "attn_kv_a_mqa.weight" in shapes and ctx.spec.mla:
        mixed = _latent_attention(ctx, layer, node)
    else:
        mixed = _plain_attention(ctx, layer, node)
    return project_output(ctx, layer, mixed) if project else mixed


def _rotated_back(ctx: GraphContext, layer: int, mixed: int) -> int:
    if ctx.spec.mla or ctx.encoder_mask >= 0:
        return mixed
    rotation = ctx.attention_inputs[ctx.spec.slides(layer)].rotation_v
    width = ctx.spec.head_count(layer) * ctx.spec.value_length(layer)
    return _rotated(ctx, mixed, width, rotation)


def project_output(ctx: GraphContext, layer: int, mixed: int) -> int:
    """Add the output matrix, after the values of a rotated cache are rotated back."""
    shapes = ctx.shapes[layer]
    gated = shapes.get("attn_q.weight", (0, 0))[1] == 2 * shapes["attn_output.weight"][0]
    out = ctx.linear(ctx.width, mixed if gated else _rotated_back(ctx, layer, mixed))
    return ctx.elementwise(ctx.width, out) if "attn_output.bias" in ctx.shapes[layer] else out


def _plain_attention(ctx: GraphContext, layer: int, node: int) -> int:
    spec, shapes = ctx.spec, ctx.shapes[layer]
    inputs = ctx.attention_inputs[spec.slides(layer)]
    q_width = spec.head_count(layer) * spec.key_length(layer)
    k_width = spec.head_count_kv(layer) * spec.key_length(layer)
    v_width = spec.head_count_kv(layer) * spec.value_length(layer)
    gate = None
    if "attn_qkv.weight" in shapes:
        q, k, v = _fused(ctx, layer, node, inputs)
    else:
        gated = shapes["attn_q.weight"][1] == 2 * q_width
        q_wide = ctx.linear(2 * q_width if gated else q_width, node)
        gate = q_wide if gated else None
        q = _query(ctx, layer, q_wide, q_width)
        q = _rotated(ctx, q, q_width, inputs.rotation_k)
        if spec.window:  # build_attn for two caches expands q, k, v; for one q, v, k
            k = _key(ctx, layer, node, k_width, inputs)
            v = _value(ctx, shapes, node, v_width, inputs)
        else:
            v = _value(ctx, shapes, node, v_width, inputs)
            k = _key(ctx, layer, node, k_width, inputs)
    ctx.graph.node(0, k, inputs.keys)
    ctx.graph.node(0, v, inputs.values)
    mixed = _scores(ctx, layer, q, inputs)
    if gate is None:
        return mixed
    mixed = _rotated_back(ctx, layer, mixed)  # Qwen3-Next: an output gate beside the query
    opened = ctx.elementwise(q_width, ctx.linear(q_width, gate))
    return ctx.graph.node(ctx.size(q_width), mixed, opened, in_place_of=(opened,))


def _fused(
    ctx: GraphContext, layer: int, node: int, inputs: AttentionInputs
) -> tuple[int, int, int]:
    spec, shapes = ctx.spec, ctx.shapes[layer]
    q_width = spec.head_count(layer) * spec.key_length(layer)
    k_width = spec.head_count_kv(layer) * spec.key_length(layer)
    v_width = spec.head_count_kv(layer) * spec.value_length(layer)
    normed = "attn_q_norm.weight" in shapes
    wide = ctx.linear(shapes["attn_qkv.weight"][1], node)
    q = _norm_and_rope(ctx, layer, wide, q_width, normed=normed)
    q = _rotated(ctx, q, q_width, inputs.rotation_k)
    v = wide
    if inputs.rotation_v is not None:
        v = _rotated(ctx, ctx.linear(v_width, wide), v_width, inputs.rotation_v)
    k = _norm_and_rope(ctx, layer, wide, k_width, normed=normed)
    return q, _rotated(ctx, k, k_width, inputs.rotation_k), v


def _query(ctx: GraphContext, layer: int, node: int, width: int) -> int:
    """Add bias, norm and RoPE of the query. It is read as a view (heads apart), and nothing is
    done in place over a view."""
    shapes = ctx.shapes[layer]
    if "attn_q.bias" in shapes:
        node = ctx.elementwise(width, node)
    return _norm_and_rope(ctx, layer, node, width, normed="attn_q_norm.weight" in shapes)


def _norm_and_rope(ctx: GraphContext, layer: int, node: int, width: int, *, normed: bool) -> int:
    if normed:
        node = ctx.linear(width, node)
        node = ctx.elementwise(width, node)
        return ctx.elementwise(width, node, ctx.position) if applies_rope(ctx, layer) else node
    if not applies_rope(ctx, layer):
        return node
    node = ctx.linear(width, node, ctx.position)
    return ctx.elementwise(width, node) if ctx.arch.norms_after_rope else node


def applies_rope(ctx: GraphContext, layer: int) -> bool:
    """Return True when the layer rotates queries and keys by position."""
    if ctx.arch.rope is Rope.SLIDING_LAYERS:
        return ctx.spec.slides(layer) or not ctx.spec.window
    return ctx.arch.rope is Rope.EVERY_LAYER


def _key(ctx: GraphContext, layer: int, node: int, width: int, inputs: AttentionInputs) -> int:
    shapes = ctx.shapes[layer]
    key = ctx.linear(width, node)
    if "attn_k.bias" in shapes:
        key = ctx.elementwise(width, key)
    key = _norm_and_rope(ctx, layer, key, width, normed="attn_k_norm.weight" in shapes)
    return _rotated(ctx, key, width, inputs.rotation_k)


def _value(
    ctx: GraphContext, shapes: Shapes, node: int, width: int, inputs: AttentionInputs
) -> int:
    value = ctx.linear(width, node)
    if "attn_v.bias" in shapes:
        value = ctx.elementwise(width, value)
    return _rotated(ctx, value, width, inputs.rotation_v)


def _rotated(ctx: GraphContext, node: int, width: int, rotation: int | None) -> int:
    return node if rotation is None else ctx.linear(width, node, rotation)


def _scores(ctx: GraphContext, layer: int, q: int, inputs: AttentionInputs) -> int:
    """Add scores, mask, softmax and values, or flash attention (`build_attn_mha`)."""
    spec, heads = ctx.spec, ctx.spec.head_count(layer)
    out = heads * spec.value_length(layer)
    if ctx.flash:
        return ctx.linear(out, q, *_cast_to_f16(ctx, layer, inputs), inputs.mask)
    scores = ctx.linear(heads * inputs.cells, q)
    if spec.value("attn_logit_softcapping") is not None or ctx.arch.softcaps_attention:
        scores = ctx.elementwise(heads * inputs.cells, scores)
    scores = ctx.graph.node(
        ctx.size(heads * inputs.cells), scores, inputs.mask, in_place_of=(scores,)
    )
    return ctx.linear(out, ctx.linear(out, scores))


def _cast_to_f16(ctx: GraphContext, layer: int, inputs: AttentionInputs) -> list[int]:
    """Add the casts of an F32 cache to F16, which flash attention needs in each layer."""
    spec, settings = ctx.spec, ctx.settings
    heads = spec.head_count_kv(layer)
    lengths = (
        (settings.kv_type_k, spec.key_length(layer)),
        (settings.kv_type_v, 0 if spec.mla else spec.value_length(layer)),
    )
    rows = inputs.cells * ctx.cells.streams
    return [
        ctx.graph.node(_HALF * length * heads * rows)
        for kind, length in lengths
        if kind is KvType.F32 and length
    ]


def _uncached_attention(ctx: GraphContext, layer: int, node: int) -> int:
    """Add an encoder's attention: the whole batch attends to itself, without a cache."""
    spec, shapes = ctx.spec, ctx.shapes[layer]
    heads = spec.head_count(layer)
    width = heads * spec.key_length(layer)
    parts = [ctx.linear(width, node) for _ in range(3)]
    if "attn_q.bias" in shapes:
        parts = [ctx.elementwise(width, part) for part in parts]
    q, k, v = parts
    if ctx.flash:
        halves = [ctx.graph.node(_HALF * width * ctx.rows, part) for part in (k, v)]
        return ctx.linear(width, q, *halves, ctx.encoder_mask)
    turned = ctx.linear(width, v)
    scores = ctx.linear(heads * ctx.tokens, k, q)
    scores = ctx.elementwise(heads * ctx.tokens, scores, ctx.encoder_mask)
    return ctx.linear(width, ctx.linear(width, turned, scores))


def _latent_attention(ctx: GraphContext, layer: int, node: int) -> int:
    """Add DeepSeek's attention with absorbed matrices (`deepseek2.cpp`)."""
    spec, shapes = ctx.spec, ctx.shapes[layer]
    inputs, heads = ctx.attention_inputs[False], spec.head_count(layer)
    rank, length = spec.integer("attention.kv_lora_rank"), spec.key_length(layer)
    rope = length - rank
    query = _latent_query(ctx, shapes, node, heads)
    absorbed = ctx.linear(rank * heads, query)
    turned = ctx.linear(rope * heads, query, ctx.position)
    q = ctx.linear(length * heads, absorbed, turned)
    compressed = ctx.linear(length, node)
    value = ctx.elementwise(rank, ctx.linear(rank, compressed))
    key = ctx.linear(length, value, ctx.linear(rope, compressed, ctx.position))
    ctx.graph.node(0, key, inputs.keys)
    final = heads * spec.integer("attention.value_length_mla")
    if ctx.flash:
        mixed = ctx.linear(rank * heads, q, *_cast_to_f16(ctx, layer, inputs), inputs.mask)
    else:
        values = _values_copied(ctx, rank, inputs)
        scores = ctx.linear(heads * inputs.cells, q)
        scores = ctx.graph.node(
            ctx.size(heads * inputs.cells), scores, inputs.mask, in_place_of=(scores,)
        )
        mixed = ctx.linear(rank * heads, values, scores)
    return ctx.linear(final, ctx.linear(final, mixed))


def _values_copied(ctx: GraphContext, rank: int, inputs: AttentionInputs) -> int:
    """Add the copy of the latent values out of the keys ("v_cont"), without flash attention."""
    element = BLOCKS[GgmlType[ctx.settings.kv_type_k.name]].size_bytes
    return ctx.graph.node(element * rank * inputs.cells * ctx.cells.streams)


def _latent_query(ctx: GraphContext, shapes: Shapes, node: int, heads: int) -> int:
    width = heads * ctx.spec.integer("attention.key_length_mla")
    if "attn_q_a.weight" not in shapes:
        return ctx.linear(width, node)
    rank = shapes["attn_q_a.weight"][1]
    return ctx.linear(width, ctx.norm(ctx.linear(rank, node), rank))
