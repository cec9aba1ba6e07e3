"""The graphs of layers that carry a state: Mamba, short convolutions, gated delta nets, RWKV.

Node by node after `src/models/{mamba-base,lfm2,qwen3next,rwkv6-base,rwkv7-base}.cpp` of llama.cpp
b11434, as attention.py does for attention. A state's update is written into the cache: a node of
0 bytes.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from localllm.core.model.architecture import LayerGraph, ResidualFirst
from localllm.core.sizing.footprint.attention import attend, project_output
from localllm.core.sizing.footprint.cache import shift_width, state_width
from localllm.core.sizing.footprint.feed_forward import feed_forward
from localllm.core.sizing.footprint.forward import GraphContext

_FLOAT = 4
_Build = Callable[[GraphContext, int, int, bool], int]


def add_residuals(
    ctx: GraphContext, layer: int, node: int, mixed: int, last: bool, *, viewed: bool = False
) -> int:
    """Add what follows the mixer in most models: residual, feed-forward part, residual. `viewed`:
    the mixer's result is a view, over which nothing is done in place."""
    shapes = ctx.shapes[layer]
    if last:
        mixed, node = ctx.select_outputs(mixed, node)
    after = "post_attention_norm.weight" in shapes
    as_ffn_norm = after and not {"ffn_norm.weight", "post_ffw_norm.weight"} & shapes.keys()
    if after and not as_ffn_norm:
        mixed = ctx.norm(mixed)
    first = ResidualFirst.ATTENTION in ctx.arch.residual_first
    second = ResidualFirst.FEED_FORWARD in ctx.arch.residual_first
    if viewed and not last:
        residual = ctx.graph.node(ctx.size(ctx.width), mixed, node, in_place_of=(node,))
    else:
        residual = ctx.elementwise(ctx.width, *((node, mixed) if first else (mixed, node)))
    normed = residual
    if as_ffn_norm or {"ffn_norm.weight", "ffn_norm"} & shapes.keys():
        normed = ctx.norm(residual, bias="ffn_norm.bias" in shapes)
    out = feed_forward(ctx, layer, normed)
    if "post_ffw_norm.weight" in shapes:
        out = ctx.norm(out)
    return ctx.elementwise(ctx.width, *((residual, out) if second else (out, residual)))


def _sequences(ctx: GraphContext, width: int) -> int:
    return ctx.graph.node(_FLOAT * width * ctx.sequences)


def _convolution_input(ctx: GraphContext, layer: int, node: int, channels: int, past: int) -> int:
    """Add the convolution's input: `past` earlier columns before this batch's."""
    before, _ = ctx.gather_states(layer)
    size = _FLOAT * channels * (ctx.tokens + past * ctx.sequences)
    joined = ctx.graph.node(size, before, node)
    ctx.graph.node(0, joined)
    return joined


def _convolution(ctx: GraphContext, joined: int, channels: int, *, bias: bool = True) -> int:
    node = ctx.linear(channels, joined)
    node = ctx.elementwise(channels, node) if bias else node
    return ctx.elementwise(channels, node)


def _scan(ctx: GraphContext, inner: int, *parents: int) -> int:
    state = _FLOAT * state_width(ctx.spec) * ctx.sequences
    node = ctx.graph.node(ctx.size(inner) + state, *parents)
    ctx.graph.node(0, node)
    return node


def _gather_next(ctx: GraphContext, layer: int) -> None:
    """As `GraphContext.gather_next`; a layer of experts does it after them."""
    if "ffn_gate_inp.weight" not in ctx.shapes[layer]:
        ctx.gather_next(layer)


def mamba1(ctx: GraphContext, layer: int, normed: int) -> int:
    """Add Mamba's mixer (`build_mamba_layer`)."""
    number, shapes = ctx.spec.integer, ctx.shapes[layer]
    inner, rank = number("ssm.inner_size"), number("ssm.time_step_rank")
    both = ctx.linear(2 * inner, normed)
    joined = _convolution_input(ctx, layer, both, inner, number("ssm.conv_kernel") - 1)
    x = _convolution(ctx, joined, inner)
    parts = ctx.linear(rank + 2 * number("ssm.state_size"), x)
    step = ctx.linear(rank, parts)
    if "ssm_dt_norm.weight" in shapes:  # Jamba norms all three parts
        step = ctx.elementwise(rank, step)
    step = ctx.elementwise(inner, ctx.linear(inner, step))
    scanned = _scan(ctx, inner, x, step, parts, parts)
    _gather_next(ctx, layer)
    gate = ctx.linear(inner, both)
    out = ctx.elementwise(inner, ctx.elementwise(inner, x), scanned)
    return ctx.linear(ctx.width, ctx.linear(inner, gate, out))


