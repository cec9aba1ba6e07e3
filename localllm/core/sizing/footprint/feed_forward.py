"""The feed-forward part of a layer in the graph: dense, or a choice of experts.

After `build_ffn` and `build_moe_ffn` in `src/llama-graph.cpp` of llama.cpp b11434.
"""

from localllm.core.model.architecture import ExpertWeights
from localllm.core.sizing.footprint.forward import GraphContext, Shapes

_MOST_EXPERTS = 1024  # LLAMA_MAX_EXPERTS: bounds the work that a header can ask for


def feed_forward(ctx: GraphContext, layer: int, node: int) -> int:
    """Add the feed-forward part of a layer, dense or of experts."""
    shapes = ctx.shapes[layer]
    if "ffn_gate_inp.weight" in shapes:
        return _experts(ctx, layer, node)
    return _dense(ctx, shapes, node, "")


def _dense(ctx: GraphContext, shapes: Shapes, node: int, suffix: str) -> int:
    up_width = shapes[f"ffn_up{suffix}.weight"][1]
    inner = shapes[f"ffn_down{suffix}.weight"][0]
    if f"ffn_gate{suffix}.weight" in shapes:
        gate, up = ctx.linear(inner, node), ctx.linear(inner, node)
        mixed = ctx.linear(inner, gate, up)
    elif up_width == 2 * inner:  # gate and up in one matrix
        mixed = ctx.linear(inner, ctx.linear(up_width, node))
    else:
        mixed = ctx.elementwise(inner, ctx.elementwise(inner, ctx.linear(up_width, node)))
    out = ctx.linear(ctx.width, mixed)
    return ctx.elementwise(ctx.width, out) if f"ffn_down{suffix}.bias" in shapes else out


def _experts(ctx: GraphContext, layer: int, node: int) -> int:
    """Add the routed experts (`build_moe_ffn`), then the shared ones."""
    shapes, spec = ctx.shapes[layer], ctx.spec
    count = shapes["ffn_gate_inp.weight"][1]
    used = min(spec.active_experts_in(layer), count, _MOST_EXPERTS)
    choice, weights = _route(ctx, shapes, node, count, used)
    inner = shapes["ffn_down_exps.weight"][0]
    routed, weighted_before = node, ctx.arch.expert_weights is ExpertWeights.BEFORE
    if weighted_before:
        repeated = ctx.linear(ctx.width * used, node)
        routed = ctx.elementwise(ctx.width * used, repeated, weights)
    mixed = _expert_product(ctx, shapes, routed, choice, inner * used)
    down = ctx.linear(ctx.width * used, mixed, choice)
    if "ffn_down_exps.bias" in shapes:
        down = ctx.elementwise(ctx.width * used, down, choice)
    if not weighted_before:
        down = ctx.elementwise(ctx.width * used, down, weights)
    out = _sum_experts(ctx, down, used)
    ctx.gather_next(layer)
    if "ffn_up_shexp.weight" not in shapes:
        return out
    shared = _dense(ctx, shapes, node, "_shexp")
    if "ffn_gate_inp_shexp.weight" in shapes:
        shared = ctx.elementwise(ctx.width, shared, ctx.elementwise(1, ctx.linear(1, node)))
    return ctx.elementwise(ctx.width, out, shared)


def _route(ctx: GraphContext, shapes: Shapes, node: int, count: int, used: int) -> tuple[int, int]:
    """Add the router. Returns the choice, which lives until the last product, and its weights."""
    logits = ctx.linear(count, node)
    if "ffn_gate_inp.bias" in shapes:
        logits = ctx.elementwise(count, logits)
    match ctx.arch.expert_weights:
        case ExpertWeights.AFTER_SOFTMAX_OF_CHOSEN:
            probabilities = chosen_by = logits
        case ExpertWeights.BEFORE:
            probabilities, chosen_by = ctx.linear(count, logits), logits
        case ExpertWeights.AFTER:
            probabilities = chosen_by = ctx.elementwise(count, logits)
    if "exp_probs_b.bias" in shapes:
        chosen_by = ctx.linear(count, probabilities)
    if ctx.spec.integer("expert_group_count") > 1:
        chosen_by = _grouped(ctx, chosen_by, count)
    choice = ctx.linear(count, chosen_by)
    weights = ctx.linear(used, probabilities, choice)
    return choice, weights


def _grouped(ctx: GraphContext, node: int, count: int) -> int:
    """Mask the experts of all but the best groups (DeepSeek-V3)."""
    groups = ctx.spec.integer("expert_group_count")
    order = ctx.linear(count, node)
    best = ctx.linear(groups, ctx.linear(2 * groups, node, order))
    chosen = ctx.linear(groups, best)
    experts = count * ctx.spec.integer("expert_group_used_count") // groups
    masked = ctx.linear(experts, node, chosen)
    return ctx.graph.node(0, masked, ctx.elementwise(count, node))


def _expert_product(ctx: GraphContext, shapes: Shapes, node: int, choice: int, width: int) -> int:
    biased = "ffn_up_exps.bias" in shapes
    if "ffn_gate_up_exps.weight" in shapes:
        return ctx.linear(width, ctx.linear(2 * width, node, choice))
    if "ffn_gate_exps.weight" not in shapes:
        return ctx.elementwise(width, ctx.linear(width, node, choice))
    gate = ctx.linear(width, node, choice)
    gate = ctx.elementwise(width, gate, choice) if biased else gate
    up = ctx.linear(width, node, choice)
    up = ctx.elementwise(width, up, choice) if biased else up
    return ctx.linear(width, gate, up)


def _sum_experts(ctx: GraphContext, node: int, used: int) -> int:
    if used == 1:
        return ctx.linear(ctx.width, node)
    total = ctx.linear(ctx.width, node, node)
    for _ in range(used - 2):
        total = ctx.elementwise(ctx.width, total, node)
    return total
