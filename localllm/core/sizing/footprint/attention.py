"""What attention allocates in the graph: its inputs, and its nodes layer by layer.

Follows `build_attn` and `build_attn_mha` (`src/llama-graph.cpp`) and the graphs of
`src/models/*.cpp` in llama.cpp b11434.
"""

from localllm.core.model.architecture import Memory, Rope
from localllm.core.model.quants import BLOCKS, GgmlType
from localllm.core.sizing.footprint.forward import AttentionInputs, Pass, Shapes
from localllm.core.sizing.load import KvType

_FLOAT, _HALF, _INDEX = 4, 2, 8


def add_attention_inputs(flow: Pass) -> None:
    if flow.arch.memory is Memory.NONE:
        flow.encoder_mask = flow.graph.input(
            (_HALF if flow.flash else _FLOAT) * flow.tokens * flow.tokens
        )
        return
    for sliding in sorted(
        {flow.spec.slides(i) for i in range(flow.spec.layers) if flow.spec.attends(i)}
    ):
        flow.attention_inputs[sliding] = _attention_input(flow, sliding)


def _attention_input(flow: Pass, sliding: bool) -> AttentionInputs:
    spec, tokens = flow.spec, flow.tokens
    span = flow.cells.window if sliding else flow.cells.full
    like = [i for i in range(spec.layers) if spec.attends(i) and spec.slides(i) is sliding]
    transposed = (
        1
        if flow.flash
        else max(spec.value_length(i) * spec.head_count_kv(i) for i in range(spec.layers))
    )
    key = {spec.key_length(i) for i in like}
    value = set() if spec.mla else {spec.value_length(i) for i in like}
    return AttentionInputs(
        keys=flow.graph.input(_INDEX * tokens),
        values=flow.graph.input(_INDEX * tokens * transposed),
        mask=flow.graph.input((_HALF if flow.flash else _FLOAT) * span * tokens),
        turn_key=None if spec.mla else _turn(flow, flow.settings.kv_type_k, key, largest=True),
        turn_value=_turn(flow, flow.settings.kv_type_v, value, largest=False),
        cells=span,
    )


def _turn(flow: Pass, kind: KvType, lengths: set[int], *, largest: bool) -> int | None:
    """The Hadamard rotation of a quantized cache (`build_input_k_rot`, `_v_rot`)."""
    if BLOCKS[GgmlType[kind.name]].elements == 1 or len(lengths) != 1:
        return None
    (length,) = lengths
    if length % 64:
        return None
    side = 64
    while largest and length % (side * 2) == 0:
        side *= 2
    return flow.graph.input(_FLOAT * side * side)


def attend(flow: Pass, layer: int, node: int, *, project: bool = True) -> int:
    """Attention of `node` (normed); the result is the projected output."""
    shapes = flow.shapes[layer]
    if flow.encoder_mask >= 0:
        mixed = _uncached_attention(flow, layer, node)
    elif "attn_kv_a_mqa.weight" in shapes and flow.spec.mla:
        mixed = _latent_attention(flow, layer, node)
    else:
        mixed = _plain_attention(flow, layer, node)
    return projected(flow, layer, mixed) if project else mixed


def _unturned(flow: Pass, layer: int, mixed: int) -> int:
    if flow.spec.mla or flow.encoder_mask >= 0:
        return mixed
    rotation = flow.attention_inputs[flow.spec.slides(layer)].turn_value
    width = flow.spec.head_count(layer) * flow.spec.value_length(layer)
    return _turned(flow, mixed, width, rotation)


def projected(flow: Pass, layer: int, mixed: int) -> int:
    """The output matrix, after a rotated cache's values are turned back."""
    shapes = flow.shapes[layer]
    gated = shapes.get("attn_q.weight", (0, 0))[1] == 2 * shapes["attn_output.weight"][0]
    out = flow.linear(flow.width, mixed if gated else _unturned(flow, layer, mixed))
    return flow.wise(flow.width, out) if "attn_output.bias" in flow.shapes[layer] else out


