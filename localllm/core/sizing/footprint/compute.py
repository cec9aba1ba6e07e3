"""The scratch memory of one forward pass (`llama_context::sched_reserve`, llama.cpp b11434)."""

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.arena import Graph
from localllm.core.sizing.footprint.attention import add_attention_inputs, attend, projected
from localllm.core.sizing.footprint.cache import cells, flash, ubatch
from localllm.core.sizing.footprint.feed_forward import feed
from localllm.core.sizing.footprint.forward import Pass
from localllm.core.sizing.footprint.recurrent import LAYERS, standard
from localllm.core.sizing.load import LoadSettings
from localllm.errors import GgufError

_FLOAT = 4


def compute_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Bytes of the compute buffer of a load that lies on one device.

    Exact but for rounding where the architecture is confirmed. For others it is the graph of a
    like model, or a sum of its widest phases when its tensors have other names. Raises GgufError
    when the tensors of a confirmed architecture contradict its header.
    """
    if spec.tensors:
        try:
            return _graph(spec, settings).peak_bytes()
        except (KeyError, IndexError) as missing:
            if spec.arch.confirmed:
                raise GgufError(
                    f"the tensors do not fit the header of a {spec.architecture} model: "
                    f"{missing} is missing"
                ) from missing
    return _widest_phases(spec, settings)


def _widest_phases(spec: ModelSpec, settings: LoadSettings) -> int:
    """The larger of attention and feed-forward, with the inputs (design notes, SIZING.md)."""
    tokens, span, fast = ubatch(settings), cells(spec, settings).full, flash(spec, settings)
    layers = range(spec.layers)
    heads = max((spec.head_count(i) for i in layers), default=0)
    query = max((spec.head_count(i) * spec.key_length(i) for i in layers), default=0)
    stream = tokens * spec.embedding * _FLOAT
    mask = tokens * span * (_FLOAT // 2 if fast else _FLOAT)
    scores = 0 if fast else tokens * heads * span * _FLOAT
    inner = max((spec.feed_forward(i) for i in layers), default=0)
    attention = scores + 3 * tokens * query * _FLOAT
    pairs = max((sum(pair) for lora in settings.loras for pair in lora.pairs), default=0)
    widest = max(attention, 3 * tokens * inner * _FLOAT) + tokens * pairs * _FLOAT
    return mask + 4 * stream + widest


def _graph(spec: ModelSpec, settings: LoadSettings) -> Graph:
    flow = Pass(spec, settings)
    add_attention_inputs(flow)
    flow.output_ids = flow.graph.input(_FLOAT * flow.outputs)
    node = flow.embed()
    if "position_embd.weight" in flow.outside:
        node = _learned_positions(flow, node)
    if spec.arch.scales_embedding:
        node = flow.wise(flow.width, node)
    if spec.arch.layer_graph.is_rwkv:
        node = flow.norm(node, bias=True)
    for layer in flow.order:
        node = _layer(flow, layer, node)
        if layer < flow.deepstack:
            node = flow.wise(flow.width, node, flow.wide_input)
    logits = spec.arch.logits_beside_embeddings or not settings.embeddings
    if flow.encoder_mask < 0 and logits:
        flow.linear(spec.vocabulary, flow.norm(node))
    return flow.graph


def _layer(flow: Pass, layer: int, node: int) -> int:
    shapes, last = flow.shapes[layer], layer == flow.spec.layers - 1
    build = LAYERS.get(flow.arch.layer_graph)
    if build is not None:
        return build(flow, layer, node, last)
    if "layer_output_norm.weight" in shapes:
        return _post_normed(flow, layer, node, last)
    normed = node
    if "attn_norm.weight" in shapes:
        normed = flow.norm(node, bias="attn_norm.bias" in shapes)
    if not {"ffn_norm.weight", "post_attention_norm.weight"} & shapes.keys():
        return _parallel(flow, layer, node, normed, last)
    return standard(flow, layer, node, attend(flow, layer, normed), last)


def _learned_positions(flow: Pass, node: int) -> int:
    """BERT adds positions and types to the embedding, then norms."""
    positions = flow.linear(flow.width, flow.position)
    if "token_types.weight" in flow.outside:
        node = flow.wise(flow.width, node)
    node = flow.wise(flow.width, positions, node)
    return flow.norm(node, bias=True) if "token_embd_norm.bias" in flow.outside else node


def _post_normed(flow: Pass, layer: int, node: int, last: bool) -> int:
    """BERT's layer: norms after the residuals."""
    mixed = attend(flow, layer, node)
    if last:
        mixed, node = flow.pick(mixed, node)
    residual = flow.norm(flow.wise(flow.width, mixed, node), bias=True)
    return flow.norm(flow.wise(flow.width, feed(flow, layer, residual), residual), bias=True)


def _parallel(flow: Pass, layer: int, node: int, normed: int, last: bool) -> int:
    """Attention and feed-forward from the same norm (Cohere)."""
    mixed = attend(flow, layer, normed, project=False)
    if last:
        mixed, node = flow.pick(projected(flow, layer, mixed), node)
        (normed,) = flow.pick(normed)
        residual = flow.wise(flow.width, feed(flow, layer, normed), node)
        return flow.wise(flow.width, residual, mixed)
    residual = flow.wise(flow.width, feed(flow, layer, normed), node)
    return flow.wise(flow.width, residual, projected(flow, layer, mixed))


def output_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Bytes of the rows that a step hands out (`llama_context::output_reserve`): logits, and for
    embeddings each token's beside its logits, which an encoder has no use for either."""
    width = spec.vocabulary + (spec.embedding if settings.embeddings else 0)
    return width * _FLOAT * settings.outputs
