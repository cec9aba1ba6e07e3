"""The reasons for and against a plan, in sentences."""

from collections.abc import Iterable

from localllm.core.quality import quality
from localllm.core.quality.published import Metric
from localllm.core.quality.quality import Quality
from localllm.core.recommend.plan import READING_TPS, Candidate, FitPlan, Preferences
from localllm.core.speed import Estimate
from localllm.core.units import format_bytes, format_rate


def reasons(plan: FitPlan, preferences: Preferences) -> Iterable[str]:
    """Yield the sentences for and against a plan."""
    spare = min(share.free_bytes - share.total_bytes for share in plan.placement.devices)
    if spare >= 0:
        yield f"Fits with {format_bytes(spare)} to spare."
    else:
        lacking = min(
            plan.placement.devices, key=lambda share: share.free_bytes - share.total_bytes
        )
        yield f"Needs {format_bytes(-spare)} more on {lacking.name}."
    yield _speed_words(plan.decode, preferences)
    candidate = plan.candidate
    if candidate.active_parameters < candidate.parameters:
        share = candidate.active_parameters / candidate.parameters
        yield f"A mixture of experts: each token uses {share:.0%} of the weights."
    if plan.placement.cpu_moe:
        yield f"The experts of {plan.placement.cpu_moe} layers stay in system memory."
    elif 0 < plan.placement.gpu_layers < len(plan.placement.layout):
        yield (
            f"{plan.placement.gpu_layers} of {len(plan.placement.layout)} layers are on the GPU; "
            "the rest runs on the processor."
        )
    if plan.quality is not None:
        yield _quality_words(candidate, plan.quality)
    yield from candidate.caveats
    for doubt in plan.footprint.needs_probe if plan.footprint else ():
        yield f"The memory is an estimate: {doubt}."


def _speed_words(decode: Estimate, preferences: Preferences) -> str:
    likely = format_rate(decode.likely)
    if decode.likely >= preferences.slowest_tps:
        times = decode.likely / READING_TPS
        pace = f"{times:.1f} times reading speed" if times >= 1.5 else "about reading speed"
        return f"About {likely}: {pace}."
    return f"About {likely}: slower than the {preferences.slowest_tps:g} tok/s that were asked for."


def _quality_words(candidate: Candidate, lost: Quality) -> str:
    knee = quality.knee(candidate.parameters, candidate.architecture)
    what = (
        f"{candidate.quant} changes perplexity by {lost.value:+.1f} %"
        if lost.metric is Metric.PERPLEXITY
        else f"{candidate.quant} is {lost.value:.3g} nats from the unquantized model"
    )
    where = "interpolated from published models" if lost.interpolated else "published"
    at = "; the knee of the quality curve" if candidate.quant == knee else ""
    return f"{what} ({where}){at}."
