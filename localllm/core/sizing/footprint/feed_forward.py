"""The feed-forward part of a layer in the graph: dense, or a choice of experts.

After `build_ffn` and `build_moe_ffn` in `src/llama-graph.cpp` of llama.cpp b11434.
"""

from localllm.core.model.architecture import ExpertWeights
from localllm.core.sizing.footprint.forward import Pass, Shapes

_MOST_EXPERTS = 1024  # LLAMA_MAX_EXPERTS: bounds the work that a header can ask for


def feed(flow: Pass, layer: int, node: int) -> int:
    """The feed-forward part of a layer, dense or of experts."""
    shapes = flow.shapes[layer]
    if "ffn_gate_inp.weight" in shapes:
        return _experts(flow, layer, node)
    return _dense(flow, shapes, node, "")


def _dense(flow: Pass, shapes: Shapes, node: int, suffix: str) -> int:
    up_width = shapes[f"ffn_up{suffix}.weight"][1]
    inner = shapes[f"ffn_down{suffix}.weight"][0]
    if f"ffn_gate{suffix}.weight" in shapes:
        gate, up = flow.linear(inner, node), flow.linear(inner, node)
        mixed = flow.linear(inner, gate, up)
    elif up_width == 2 * inner:  # gate and up in one matrix
        mixed = flow.linear(inner, flow.linear(up_width, node))
    else:
        mixed = flow.wise(inner, flow.wise(inner, flow.linear(up_width, node)))
    out = flow.linear(flow.width, mixed)
    return flow.wise(flow.width, out) if f"ffn_down{suffix}.bias" in shapes else out


def _experts(flow: Pass, layer: int, node: int) -> int:
    """`build_moe_ffn`, then the shared experts."""
    shapes, spec = flow.shapes[layer], flow.spec
    count = shapes["ffn_gate_inp.weight"][1]
    used = min(spec.active_experts_in(layer), count, _MOST_EXPERTS)
    choice, weights = _route(flow, shapes, node, count, used)
    inner = shapes["ffn_down_exps.weight"][0]
    routed, weighted_before = node, flow.arch.expert_weights is ExpertWeights.BEFORE
    if weighted_before:
        repeated = flow.linear(flow.width * used, node)
        routed = flow.wise(flow.width * used, repeated, weights)
    mixed = _expert_product(flow, shapes, routed, choice, inner * used)
    down = flow.linear(flow.width * used, mixed, choice)
    if "ffn_down_exps.bias" in shapes:
        down = flow.wise(flow.width * used, down, choice)
    if not weighted_before:
        down = flow.wise(flow.width * used, down, weights)
    out = _sum_experts(flow, down, used)
    flow.fetch_next(layer)
    if "ffn_up_shexp.weight" not in shapes:
        return out
    shared = _dense(flow, shapes, node, "_shexp")
    if "ffn_gate_inp_shexp.weight" in shapes:
        shared = flow.wise(flow.width, shared, flow.wise(1, flow.linear(1, node)))
    return flow.wise(flow.width, out, shared)


def _route(flow: Pass, shapes: Shapes, node: int, count: int, used: int) -> tuple[int, int]:
    """Choose experts: the choice (kept until the last product) and its weights."""
    logits = flow.linear(count, node)
    if "ffn_gate_inp.bias" in shapes:
        logits = flow.wise(count, logits)
    match flow.arch.expert_weights:
        case ExpertWeights.AFTER_SOFTMAX_OF_CHOSEN:
            probabilities = chosen_by = logits
        case ExpertWeights.BEFORE:
            probabilities, chosen_by = flow.linear(count, logits), logits
        case ExpertWeights.AFTER:
            probabilities = chosen_by = flow.wise(count, logits)
    if "exp_probs_b.bias" in shapes:
        chosen_by = flow.linear(count, probabilities)
    if flow.spec.integer("expert_group_count") > 1:
        chosen_by = _grouped(flow, chosen_by, count)
    choice = flow.linear(count, chosen_by)
    weights = flow.linear(used, probabilities, choice)
    return choice, weights


def _grouped(flow: Pass, node: int, count: int) -> int:
    """Keep the experts of the best groups only (DeepSeek-V3)."""
    groups = flow.spec.integer("expert_group_count")
    order = flow.linear(count, node)
    best = flow.linear(groups, flow.linear(2 * groups, node, order))
    kept = flow.linear(groups, best)
    part = count * flow.spec.integer("expert_group_used_count") // groups
    masked = flow.linear(part, node, kept)
    return flow.graph.node(0, masked, flow.wise(count, node))


def _expert_product(flow: Pass, shapes: Shapes, node: int, choice: int, width: int) -> int:
    biased = "ffn_up_exps.bias" in shapes
    if "ffn_gate_up_exps.weight" in shapes:
        return flow.linear(width, flow.linear(2 * width, node, choice))
    if "ffn_gate_exps.weight" not in shapes:
        return flow.wise(width, flow.linear(width, node, choice))
    gate = flow.linear(width, node, choice)
    gate = flow.wise(width, gate, choice) if biased else gate
    up = flow.linear(width, node, choice)
    up = flow.wise(width, up, choice) if biased else up
    return flow.linear(width, gate, up)


def _sum_experts(flow: Pass, node: int, used: int) -> int:
    if used == 1:
        return flow.linear(flow.width, node)
    total = flow.linear(flow.width, node, node)
    for _ in range(used - 2):
        total = flow.wise(flow.width, total, node)
    return total
