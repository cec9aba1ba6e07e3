"""The scratch memory of one forward pass (`llama_context::sched_reserve`, llama.cpp b11434)."""

from localllm.core.model.architecture import Memory
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.arena import Graph
from localllm.core.sizing.footprint.attention import add_attention_inputs, attend, project_output
from localllm.core.sizing.footprint.cache import cells, flash, ubatch
from localllm.core.sizing.footprint.feed_forward import feed_forward
from localllm.core.sizing.footprint.forward import GraphContext
from localllm.core.sizing.footprint.recurrent import LAYERS, add_residuals
from localllm.core.sizing.load import Graphs, LoadSettings
from localllm.errors import GgufError

_FLOAT = 4
_HELD_ROWS, _HELD_ROWS_OF_ENCODER, _HELD_ROWS_OF_EMBEDDINGS = 1, 2, 5
"""Rows of activations for each token that 86a2835 holds beside the graph of 0c1e570. Measured with
dry runs of 44 models and nine loads each, one of them an encoder, and with the starter model loaded
for embeddings (2026-11-30; docs/accuracy.md says how near that comes)."""


def compute_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Return the bytes of the compute buffer of a load that lies on one device.

    Exact but for rounding where the architecture is confirmed. For others it is the graph of a
    like model, or a sum of its widest phases when its tensors have other names. Raises GgufError
    when the tensors of a confirmed architecture contradict its header.
    """
    if spec.tensors:
        try:
            return _graph(spec, settings).peak_bytes() + _held_bytes(spec, settings)
        except (KeyError, IndexError) as missing:
            if spec.arch.confirmed:
                raise GgufError(
                    f"the tensors do not fit the header of a {spec.architecture} model: "
                    f"{missing} is missing"
                ) from missing
    return _widest_phases(spec, settings)


def _held_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Size the rows that the graphs of 86a2835 hold; image features beside a token's (Qwen3-VL) are
    held with it."""
    if settings.graphs is Graphs.B0C1E570:
        return 0
    rows = _HELD_ROWS_OF_EMBEDDINGS if settings.embeddings else _HELD_ROWS
    if spec.arch.memory is Memory.NONE:
        rows = _HELD_ROWS_OF_ENCODER
    elif deepstack := spec.integer("n_deepstack_layers"):
        rows += 1 + deepstack
    tokens = -(-ubatch(settings) // settings.parallel) * settings.parallel
    return _FLOAT * rows * spec.embedding * tokens


def _widest_phases(spec: ModelSpec, settings: LoadSettings) -> int:
    """Sum the inputs with the larger of attention and feed-forward part: what is alive at once,
    for a model whose graph is not known node by node."""
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
    ctx = GraphContext(spec, settings)
    add_attention_inputs(ctx)
    ctx.output_ids = ctx.graph.input(_FLOAT * ctx.outputs)
    node = ctx.embed()
    if "position_embd.weight" in ctx.shapes_outside:
        node = _learned_positions(ctx, node)
    if spec.arch.scales_embedding:
        node = ctx.elementwise(ctx.width, node)
    if spec.arch.layer_graph.is_rwkv:
        node = ctx.norm(node, bias=True)
    for layer in ctx.layers:
        node = _layer(ctx, layer, node)
        if layer < ctx.deepstack:
            node = ctx.elementwise(ctx.width, node, ctx.wide_input)
    logits = spec.arch.logits_beside_embeddings or not settings.embeddings
    if ctx.encoder_mask < 0 and logits:
        ctx.linear(spec.vocabulary, ctx.norm(node))
    return ctx.graph


def _layer(ctx: GraphContext, layer: int, node: int) -> int:
    shapes, last = ctx.shapes[layer], layer == ctx.spec.layers - 1
    build = LAYERS.get(ctx.arch.layer_graph)
    if build is not None:
        return build(ctx, layer, node, last)
    if "layer_output_norm.weight" in shapes:
        return _post_normed(ctx, layer, node, last)
    normed = node
    if "attn_norm.weight" in shapes:
        normed = ctx.norm(node, bias="attn_norm.bias" in shapes)
    if not {"ffn_norm.weight", "post_attention_norm.weight"} & shapes.keys():
        return _parallel(ctx, layer, node, normed, last)
    return add_residuals(ctx, layer, node, attend(ctx, layer, normed), last)


def _learned_positions(ctx: GraphContext, node: int) -> int:
    """Add BERT's positions and types to the embedding, then norm."""
    positions = ctx.linear(ctx.width, ctx.position)
    if "token_types.weight" in ctx.shapes_outside:
        node = ctx.elementwise(ctx.width, node)
    node = ctx.elementwise(ctx.width, positions, node)
    return ctx.norm(node, bias=True) if "token_embd_norm.bias" in ctx.shapes_outside else node


def _post_normed(ctx: GraphContext, layer: int, node: int, last: bool) -> int:
    """Add BERT's layer: norms after the residuals."""
    mixed = attend(ctx, layer, node)
    if last:
        mixed, node = ctx.select_outputs(mixed, node)
    residual = ctx.norm(ctx.elementwise(ctx.width, mixed, node), bias=True)
    return ctx.norm(
        ctx.elementwise(ctx.width, feed_forward(ctx, layer, residual), residual), bias=True
    )


def _parallel(ctx: GraphContext, layer: int, node: int, normed: int, last: bool) -> int:
    """Add attention and feed-forward part from the same norm (Cohere)."""
    mixed = attend(ctx, layer, normed, project=False)
    if last:
        mixed, node = ctx.select_outputs(project_output(ctx, layer, mixed), node)
        (normed,) = ctx.select_outputs(normed)
        residual = ctx.elementwise(ctx.width, feed_forward(ctx, layer, normed), node)
        return ctx.elementwise(ctx.width, residual, mixed)
    residual = ctx.elementwise(ctx.width, feed_forward(ctx, layer, normed), node)
    return ctx.elementwise(ctx.width, residual, project_output(ctx, layer, mixed))


def output_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Return the bytes of a step's output rows (`llama_context::output_reserve`): the logits, and
    with embeddings also those, even of an encoder, which has no use for logits."""
    width = spec.vocabulary + (spec.embedding if settings.embeddings else 0)
    return width * _FLOAT * settings.outputs
