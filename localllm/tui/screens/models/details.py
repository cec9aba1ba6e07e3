"""What is known of the file under the cursor, as lines of text: what it needs, how fast it is, what
it loses and where that is published, and how much more would fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from localllm.core.policy.policy import ModelFacts
from localllm.core.quality import quality
from localllm.core.quality.published import Metric
from localllm.core.recommend import READING_TPS, FitPlan, Preferences
from localllm.core.recommend.quant_sizes import QuantSize
from localllm.core.sizing.fit import Fit
from localllm.core.sizing.placement import DeviceShare
from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration, format_rate
from localllm.policy.active import active_policy
from localllm.runtime.loading.permission import source_of
from localllm.translation import _
from localllm.tui.figures import rate_range
from localllm.tui.screens.models.cells import (
    abilities_text,
    context_text,
    verdict_sign,
    verdict_text,
)
from localllm.tui.screens.models.groups import ModelGroup, QuantRow
from localllm.tui.screens.models.sizing import RowDetails
from localllm.tui.widgets.memory_bar import SIGNS, MemoryUse

_MAX_SOURCES = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailView:
    """Everything that the details are written from; what is not known yet is None."""

    group: ModelGroup
    row: QuantRow | None
    question: Preferences
    size: QuantSize | None = None
    plan: FitPlan | None = None
    details: RowDetails | None = None
    exact: Fit | None = None
    unsupported: str | None = None
    problem: str | None = None


def short_lines(view: DetailView) -> Iterator[str]:
    """Write the details in a few lines, the most important ones first."""
    yield title_line(view)
    if (problem := _problem(view)) is not None:
        yield problem
    if view.size is not None:
        yield f"{memory_line(view.size)}   {_exact_hint(view)}".rstrip()
        yield _speed_and_context(view)
    yield quality_line(view.row, with_source=False)


def long_lines(view: DetailView) -> Iterator[str]:
    """Write all that is known, for a pane beside the list."""
    yield title_line(view)
    yield origin_line(view)
    if abilities := abilities_text(view.group.abilities):
        yield _("It {abilities}.").format(abilities=abilities)
    if (problem := _problem(view)) is not None:
        yield f"! {problem}"
    yield ""
    if view.size is not None:
        yield from _parts(view)
        yield ""
        yield from _room(view)
    plan = view.plan
    if plan is not None and view.size is not None and view.size.fits:
        yield from _speed(plan)
    yield ""
    yield quality_line(view.row, with_source=True)
    if plan is not None and plan.reasons:
        yield ""
        yield " ".join(plan.reasons)


def title_line(view: DetailView) -> str:
    group, row = view.group, view.row
    if row is None:
        return single_line(group.name)
    title = f"{single_line(group.name)} {row.quant} · {format_bytes(row.file_bytes)}"
    if row.installed is not None:
        title += " · " + _("installed as {name}").format(name=single_line(row.installed.name))
    return title


def origin_line(view: DetailView) -> str:
    group, row = view.group, view.row
    parts = [single_line(group.license) if group.license else _("licence not known")]
    if group.business is False:
        parts[0] += " " + _("(has limits for companies)")
    if row is not None and row.installed is not None:
        parts.append(single_line(str(row.installed.path)))
        if row.installed.verified_at is not None:
            parts.append(_("verified {date}").format(date=row.installed.verified_at[:10]))
    elif group.repositories:
        parts.append(single_line(group.repositories[0]))
    if group.released is not None:
        parts.append(_("published {date}").format(date=group.released.isoformat()))
    return " · ".join(parts)


def _problem(view: DetailView) -> str | None:
    if view.unsupported is not None:
        return _("The installed engine cannot run it: {why}").format(
            why=single_line(view.unsupported)
        )
    if (key := policy_key(view)) is not None:
        return _("⊘ managed by your organization: {keys}").format(keys=key)
    if view.row is not None and view.row.problem is not None:
        return single_line(view.row.problem)
    return single_line(view.problem) if view.problem is not None else None


def policy_key(view: DetailView) -> str | None:
    """Return the key of the policy that forbids this file, None for none. What only its bytes can
    decide is found out when it is fetched or loaded."""
    group, row = view.group, view.row
    installed = None if row is None else row.installed
    if installed is None and not group.repositories:
        return None
    source = group.repositories[0] if installed is None else source_of(installed)
    facts = ModelFacts(
        name=group.name,
        source=source,
        size_bytes=0 if row is None else row.file_bytes,
        license=group.license if installed is None else installed.license,
        sha256s=() if installed is None else tuple(each.sha256 for each in installed.files),
    )
    refusal = active_policy().allows_load(facts)
    unknown = None in (facts.sha256s or (None,))
    if refusal is None or (unknown and refusal.key.startswith("models.sha256")):
        return None
    return refusal.key


# --- memory ---


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSums:
    """The parts of a load over all devices, in bytes."""

    weights: int
    encoder: int
    kv: int
    compute: int
    engine: int

    def of(self, part: str) -> int:
        """Return one part by its name."""
        size_bytes: int = getattr(self, part)
        return size_bytes

    @property
    def total(self) -> int:
        return self.weights + self.encoder + self.kv + self.compute + self.engine


def part_sums(devices: Sequence[DeviceShare]) -> PartSums:
    """Sum the parts of a load over its devices."""
    return PartSums(
        weights=sum(share.weights_bytes for share in devices),
        encoder=sum(share.encoder_bytes for share in devices),
        kv=sum(share.kv_bytes for share in devices),
        compute=sum(share.compute_bytes for share in devices),
        engine=sum(share.overhead_bytes for share in devices),
    )


def memory_line(size: QuantSize) -> str:
    """Write "weights 19.3 GiB + KV 164 MiB + ... = 20.0 GiB"."""
    sums = part_sums(size.placement.devices)
    parts = [
        (_("weights"), sums.weights),
        (_("images"), sums.encoder),
        (_("KV"), sums.kv),
        (_("compute"), sums.compute),
        (_("engine"), sums.engine),
    ]
    sum_text = " + ".join(f"{name} {format_bytes(part)}" for name, part in parts if part)
    return f"{sum_text} = {format_bytes(sums.total)}"


def _parts(view: DetailView) -> Iterator[str]:
    size = view.size
    assert size is not None
    sums = part_sums(size.placement.devices)
    exact = part_sums(view.exact.placement.devices) if view.exact is not None else None
    cache = _("at {context}, {kind}").format(
        context=context_text(size.context), kind=size.kv_type.value
    )
    if view.question.parallel > 1:
        cache += " " + _("for each of {count}").format(count=view.question.parallel)
    rows = (
        (_("weights"), "weights", MemoryUse.WEIGHTS, ""),
        (_("image encoder"), "encoder", MemoryUse.WEIGHTS, ""),
        (_("KV cache"), "kv", MemoryUse.KV, cache),
        (_("compute"), "compute", MemoryUse.COMPUTE, ""),
        (_("engine"), "engine", MemoryUse.COMPUTE, ""),
    )
    for name, part, use, note in rows:
        if size_bytes := sums.of(part):
            line = f"{name:<14}{format_bytes(size_bytes):>10} {SIGNS[use]} {note}".rstrip()
            yield line if exact is None else f"{line}   = {format_bytes(exact.of(part))}"
    yield f"{_('all of it'):<14}{format_bytes(sums.total):>10}   {_exact_hint(view)}"
    for share in size.placement.devices if len(size.placement.devices) > 1 else ():
        free = _("{need} of {free} free").format(
            need=format_bytes(share.total_bytes), free=format_bytes(max(0, share.free_bytes))
        )
        yield f"  {single_line(share.name)}: {free}"


def _exact_hint(view: DetailView) -> str:
    if view.exact is not None:
        total = format_bytes(view.exact.total_bytes)
        return _("llama.cpp itself: {size}").format(size=total)
    if view.row is not None and view.row.installed is not None:
        return _("x asks llama.cpp")
    return ""


def _room(view: DetailView) -> Iterator[str]:
    size, details = view.size, view.details
    assert size is not None
    yield f"{verdict_sign(size)[0]} {verdict_text(size)}"
    if size.kv_type is not view.question.kv_type:
        yield _("Its cache cannot be {kind}: f16 is counted.").format(
            kind=view.question.kv_type.value
        )
    if details is None:
        return
    yield _("largest context that fits here: {context}").format(
        context=_or_none(details.largest_context, context_text)
    )
    yield _("people at once with {context} each: {count}").format(
        context=context_text(size.context), count=_or_none(details.most_people, str)
    )


def _or_none(value: int | None, write: Callable[[int], str]) -> str:
    if value is None:
        return _("none")
    return write(value)


# --- speed and quality ---


def _speed(plan: FitPlan) -> Iterator[str]:
    if plan.settings.embeddings:
        return
    yield _("speed: {range} tok/s, likely {likely}; you read at about {reading:.0f}").format(
        range=rate_range(plan.decode), likely=format_rate(plan.decode.likely), reading=READING_TPS
    )
    yield _("first word after {time} with a page of text").format(
        time=format_duration(plan.ttft.likely)
    )


def _speed_and_context(view: DetailView) -> str:
    size, plan, details = view.size, view.plan, view.details
    assert size is not None
    parts = [f"{verdict_sign(size)[0]} {verdict_text(size)}"]
    if plan is not None and size.fits and not plan.settings.embeddings:
        parts.append(_("{range} tok/s").format(range=rate_range(plan.decode)))
        parts.append(_("first word after {time}").format(time=format_duration(plan.ttft.likely)))
    if details is not None and details.largest_context is not None:
        parts.append(
            _("context up to {context}").format(context=context_text(details.largest_context))
        )
    if details is not None and details.most_people is not None:
        parts.append(_("{count} people at once").format(count=details.most_people))
    return " · ".join(parts)


def quality_line(row: QuantRow | None, *, with_source: bool) -> str:
    """Say what a quant loses, whether that was measured of this model, and by whom."""
    if row is None or row.candidate is None:
        return ""
    candidate = row.candidate
    lost = quality.of(candidate.quant, candidate.parameters, candidate.architecture)
    if lost is None:
        return _("What {quant} loses, nobody has published.").format(quant=row.quant)
    if lost.metric is Metric.PERPLEXITY:
        what = _("quality: {value:+.1f} % perplexity").format(value=lost.value)
    else:
        what = _("quality: {value:.3g} nats from the unquantized model").format(value=lost.value)
    how = _("interpolated from other models") if lost.interpolated else _("published")
    if not with_source:
        return f"{what}, {how}"
    source = single_line(lost.source)
    if len(source) > _MAX_SOURCES:
        source = f"{source[:_MAX_SOURCES]}…"
    return f"{what}, {how}: {source}"