def _plain_attention(flow: Pass, layer: int, node: int) -> int:
    spec, shapes = flow.spec, flow.shapes[layer]
    inputs = flow.attention_inputs[spec.slides(layer)]
    q_width = spec.head_count(layer) * spec.key_length(layer)
    k_width = spec.head_count_kv(layer) * spec.key_length(layer)
    v_width = spec.head_count_kv(layer) * spec.value_length(layer)
    gate = None
    if "attn_qkv.weight" in shapes:
        q, k, v = _fused(flow, layer, node, inputs)
    else:
        gated = shapes["attn_q.weight"][1] == 2 * q_width
        q_wide = flow.linear(2 * q_width if gated else q_width, node)
        gate = q_wide if gated else None
        q = _query(flow, layer, q_wide, q_width)
        q = _turned(flow, q, q_width, inputs.turn_key)
        if spec.window:  # build_attn for two caches expands q, k, v; for one q, v, k
            k = _key(flow, layer, node, k_width, inputs)
            v = _value(flow, shapes, node, v_width, inputs)
        else:
            v = _value(flow, shapes, node, v_width, inputs)
            k = _key(flow, layer, node, k_width, inputs)
    flow.graph.node(0, k, inputs.keys)
    flow.graph.node(0, v, inputs.values)
    mixed = _scores(flow, layer, q, inputs)
    if gate is None:
        return mixed
    mixed = _unturned(flow, layer, mixed)  # Qwen3-Next: an output gate beside the query
    opened = flow.wise(q_width, flow.linear(q_width, gate))
    return flow.graph.node(flow.size(q_width), mixed, opened, onto=(opened,))


def _fused(flow: Pass, layer: int, node: int, inputs: AttentionInputs) -> tuple[int, int, int]:
    spec, shapes = flow.spec, flow.shapes[layer]
    q_width = spec.head_count(layer) * spec.key_length(layer)
    k_width = spec.head_count_kv(layer) * spec.key_length(layer)
    v_width = spec.head_count_kv(layer) * spec.value_length(layer)
    normed = "attn_q_norm.weight" in shapes
    wide = flow.linear(shapes["attn_qkv.weight"][1], node)
    q = _positioned(flow, layer, wide, q_width, normed=normed)
    q = _turned(flow, q, q_width, inputs.turn_key)
    v = wide
    if inputs.turn_value is not None:
        v = _turned(flow, flow.linear(v_width, wide), v_width, inputs.turn_value)
    k = _positioned(flow, layer, wide, k_width, normed=normed)
    return q, _turned(flow, k, k_width, inputs.turn_key), v


def _query(flow: Pass, layer: int, node: int, width: int) -> int:
    """Bias, norm and rotation of the query. It is read as a view (heads apart), and nothing is
    done in place over a view."""
    shapes = flow.shapes[layer]
    if "attn_q.bias" in shapes:
        node = flow.wise(width, node)
    return _positioned(flow, layer, node, width, normed="attn_q_norm.weight" in shapes)


def _positioned(flow: Pass, layer: int, node: int, width: int, *, normed: bool) -> int:
    if normed:
        node = flow.linear(width, node)
        node = flow.wise(width, node)
        return flow.wise(width, node, flow.position) if rotates(flow, layer) else node
    if not rotates(flow, layer):
        return node
    node = flow.linear(width, node, flow.position)
    return flow.wise(width, node) if flow.arch.norms_after_rope else node


def rotates(flow: Pass, layer: int) -> bool:
    """Whether the layer applies RoPE; some leave it out where they do not slide."""
    if flow.arch.rope is Rope.SLIDING_LAYERS:
        return flow.spec.slides(layer) or not flow.spec.window
    return flow.arch.rope is Rope.EVERY_LAYER


def _key(flow: Pass, layer: int, node: int, width: int, inputs: AttentionInputs) -> int:
    shapes = flow.shapes[layer]
    key = flow.linear(width, node)
    if "attn_k.bias" in shapes:
        key = flow.wise(width, key)
    key = _positioned(flow, layer, key, width, normed="attn_k_norm.weight" in shapes)
    return _turned(flow, key, width, inputs.turn_key)


def _value(flow: Pass, shapes: Shapes, node: int, width: int, inputs: AttentionInputs) -> int:
    value = flow.linear(width, node)
    if "attn_v.bias" in shapes:
        value = flow.wise(width, value)
    return _turned(flow, value, width, inputs.turn_value)


def _turned(flow: Pass, node: int, width: int, rotation: int | None) -> int:
    return node if rotation is None else flow.linear(width, node, rotation)


