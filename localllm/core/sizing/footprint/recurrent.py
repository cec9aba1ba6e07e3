"""The graphs of layers that carry a state: Mamba, short convolutions, gated delta nets, RWKV.

Node by node after `src/models/{mamba-base,lfm2,qwen3next,rwkv6-base,rwkv7-base}.cpp` of llama.cpp
b11434, as attention.py does for attention. A state's update is written into the cache, so its
result takes no room here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from localllm.core.model.architecture import LayerGraph, ResidualFirst
from localllm.core.sizing.footprint.attention import attend, projected
from localllm.core.sizing.footprint.cache import shift_width, state_width
from localllm.core.sizing.footprint.feed_forward import feed
from localllm.core.sizing.footprint.forward import Pass

_FLOAT = 4
_Build = Callable[[Pass, int, int, bool], int]


def standard(
    flow: Pass, layer: int, node: int, mixed: int, last: bool, *, viewed: bool = False
) -> int:
    """Residual, feed-forward, residual: what follows the mixer in most models. `viewed`: the
    mixer's result is a view, over which nothing is done in place."""
    shapes = flow.shapes[layer]
    if last:
        mixed, node = flow.pick(mixed, node)
    after = "post_attention_norm.weight" in shapes
    as_ffn_norm = after and not {"ffn_norm.weight", "post_ffw_norm.weight"} & shapes.keys()
    if after and not as_ffn_norm:
        mixed = flow.norm(mixed)
    first = ResidualFirst.ATTENTION in flow.arch.residual_first
    second = ResidualFirst.FEED_FORWARD in flow.arch.residual_first
    if viewed and not last:
        residual = flow.graph.node(flow.size(flow.width), mixed, node, onto=(node,))
    else:
        residual = flow.wise(flow.width, *((node, mixed) if first else (mixed, node)))
    normed = residual
    if as_ffn_norm or {"ffn_norm.weight", "ffn_norm"} & shapes.keys():
        normed = flow.norm(residual, bias="ffn_norm.bias" in shapes)
    out = feed(flow, layer, normed)
    if "post_ffw_norm.weight" in shapes:
        out = flow.norm(out)
    return flow.wise(flow.width, *((residual, out) if second else (out, residual)))


def _sequences(flow: Pass, width: int) -> int:
    return flow.graph.node(_FLOAT * width * flow.sequences)


def _history(flow: Pass, layer: int, node: int, channels: int, kept: int) -> int:
    """The convolution's input: `kept` earlier columns before this batch's."""
    before, _ = flow.fetch(layer)
    size = _FLOAT * channels * (flow.tokens + kept * flow.sequences)
    joined = flow.graph.node(size, before, node)
    flow.graph.node(0, joined)
    return joined


def _convolved(flow: Pass, joined: int, channels: int, *, bias: bool = True) -> int:
    node = flow.linear(channels, joined)
    node = flow.wise(channels, node) if bias else node
    return flow.wise(channels, node)


def _scan(flow: Pass, inner: int, *parents: int) -> int:
    state = _FLOAT * state_width(flow.spec) * flow.sequences
    node = flow.graph.node(flow.size(inner) + state, *parents)
    flow.graph.node(0, node)
    return node


def _fetch_next(flow: Pass, layer: int) -> None:
    """As `Pass.fetch_next`; a layer of experts does it after them."""
    if "ffn_gate_inp.weight" not in flow.shapes[layer]:
        flow.fetch_next(layer)


def mamba1(flow: Pass, layer: int, normed: int) -> int:
    """`build_mamba_layer`."""
    number, shapes = flow.spec.integer, flow.shapes[layer]
    inner, rank = number("ssm.inner_size"), number("ssm.time_step_rank")
    both = flow.linear(2 * inner, normed)
    joined = _history(flow, layer, both, inner, number("ssm.conv_kernel") - 1)
    x = _convolved(flow, joined, inner)
    parts = flow.linear(rank + 2 * number("ssm.state_size"), x)
    step = flow.linear(rank, parts)
    if "ssm_dt_norm.weight" in shapes:  # Jamba norms all three parts
        step = flow.wise(rank, step)
    step = flow.wise(inner, flow.linear(inner, step))
    scanned = _scan(flow, inner, x, step, parts, parts)
    _fetch_next(flow, layer)
    gate = flow.linear(inner, both)
    out = flow.wise(inner, flow.wise(inner, x), scanned)
    return flow.linear(flow.width, flow.linear(inner, gate, out))


def mamba2(flow: Pass, layer: int, normed: int) -> int:
    """`build_mamba2_layer`."""
    scan = _mamba2_scan(flow, layer, normed)
    _fetch_next(flow, layer)
    return _mamba2_out(flow, layer, *scan)


def _mamba2_scan(flow: Pass, layer: int, normed: int) -> tuple[int, int, int]:
    number, shapes = flow.spec.integer, flow.shapes[layer]
    inner, rank = number("ssm.inner_size"), number("ssm.time_step_rank")
    channels = shapes["ssm_conv1d.weight"][1]
    both = flow.linear(inner + channels + rank, normed)
    joined = _history(flow, layer, both, channels, number("ssm.conv_kernel") - 1)
    x = _convolved(flow, joined, channels, bias="ssm_conv1d.bias" in shapes)
    step = flow.wise(rank, flow.linear(rank, both))
    return both, x, _scan(flow, inner, x, step, x, x)


