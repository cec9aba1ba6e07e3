"""The evaluation of one candidate on one machine: placed and timed, with verdict and reasons."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from localllm.core.model.purpose import is_embedding_model
from localllm.core.model.spec import ModelSpec
from localllm.core.quality import quality
from localllm.core.quality.published import Metric
from localllm.core.quality.quality import Quality
from localllm.core.recommend.plan import (
    READING_TPS,
    Candidate,
    FitPlan,
    Machine,
    Preferences,
    Verdict,
)
from localllm.core.recommend.processor import processor_reasons
from localllm.core.sizing import footprint
from localllm.core.sizing.embedding import with_embedding_defaults
from localllm.core.sizing.footprint.cache import check_settings
from localllm.core.sizing.load import (
    KvType,
    LoadSettings,
    Mmproj,
    Pooling,
    Speculate,
    capped_context,
)
from localllm.core.sizing.placement import Placement, place
from localllm.core.speed import DeviceWork, Estimate, calibrated, decode_tps, ttft_s, workload_of
from localllm.core.units import format_bytes, format_duration, format_rate
from localllm.errors import UsageError
from localllm.translation import _

PROMPT_TOKENS = 512
"""The prompt that the time to the first token is estimated for."""


def evaluate(candidate: Candidate, preferences: Preferences, machine: Machine) -> FitPlan:
    """Place and time one candidate, and give the verdict."""
    spec = candidate.spec()
    settings = load_of(spec, preferences, candidate.mmproj)
    context = settings.context
    placement = place(spec, settings, machine.budget)
    shares = _work(spec, settings, placement, machine)
    hops = _hops(placement)
    decode = decode_tps(shares, depth=depth_of(context), hops=hops)
    decode = corrected(decode, machine, on_gpu=placement.gpu_layers > 0)
    verdict = Verdict.GOOD if decode.likely >= preferences.slowest_tps else Verdict.SLOW
    return FitPlan(
        candidate=candidate,
        spec=spec,
        settings=placement.applied_to(settings),
        placement=placement,
        decode=decode,
        ttft=ttft_s(shares, tokens=min(PROMPT_TOKENS, context), hops=hops),
        verdict=verdict if placement.fits else Verdict.DOES_NOT_FIT,
    )


def load_of(spec: ModelSpec, preferences: Preferences, mmproj: Mmproj | None) -> LoadSettings:
    """Return the load that a suggestion is judged by: what `serve` and `size` load when nothing
    but this is said (`runtime/load_policy.py`; a test compares them). Where llama.cpp refuses the
    preferred type of the KV cache, it is f16."""
    embeddings = is_embedding_model(spec)
    load = LoadSettings(
        graphs=preferences.graphs,
        context=capped_context(preferences.context, spec),
        parallel=preferences.parallel,
        kv_type_k=preferences.kv_type,
        kv_type_v=preferences.kv_type,
        speculate=Speculate.OFF if embeddings else Speculate.AUTO,
        embeddings=embeddings,
        mmproj=None if embeddings else mmproj,
    )
    if load.kv_type_k is not KvType.F16 and not _accepts(spec, load):
        load = replace(load, kv_type_k=KvType.F16, kv_type_v=KvType.F16)
    try:
        return with_embedding_defaults(spec, load)
    except UsageError:  # a reranker without its classifier: only another pooling loads it
        return with_embedding_defaults(spec, replace(load, pooling=Pooling.MEAN))


def _accepts(spec: ModelSpec, load: LoadSettings) -> bool:
    try:
        check_settings(spec, load)
    except UsageError:
        return False
    return True


def depth_of(context: int) -> int:
    """Return the tokens before the one that is timed: a quarter of the context is in use."""
    return context // 4


def corrected(decode: Estimate, machine: Machine, *, on_gpu: bool) -> Estimate:
    """Correct an estimate by the measurements of other models on the same side."""
    points = [point for point in machine.calibration if point.on_gpu == on_gpu]
    measured, predicted = [p.measured_tps for p in points], [p.predicted_tps for p in points]
    return calibrated(decode, measured, predicted, on_gpu=on_gpu)


def predict(spec: ModelSpec, machine: Machine, *, tokens: int) -> tuple[Estimate, bool]:
    """Estimate, uncorrected, the decode rate of an answer of `tokens` tokens after an almost empty
    prompt, as `bench` measures it; also return whether a GPU takes part."""
    settings = LoadSettings(context=max(512, 2 * tokens))
    placement = place(spec, settings, machine.budget)
    shares = _work(spec, settings, placement, machine)
    estimate = decode_tps(shares, depth=tokens // 2, hops=_hops(placement))
    return estimate, placement.gpu_layers > 0


def predict_loaded(
    spec: ModelSpec,
    settings: LoadSettings,
    placement: Placement,
    machine: Machine,
    *,
    depth: int,
) -> Estimate:
    """Estimate the decode rate of a model as it was placed, with `depth` tokens in the cache, and
    correct it by what was measured on this machine."""
    shares = _work(spec, settings, placement, machine)
    estimate = decode_tps(shares, depth=depth, hops=_hops(placement))
    return corrected(estimate, machine, on_gpu=placement.gpu_layers > 0)


def _hops(placement: Placement) -> int:
    """Count the moves of a token's state between devices: along the layers, and there and back for
    each layer whose experts are on the host."""
    layout = placement.layout
    along = sum(one != other for one, other in pairwise(layout))
    return along + 2 * placement.cpu_moe


def with_reasons(
    plan: FitPlan, preferences: Preferences, machine: Machine, group: Sequence[Candidate]
) -> FitPlan:
    """Add what only the plans that are shown need; `group` are the quants that it was chosen
    from."""
    candidate = plan.candidate
    plan = replace(
        plan,
        footprint=footprint.of(plan.spec, plan.settings),
        quality=quality.of(candidate.quant, candidate.parameters, candidate.architecture),
    )
    of_processor = processor_reasons(candidate, group, machine)
    return replace(plan, reasons=(*reasons(plan, preferences), *of_processor))


def _work(
    spec: ModelSpec,
    settings: LoadSettings,
    placement: Placement,
    machine: Machine,
) -> list[DeviceWork]:
    """Return the work of each device that holds layers or experts for one token."""
    speeds = (*machine.gpus, machine.host) if len(placement.devices) > 1 else (machine.host,)
    shares = []
    for i, speed in enumerate(speeds):

        def holds(layer: int | None, expert: bool, i: int = i) -> bool:
            return placement.device_of(layer, expert=expert) == i

        def caches(layer: int, i: int = i) -> bool:
            return placement.layout[layer] == i

        work = workload_of(spec, settings, holds=holds, cache_layers=caches)
        if work.weights:
            shares.append(DeviceWork(device=speed, work=work))
    return shares


def reasons(plan: FitPlan, preferences: Preferences) -> Iterable[str]:
    """Yield the sentences for and against a plan."""
    spare = min(share.free_bytes - share.total_bytes for share in plan.placement.devices)
    if spare >= 0:
        yield _("Fits with {size} to spare.").format(size=format_bytes(spare))
    else:
        lacking = min(
            plan.placement.devices, key=lambda share: share.free_bytes - share.total_bytes
        )
        yield _("Needs {size} more on {device}.").format(
            size=format_bytes(-spare), device=lacking.name
        )
    candidate = plan.candidate
    if plan.settings.embeddings:
        yield _("A text of {count} tokens takes about {time}.").format(
            count=PROMPT_TOKENS, time=format_duration(plan.ttft.likely)
        )
    else:
        yield _speed_words(plan.decode, preferences)
    if plan.settings.mmproj is not None:
        size = format_bytes(plan.settings.mmproj.size_bytes)
        yield _("{size} of it are for its image encoder.").format(size=size)
    if plan.spec.experts:
        share = candidate.active_parameters / candidate.parameters
        yield _("A mixture of experts: each token uses {share:.0%} of the weights.").format(
            share=share
        )
    if plan.placement.cpu_moe:
        yield _("The experts of {count} layers stay in system memory.").format(
            count=plan.placement.cpu_moe
        )
    elif 0 < plan.placement.gpu_layers < len(plan.placement.layout):
        yield _(
            "{gpu_layers} of {layers} layers are on the GPU; the rest runs on the processor."
        ).format(gpu_layers=plan.placement.gpu_layers, layers=len(plan.placement.layout))
    if plan.quality is not None:
        yield _quality_words(candidate, plan.quality)
    yield from candidate.caveats
    for doubt in plan.footprint.needs_probe if plan.footprint else ():
        yield _("The memory is an estimate: {doubt}.").format(doubt=doubt)


def _speed_words(decode: Estimate, preferences: Preferences) -> str:
    likely = format_rate(decode.likely)
    if decode.likely >= preferences.slowest_tps:
        times = decode.likely / READING_TPS
        if times >= 1.5:
            text = _("About {rate}: {times:.1f} times reading speed.")
            return text.format(rate=likely, times=times)
        return _("About {rate}: about reading speed.").format(rate=likely)
    return _("About {rate}: slower than the {wanted:g} tok/s that were asked for.").format(
        rate=likely, wanted=preferences.slowest_tps
    )


def _quality_words(candidate: Candidate, lost: Quality) -> str:
    knee = quality.knee(candidate.parameters, candidate.architecture)
    what = (
        _("{quant} changes perplexity by {value:+.1f} %")
        if lost.metric is Metric.PERPLEXITY
        else _("{quant} is {value:.3g} nats from the unquantized model")
    ).format(quant=candidate.quant, value=lost.value)
    where = _("interpolated from published models") if lost.interpolated else _("published")
    at = _("; the knee of the quality curve") if candidate.quant == knee else ""
    return f"{what} ({where}){at}."