def mamba2(ctx: GraphContext, layer: int, normed: int) -> int:
    """Add Mamba 2's mixer (`build_mamba2_layer`)."""
    scan = _mamba2_scan(ctx, layer, normed)
    _gather_next(ctx, layer)
    return _mamba2_out(ctx, layer, *scan)


def _mamba2_scan(ctx: GraphContext, layer: int, normed: int) -> tuple[int, int, int]:
    number, shapes = ctx.spec.integer, ctx.shapes[layer]
    inner, rank = number("ssm.inner_size"), number("ssm.time_step_rank")
    channels = shapes["ssm_conv1d.weight"][1]
    both = ctx.linear(inner + channels + rank, normed)
    joined = _convolution_input(ctx, layer, both, channels, number("ssm.conv_kernel") - 1)
    x = _convolution(ctx, joined, channels, bias="ssm_conv1d.bias" in shapes)
    step = ctx.elementwise(rank, ctx.linear(rank, both))
    return both, x, _scan(ctx, inner, x, step, x, x)


def _mamba2_out(ctx: GraphContext, layer: int, both: int, x: int, scanned: int) -> int:
    inner = ctx.spec.integer("ssm.inner_size")
    gate = ctx.linear(inner, both)
    out = ctx.elementwise(inner, ctx.linear(inner, x), scanned)
    out = ctx.linear(inner, gate, out)
    if "ssm_norm.weight" in ctx.shapes[layer]:
        out = ctx.elementwise(inner, ctx.linear(inner, out))
    return ctx.linear(ctx.width, out)


def short_convolution(ctx: GraphContext, layer: int, normed: int) -> int:
    """Add LFM2's gated convolution."""
    width = ctx.width
    parts = ctx.linear(3 * width, normed)
    gated = ctx.linear(width, parts, parts)
    joined = _convolution_input(ctx, layer, gated, width, ctx.spec.integer("shortconv.l_cache") - 1)
    _gather_next(ctx, layer)
    mixed = ctx.elementwise(width, parts, ctx.linear(width, joined))
    return ctx.linear(width, mixed)


def delta_net(ctx: GraphContext, layer: int, normed: int) -> int:
    """Add Qwen3-Next's gated delta net (`qwen3next.cpp`, fused)."""
    number, shapes = ctx.spec.integer, ctx.shapes[layer]
    value, heads = number("ssm.inner_size"), number("ssm.time_step_rank")
    key = number("ssm.state_size") * number("ssm.group_count")
    channels = shapes["ssm_conv1d.weight"][1]
    mixed = ctx.linear(channels, normed)
    joined = _convolution_input(ctx, layer, mixed, channels, number("ssm.conv_kernel") - 1)
    state = _sequences(ctx, state_width(ctx.spec))
    x = _convolution(ctx, joined, channels, bias=False)
    q, k = (ctx.elementwise(key, ctx.linear(key, x)) for _ in range(2))
    if "ssm_ba.weight" in shapes:  # Qwen3-Next; Qwen3.5 has a matrix for each and needs no repeat
        q, k = ctx.linear(value, q), ctx.linear(value, k)
        pair = ctx.linear(2 * heads, normed)
        decay, beta = ctx.linear(heads, pair), ctx.linear(heads, pair)
    else:
        decay = ctx.linear(heads, ctx.linear(heads, normed))
        beta = ctx.linear(heads, ctx.linear(heads, normed))
    scanned = _scan(ctx, value, q, k, x, decay, beta, state)
    out = ctx.elementwise(value, ctx.linear(value, scanned))
    gate = ctx.linear(value, ctx.linear(value, normed))
    return ctx.linear(ctx.width, ctx.elementwise(value, out, gate))