def _mamba2_out(flow: Pass, layer: int, both: int, x: int, scanned: int) -> int:
    inner = flow.spec.integer("ssm.inner_size")
    gate = flow.linear(inner, both)
    out = flow.wise(inner, flow.linear(inner, x), scanned)
    out = flow.linear(inner, gate, out)
    if "ssm_norm.weight" in flow.shapes[layer]:
        out = flow.wise(inner, flow.linear(inner, out))
    return flow.linear(flow.width, out)


def short_convolution(flow: Pass, layer: int, normed: int) -> int:
    """LFM2's gated convolution."""
    width = flow.width
    parts = flow.linear(3 * width, normed)
    gated = flow.linear(width, parts, parts)
    joined = _history(flow, layer, gated, width, flow.spec.integer("shortconv.l_cache") - 1)
    _fetch_next(flow, layer)
    mixed = flow.wise(width, parts, flow.linear(width, joined))
    return flow.linear(width, mixed)


def delta_net(flow: Pass, layer: int, normed: int) -> int:
    """Qwen3-Next's gated delta net (`qwen3next.cpp`, fused)."""
    number, shapes = flow.spec.integer, flow.shapes[layer]
    value, heads = number("ssm.inner_size"), number("ssm.time_step_rank")
    key = number("ssm.state_size") * number("ssm.group_count")
    channels = shapes["ssm_conv1d.weight"][1]
    mixed = flow.linear(channels, normed)
    joined = _history(flow, layer, mixed, channels, number("ssm.conv_kernel") - 1)
    state = _sequences(flow, state_width(flow.spec))
    x = _convolved(flow, joined, channels, bias=False)
    q, k = (flow.wise(key, flow.linear(key, x)) for _ in range(2))
    if "ssm_ba.weight" in shapes:  # Qwen3-Next; Qwen3.5 has a matrix for each and needs no repeat
        q, k = flow.linear(value, q), flow.linear(value, k)
        pair = flow.linear(2 * heads, normed)
        decay, beta = flow.linear(heads, pair), flow.linear(heads, pair)
    else:
        decay = flow.linear(heads, flow.linear(heads, normed))
        beta = flow.linear(heads, flow.linear(heads, normed))
    scanned = _scan(flow, value, q, k, x, decay, beta, state)
    out = flow.wise(value, flow.linear(value, scanned))
    gate = flow.linear(value, flow.linear(value, normed))
    return flow.linear(flow.width, flow.wise(value, out, gate))


def _mixer(flow: Pass, layer: int, normed: int) -> int:
    shapes = flow.shapes[layer]
    if "shortconv.conv.weight" in shapes:
        return short_convolution(flow, layer, normed)
    if "attn_gate.weight" in shapes and "ssm_out.weight" in shapes:
        return delta_net(flow, layer, normed)
    if "ssm_x.weight" in shapes:
        return mamba1(flow, layer, normed)
    if "ssm_in.weight" in shapes:
        return mamba2(flow, layer, normed)
    attended = attend(flow, layer, normed, project=False)
    _fetch_next(flow, layer)
    return projected(flow, layer, attended)


def mixed_layer(flow: Pass, layer: int, node: int, last: bool) -> int:
    """A hybrid's layer: a mixer of either kind, then the feed-forward part."""
    flow.fetch_first(layer)
    mixed = _mixer(flow, layer, flow.norm(node))
    viewed = "attn_gate.weight" in flow.shapes[layer]
    return standard(flow, layer, node, mixed, last, viewed=viewed)


def single_layer(flow: Pass, layer: int, node: int, last: bool) -> int:
    """Mamba's and Nemotron-H's layers: one mixer or one feed-forward part, one residual."""
    flow.fetch_first(layer)
    normed = flow.norm(node)
    shapes = flow.shapes[layer]
    feeds = "ffn_down.weight" in shapes or "ffn_down_exps.weight" in shapes
    mixed = feed(flow, layer, normed) if feeds else _mixer(flow, layer, normed)
    if last:
        mixed, node = flow.pick(mixed, node)
    if "ssm_x.weight" in shapes and not last:  # the result is a view there
        return flow.graph.node(flow.size(flow.width), mixed, node, onto=(node,))
    return flow.wise(flow.width, mixed, node)


def both_layer(flow: Pass, layer: int, node: int, last: bool) -> int:
    """Falcon-H1's layer: attention and Mamba-2 side by side."""
    attended = attend(flow, layer, flow.norm(node), project=False)
    flow.fetch(layer)
    scan = _mamba2_scan(flow, layer, flow.norm(node))
    mixed = projected(flow, layer, attended)
    summed = flow.wise(flow.width, mixed, _mamba2_out(flow, layer, *scan))
    return standard(flow, layer, node, summed, last)


def _shifted(flow: Pass, before: int, node: int) -> int:
    """The previous token's row beside each row (RWKV's token shift)."""
    return flow.linear(flow.width, before, node)