def _scores(flow: Pass, layer: int, q: int, inputs: AttentionInputs) -> int:
    """`build_attn_mha`."""
    spec, heads = flow.spec, flow.spec.head_count(layer)
    out = heads * spec.value_length(layer)
    if flow.flash:
        return flow.linear(out, q, *_halved(flow, layer, inputs), inputs.mask)
    scores = flow.linear(heads * inputs.cells, q)
    if spec.value("attn_logit_softcapping") is not None or flow.arch.softcaps_attention:
        scores = flow.wise(heads * inputs.cells, scores)
    scores = flow.graph.node(flow.size(heads * inputs.cells), scores, inputs.mask, onto=(scores,))
    return flow.linear(out, flow.linear(out, scores))


def _halved(flow: Pass, layer: int, inputs: AttentionInputs) -> list[int]:
    """An F32 cache is cast to F16 for flash attention, layer by layer."""
    spec, settings = flow.spec, flow.settings
    heads = spec.head_count_kv(layer)
    lengths = (
        (settings.kv_type_k, spec.key_length(layer)),
        (settings.kv_type_v, 0 if spec.mla else spec.value_length(layer)),
    )
    rows = inputs.cells * flow.cells.streams
    return [
        flow.graph.node(_HALF * length * heads * rows)
        for kind, length in lengths
        if kind is KvType.F32 and length
    ]


def _uncached_attention(flow: Pass, layer: int, node: int) -> int:
    """An encoder's attention: the whole batch looks at itflow."""
    spec, shapes = flow.spec, flow.shapes[layer]
    heads = spec.head_count(layer)
    width = heads * spec.key_length(layer)
    parts = [flow.linear(width, node) for _ in range(3)]
    if "attn_q.bias" in shapes:
        parts = [flow.wise(width, part) for part in parts]
    q, k, v = parts
    if flow.flash:
        halves = [flow.graph.node(_HALF * width * flow.rows, part) for part in (k, v)]
        return flow.linear(width, q, *halves, flow.encoder_mask)
    turned = flow.linear(width, v)
    scores = flow.linear(heads * flow.tokens, k, q)
    scores = flow.wise(heads * flow.tokens, scores, flow.encoder_mask)
    return flow.linear(width, flow.linear(width, turned, scores))


def _latent_attention(flow: Pass, layer: int, node: int) -> int:
    """DeepSeek's attention with absorbed matrices (`deepseek2.cpp`)."""
    spec, shapes = flow.spec, flow.shapes[layer]
    inputs, heads = flow.attention_inputs[False], spec.head_count(layer)
    rank, length = spec.integer("attention.kv_lora_rank"), spec.key_length(layer)
    rope = length - rank
    query = _latent_query(flow, shapes, node, heads)
    absorbed = flow.linear(rank * heads, query)
    turned = flow.linear(rope * heads, query, flow.position)
    q = flow.linear(length * heads, absorbed, turned)
    compressed = flow.linear(length, node)
    value = flow.wise(rank, flow.linear(rank, compressed))
    key = flow.linear(length, value, flow.linear(rope, compressed, flow.position))
    flow.graph.node(0, key, inputs.keys)
    final = heads * spec.integer("attention.value_length_mla")
    if flow.flash:
        mixed = flow.linear(rank * heads, q, *_halved(flow, layer, inputs), inputs.mask)
    else:
        values = _values_copied(flow, rank, inputs)
        scores = flow.linear(heads * inputs.cells, q)
        scores = flow.graph.node(
            flow.size(heads * inputs.cells), scores, inputs.mask, onto=(scores,)
        )
        mixed = flow.linear(rank * heads, values, scores)
    return flow.linear(final, flow.linear(final, mixed))


def _values_copied(flow: Pass, rank: int, inputs: AttentionInputs) -> int:
    """Without flash attention the latent values are copied out of the keys ("v_cont")."""
    element = BLOCKS[GgmlType[flow.settings.kv_type_k.name]].size_bytes
    return flow.graph.node(element * rank * inputs.cells * flow.cells.streams)


def _latent_query(flow: Pass, shapes: Shapes, node: int, heads: int) -> int:
    width = heads * flow.spec.integer("attention.key_length_mla")
    if "attn_q_a.weight" not in shapes:
        return flow.linear(width, node)
    rank = shapes["attn_q_a.weight"][1]
    return flow.linear(width, flow.norm(flow.linear(rank, node), rank))