def _mixer(ctx: GraphContext, layer: int, normed: int) -> int:
    shapes = ctx.shapes[layer]
    if "shortconv.conv.weight" in shapes:
        return short_convolution(ctx, layer, normed)
    if "attn_gate.weight" in shapes and "ssm_out.weight" in shapes:
        return delta_net(ctx, layer, normed)
    if "ssm_x.weight" in shapes:
        return mamba1(ctx, layer, normed)
    if "ssm_in.weight" in shapes:
        return mamba2(ctx, layer, normed)
    attended = attend(ctx, layer, normed, project=False)
    _gather_next(ctx, layer)
    return project_output(ctx, layer, attended)


def hybrid_layer(ctx: GraphContext, layer: int, node: int, last: bool) -> int:
    """Add a hybrid's layer: a mixer of either kind, then the feed-forward part."""
    ctx.gather_before_norm(layer)
    mixed = _mixer(ctx, layer, ctx.norm(node))
    viewed = "attn_gate.weight" in ctx.shapes[layer]
    return add_residuals(ctx, layer, node, mixed, last, viewed=viewed)


def one_mixer_layer(ctx: GraphContext, layer: int, node: int, last: bool) -> int:
    """Add a layer of Mamba or Nemotron-H: one mixer or one feed-forward part, one residual."""
    ctx.gather_before_norm(layer)
    normed = ctx.norm(node)
    shapes = ctx.shapes[layer]
    feeds = "ffn_down.weight" in shapes or "ffn_down_exps.weight" in shapes
    mixed = feed_forward(ctx, layer, normed) if feeds else _mixer(ctx, layer, normed)
    if last:
        mixed, node = ctx.select_outputs(mixed, node)
    if "ssm_x.weight" in shapes and not last:  # the result is a view there
        return ctx.graph.node(ctx.size(ctx.width), mixed, node, in_place_of=(node,))
    return ctx.elementwise(ctx.width, mixed, node)


def parallel_hybrid_layer(ctx: GraphContext, layer: int, node: int, last: bool) -> int:
    """Add Falcon-H1's layer: attention and Mamba 2 side by side."""
    attended = attend(ctx, layer, ctx.norm(node), project=False)
    ctx.gather_states(layer)
    scan = _mamba2_scan(ctx, layer, ctx.norm(node))
    mixed = project_output(ctx, layer, attended)
    summed = ctx.elementwise(ctx.width, mixed, _mamba2_out(ctx, layer, *scan))
    return add_residuals(ctx, layer, node, summed, last)


def _shifted(ctx: GraphContext, before: int, node: int) -> int:
    """Add RWKV's token shift: the previous token's row beside each row."""
    return ctx.linear(ctx.width, before, node)


def rwkv6_layer(ctx: GraphContext, layer: int, node: int, last: bool) -> int:
    width, shapes = ctx.width, ctx.shapes[layer]
    extra, decay = shapes["time_mix_w1.weight"][1], shapes["time_mix_decay_w1.weight"][1]
    before, state = ctx.gather_states(layer)
    att = ctx.norm(node, bias=True)
    delta = ctx.elementwise(width, _shifted(ctx, before, att), att)
    mixed = ctx.elementwise(width, ctx.linear(width, delta), att)
    low = ctx.linear(extra, ctx.elementwise(extra, ctx.linear(extra, mixed)))
    five = ctx.elementwise(5 * width, ctx.linear(5 * width, low), delta)
    five = ctx.elementwise(5 * width, five, att)
    key, value, receptance = (ctx.linear(width, five) for _ in range(3))
    decayed = ctx.elementwise(width, ctx.linear(width, ctx.linear(decay, five)))
    scanned = _scan(ctx, width, key, value, receptance, decayed, state)
    out = ctx.elementwise(width, ctx.linear(width, ctx.linear(width, scanned)))
    gate = ctx.elementwise(width, ctx.linear(width, five))
    out = ctx.linear(width, ctx.elementwise(width, out, gate))
    return _channel_mix(ctx, layer, out, node, (before, att), last)