def rwkv6_layer(flow: Pass, layer: int, node: int, last: bool) -> int:
    width, shapes = flow.width, flow.shapes[layer]
    extra, decay = shapes["time_mix_w1.weight"][1], shapes["time_mix_decay_w1.weight"][1]
    before, state = flow.fetch(layer)
    att = flow.norm(node, bias=True)
    delta = flow.wise(width, _shifted(flow, before, att), att)
    mixed = flow.wise(width, flow.linear(width, delta), att)
    low = flow.linear(extra, flow.wise(extra, flow.linear(extra, mixed)))
    five = flow.wise(5 * width, flow.linear(5 * width, low), delta)
    five = flow.wise(5 * width, five, att)
    key, value, receptance = (flow.linear(width, five) for _ in range(3))
    decayed = flow.wise(width, flow.linear(width, flow.linear(decay, five)))
    scanned = _scan(flow, width, key, value, receptance, decayed, state)
    out = flow.wise(width, flow.linear(width, flow.linear(width, scanned)))
    gate = flow.wise(width, flow.linear(width, five))
    out = flow.linear(width, flow.wise(width, out, gate))
    return _channel_mix(flow, layer, out, node, (before, att), last)


def rwkv7_layer(flow: Pass, layer: int, node: int, last: bool) -> int:
    width, shapes = flow.width, flow.shapes[layer]
    low = {x: shapes[f"time_mix_{x}1.weight"][1] for x in ("w", "a", "g")}
    before, state = flow.fetch(layer)
    att = flow.norm(node, bias=True)
    delta = flow.wise(width, _shifted(flow, before, att), att)
    six = flow.wise(6 * width, flow.linear(6 * width, delta), att)
    receptance = flow.linear(width, six)
    decayed = flow.wise(width, flow.linear(width, flow.linear(low["w"], six)))
    key = flow.linear(width, six)
    rate = flow.wise(width, flow.linear(width, flow.linear(low["a"], six)))
    scaled = flow.linear(width, key)
    turned = flow.wise(width, flow.linear(width, rate, scaled), scaled)
    turned = flow.graph.node(flow.size(width), key, turned, onto=(turned,))
    value = flow.linear(width, six)
    value = _value_residual(flow, layer, six, value)
    normal = flow.linear(width, flow.wise(width, key))
    minus = flow.linear(width, normal)
    plus = flow.wise(width, normal, rate)
    scanned = _scan(flow, width, receptance, decayed, turned, value, minus, plus, state)
    out = flow.wise(width, flow.linear(width, flow.linear(width, scanned)))
    bonus = flow.wise(width, flow.linear(width, turned, receptance))
    bonus = flow.linear(
        width, value, flow.linear(width // flow.spec.integer("wkv.head_size"), bonus)
    )
    out = flow.wise(width, out, bonus)
    out = flow.wise(width, out, flow.linear(width, flow.linear(low["g"], six)))
    return _channel_mix(flow, layer, flow.linear(width, out), node, (before, att), last)


def _value_residual(flow: Pass, layer: int, six: int, value: int) -> int:
    """Later layers mix in the first layer's values, which stay alive to the end."""
    if flow.first_value < 0:
        flow.first_value = value
        return value
    width = flow.width
    difference = flow.linear(width, flow.first_value, value)
    share = flow.linear(width, flow.linear(flow.shapes[layer]["time_mix_v1.weight"][1], six))
    return flow.wise(width, value, flow.wise(width, difference, share))


def _channel_mix(
    flow: Pass, layer: int, out: int, node: int, shift: tuple[int, int], last: bool
) -> int:
    width, shapes = flow.width, flow.shapes[layer]
    inner = shapes["channel_mix_key.weight"][1]
    residual = flow.linear(width, out, node)
    normed = flow.norm(residual, bias=True)
    update = _sequences(flow, shift_width(flow.spec))
    flow.graph.node(0, update, shift[1], normed)
    flow.fetch_next(layer)
    shifted = _shifted(flow, shift[0], normed)
    if last:
        residual, normed, shifted = flow.pick(residual, normed, shifted)
    delta = flow.linear(width, shifted, normed)
    opened = None
    if "channel_mix_receptance.weight" in shapes:
        mixed = flow.wise(width, flow.linear(width, delta), normed)
        opened = flow.wise(width, flow.linear(width, mixed))
    mixed = flow.wise(width, delta, normed)
    key = flow.wise(inner, flow.linear(inner, mixed))
    value = flow.linear(width, key)
    value = value if opened is None else flow.wise(width, opened, value)
    return flow.graph.node(flow.size(width), value, residual, onto=(value,))


LAYERS: Mapping[LayerGraph, _Build] = MappingProxyType(
    {
        LayerGraph.ONE_MIXER: single_layer,
        LayerGraph.HYBRID: mixed_layer,
        LayerGraph.PARALLEL_HYBRID: both_layer,
        LayerGraph.RWKV6: rwkv6_layer,
        LayerGraph.RWKV7: rwkv7_layer,
    }
)
"""Layers that are not an attention and a feed-forward part."""