def rwkv7_layer(ctx: GraphContext, layer: int, node: int, last: bool) -> int:
    width, shapes = ctx.width, ctx.shapes[layer]
    low = {x: shapes[f"time_mix_{x}1.weight"][1] for x in ("w", "a", "g")}
    before, state = ctx.gather_states(layer)
    att = ctx.norm(node, bias=True)
    delta = ctx.elementwise(width, _shifted(ctx, before, att), att)
    six = ctx.elementwise(6 * width, ctx.linear(6 * width, delta), att)
    receptance = ctx.linear(width, six)
    decayed = ctx.elementwise(width, ctx.linear(width, ctx.linear(low["w"], six)))
    key = ctx.linear(width, six)
    rate = ctx.elementwise(width, ctx.linear(width, ctx.linear(low["a"], six)))
    scaled = ctx.linear(width, key)
    turned = ctx.elementwise(width, ctx.linear(width, rate, scaled), scaled)
    turned = ctx.graph.node(ctx.size(width), key, turned, in_place_of=(turned,))
    value = ctx.linear(width, six)
    value = _value_residual(ctx, layer, six, value)
    normal = ctx.linear(width, ctx.elementwise(width, key))
    minus = ctx.linear(width, normal)
    plus = ctx.elementwise(width, normal, rate)
    scanned = _scan(ctx, width, receptance, decayed, turned, value, minus, plus, state)
    out = ctx.elementwise(width, ctx.linear(width, ctx.linear(width, scanned)))
    bonus = ctx.elementwise(width, ctx.linear(width, turned, receptance))
    bonus = ctx.linear(width, value, ctx.linear(width // ctx.spec.integer("wkv.head_size"), bonus))
    out = ctx.elementwise(width, out, bonus)
    out = ctx.elementwise(width, out, ctx.linear(width, ctx.linear(low["g"], six)))
    return _channel_mix(ctx, layer, ctx.linear(width, out), node, (before, att), last)


def _value_residual(ctx: GraphContext, layer: int, six: int, value: int) -> int:
    """Add the first layer's values to a later layer's; so they live to the end."""
    if ctx.first_value < 0:
        ctx.first_value = value
        return value
    width = ctx.width
    difference = ctx.linear(width, ctx.first_value, value)
    share = ctx.linear(width, ctx.linear(ctx.shapes[layer]["time_mix_v1.weight"][1], six))
    return ctx.elementwise(width, value, ctx.elementwise(width, difference, share))


def _channel_mix(
    ctx: GraphContext, layer: int, out: int, node: int, shift: tuple[int, int], last: bool
) -> int:
    width, shapes = ctx.width, ctx.shapes[layer]
    inner = shapes["channel_mix_key.weight"][1]
    residual = ctx.linear(width, out, node)
    normed = ctx.norm(residual, bias=True)
    update = _sequences(ctx, shift_width(ctx.spec))
    ctx.graph.node(0, update, shift[1], normed)
    ctx.gather_next(layer)
    shifted = _shifted(ctx, shift[0], normed)
    if last:
        residual, normed, shifted = ctx.select_outputs(residual, normed, shifted)
    delta = ctx.linear(width, shifted, normed)
    opened = None
    if "channel_mix_receptance.weight" in shapes:
        mixed = ctx.elementwise(width, ctx.linear(width, delta), normed)
        opened = ctx.elementwise(width, ctx.linear(width, mixed))
    mixed = ctx.elementwise(width, delta, normed)
    key = ctx.elementwise(inner, ctx.linear(inner, mixed))
    value = ctx.linear(width, key)
    value = value if opened is None else ctx.elementwise(width, opened, value)
    return ctx.graph.node(ctx.size(width), value, residual, in_place_of=(value,))


LAYERS: Mapping[LayerGraph, _Build] = MappingProxyType(
    {
        LayerGraph.ONE_MIXER: one_mixer_layer,
        LayerGraph.HYBRID: hybrid_layer,
        LayerGraph.PARALLEL_HYBRID: parallel_hybrid_layer,
        LayerGraph.RWKV6: rwkv6_layer,
        LayerGraph.RWKV7: rwkv7_layer,
    }
)
"""Layers that are not an attention and a feed-forward part."""
