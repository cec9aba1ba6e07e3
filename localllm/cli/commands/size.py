"""`localllm size`: the memory one model needs, by our estimate and by llama.cpp's dry run."""

import asyncio
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.hub_client import open_hub
from localllm.cli.output import info, literal, print_json, stdout, warn
from localllm.cli.size_report import (
    Capacity,
    Training,
    capacity_of,
    print_capacity,
    print_rules,
    print_training,
    rules_for,
)
from localllm.core.gguf.writer import header_bytes
from localllm.core.model.spec import ModelSpec
from localllm.core.quality.published import CacheQuality
from localllm.core.quality.quality import cache_loss, cache_quality
from localllm.core.sizing.finetune import Method
from localllm.core.sizing.fit import Fit, fit_in
from localllm.core.sizing.footprint import PARTS, Footprint
from localllm.core.sizing.host_cache import planned_limit
from localllm.core.sizing.load import Allocation, BufferKind, LoadSettings
from localllm.core.sizing.placement import DeviceShare, budget_of
from localllm.core.units import format_bytes
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import ProbeRequest
from localllm.errors import ExitCode, UsageError
from localllm.library.files import paths
from localllm.library.files import settings as user_settings
from localllm.library.store.store import Store
from localllm.machine.mounts import network_filesystem
from localllm.runtime.engines import requested
from localllm.runtime.find_model import ModelQuery, SizedModel, find_model, read_model
from localllm.runtime.load_plan import read_companions
from localllm.runtime.load_policy import (
    LoadChoice,
    choice_for_model,
    context_warnings,
    load_settings,
    loads_for_embeddings,
)
from localllm.runtime.local_machine import likely_graphs, machine_now


@click.command()
@click.argument("model", shell_complete=model_names)
@click.option("--quant", metavar="QUANT",
              help="Quant of a model that is not here (default Q4_K_M).")  # fmt: skip
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a repository.")
@options.load_options(
    options.CONTEXT,
    options.PARALLEL,
    options.KV_TYPE,
    options.BATCH,
    options.UBATCH,
    options.GPU_LAYERS,
    options.CPU_MOE,
    options.NO_KV_OFFLOAD,
    options.CACHE_RAM,
    options.FLASH_ATTENTION,
    options.SWA_FULL,
    options.SPECULATE,
    options.DRAFT,
    options.LORA,
    *options.ROPE,
    options.THREADS,
    options.MMAP,
    click.option(
        "--embeddings", is_flag=True, callback=options.true_or_none,
        help="Of a load for embeddings, as an embedding model's is in any case.",
    ),
    base=LoadChoice(),
)  # fmt: skip
@click.option("--finetune", type=click.Choice([method.value for method in Method]),
              help="Also say what fine-tuning would need.")  # fmt: skip
@click.option("--rank", type=click.IntRange(1, 65_536), metavar="R",
              help="Rank of the adapters of --finetune lora and qlora (default 16).")  # fmt: skip
@click.option("--train-batch", type=click.IntRange(1, 65_536), metavar="B",
              help="Sequences at once for --finetune (default 1).")  # fmt: skip
@click.option("--seq", type=click.IntRange(1, options.MAX_CONTEXT), metavar="S",
              help="Tokens of a training sequence for --finetune (default 2048).")  # fmt: skip
@click.option("--exact", is_flag=True, help="Ask llama.cpp itself (a dry run; nothing is loaded).")
@options.OFFLINE
@options.JSON
def command(
    model: str,
    quant: str | None,
    revision: str | None,
    choice: LoadChoice,
    finetune: str | None,
    rank: int | None,
    train_batch: int | None,
    seq: int | None,
    exact: bool,
    offline: bool,
    as_json: bool,
) -> int:
    """The memory MODEL needs: a GGUF file, an installed model, a catalogue name[:QUANT], or a
    repository of the Hub, ORG/REPO[:QUANT], of which only the header is read."""
    training = _training(finetune, rank, train_batch, seq)
    query = ModelQuery(model=model, quant=quant, revision=revision)
    store = Store.default()
    sized = read_model(find_model(query, store), query, partial(open_hub, offline=offline))
    companions = read_companions(choice, sized.spec, resolve=store.resolve)
    if not loads_for_embeddings(choice, sized.spec):
        companions = replace(companions, mmproj=sized.mmproj)
    if choice.mmap is None and sized.path is not None and network_filesystem(sized.path):
        companions = replace(companions, maps_slowly=True)
    user = user_settings.load()
    choice = choice_for_model(choice, sized.name, user)
    settings = load_settings(choice, sized.spec, user, companions)
    report = _report(sized, settings, training, draft=companions.draft, exact=exact)
    report = replace(report, warnings=context_warnings(choice, sized.spec, settings, sized.name))
    print_json(document(report)) if as_json else _print(report)
    return ExitCode.OK


def _training(
    method: str | None, rank: int | None, batch: int | None, sequence: int | None
) -> Training | None:
    """Fill in the options of a fine-tune. Raises UsageError for one without --finetune."""
    given = {"--rank": rank, "--train-batch": batch, "--seq": sequence}
    if method is None:
        stray = [name for name, value in given.items() if value is not None]
        if stray:
            raise UsageError(f"{stray[0]} belongs to --finetune full, lora or qlora.")
        return None
    return Training(
        method=Method(method), rank=rank or 16, batch=batch or 1, sequence=sequence or 2048
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeReport:
    """Everything that `size` prints of one model. `host_cache_bytes`: what conversations without a
    slot may take of the memory that stays free."""

    model: SizedModel
    fit: Fit
    capacity: Capacity
    host_cache_bytes: int
    training: Training | None = None
    exact: Footprint | None = None
    warnings: tuple[str, ...] = ()


def _report(
    model: SizedModel,
    settings: LoadSettings,
    training: Training | None,
    *,
    draft: ModelSpec | None,
    exact: bool,
) -> SizeReport:
    """Size the load on this machine as it is now; `exact`: by llama.cpp's dry run too."""
    settings = replace(settings, graphs=likely_graphs())
    hardware = machine_now()
    free = budget_of(hardware, reserve_bytes=user_settings.load().reserve_bytes)
    fit = fit_in(model.spec, settings, free, draft)
    host = fit.placement.host
    return SizeReport(
        model=model,
        fit=fit,
        capacity=capacity_of(model, settings, free, draft),
        host_cache_bytes=planned_limit(
            fit.settings, hardware.ram.total_bytes, host.free_bytes - host.total_bytes
        ),
        training=training,
        exact=asyncio.run(_probe(model, fit)) if exact else None,
    )


def document(report: SizeReport) -> dict[str, object]:
    """Return what `size --json` prints."""
    spec, fit, exact = report.model.spec, report.fit, report.exact
    printed: dict[str, object] = {
        "name": report.model.name,
        "quant": report.model.quant,
        "note": report.model.note,
        "warnings": list(report.warnings),
        "context": fit.settings.context,
        "parallel": fit.settings.parallel,
        "model": {
            "architecture": spec.architecture,
            "parameters": spec.parameters,
            "active_parameters": spec.active_parameters,
            "layers": spec.layers,
            "context_train": spec.context_train,
        },
        "footprint": asdict(fit.footprint) | {"total_bytes": fit.footprint.total_bytes},
        "host_cache_bytes": report.host_cache_bytes,
        "gpu_layers": fit.settings.gpu_layers,
        "cpu_moe": fit.settings.cpu_moe,
        "devices": [_device(share) for share in fit.placement.devices],
        "fits": fit.fits,
        "advice": fit.advice,
        "limits": asdict(report.capacity),
        "cache_quality": [asdict(row) for row in _cache_quality(report)],
        "rules_of_thumb": [asdict(each) for each in rules_for(spec, fit)],
    }
    if fit.draft is not None:
        printed["draft"] = asdict(fit.draft) | {"total_bytes": fit.draft.total_bytes}
    if report.training is not None:
        printed["finetune"] = report.training.document(spec)
    if exact is not None:
        parts = {part.field: part.bytes_in(exact) for part in PARTS}
        printed["exact"] = parts | {"total_bytes": exact.total_bytes}
        printed["error_percent"] = error_percent(fit, exact)
    return printed


def _cache_quality(report: SizeReport) -> tuple[CacheQuality, ...]:
    """Look up what was published of this cache type on models of this family."""
    settings = report.fit.settings
    family, keys, values = report.model.spec.architecture, settings.kv_type_k, settings.kv_type_v
    return cache_quality(family, keys, values) if cache_loss(family, keys, values) else ()


def _device(share: DeviceShare) -> dict[str, object]:
    return {
        "name": share.name,
        "layers": share.layers,
        "weights_bytes": share.weights_bytes,
        "kv_bytes": share.kv_bytes,
        "compute_bytes": share.compute_bytes,
        "overhead_bytes": share.overhead_bytes,
        "encoder_bytes": share.encoder_bytes,
        "total_bytes": share.total_bytes,
        "free_bytes": share.free_bytes,
        "fits": share.fits,
    }


def error_percent(fit: Fit, exact: Footprint) -> float:
    """Compare the estimate's total with the dry run's, in percent; positive: too much."""
    return (fit.footprint.total_bytes / exact.total_bytes - 1) * 100


async def _probe(model: SizedModel, fit: Fit) -> Footprint:
    """Let llama.cpp size the load. A model that is not on this disk is written as a header without
    data, which a dry run opens like the real file."""
    engine = ProcessEngine(
        log_dir=paths.log_dir(), verdicts=paths.engine_verdicts_file(), requested=requested()
    )
    with tempfile.TemporaryDirectory(prefix="localllm-size-") as directory:
        path = model.path
        if path is None:
            path = Path(directory) / "header.gguf"
            path.write_bytes(header_bytes(model.spec))
        try:
            answer = await engine.probe(ProbeRequest(path=str(path), settings=fit.settings))
        finally:
            await engine.close()
    return dry_run_of(fit, answer.allocations)


def dry_run_of(fit: Fit, allocations: tuple[Allocation, ...]) -> Footprint:
    """Sum the dry run's buffers as a footprint; parts that it has not are the estimate's."""
    sums = dict.fromkeys(BufferKind, 0)
    for buffer in allocations:
        sums[buffer.kind] += buffer.size_bytes
    counted = {part.field: sums[part.kind] for part in PARTS if part.in_dry_run and part.kind}
    return replace(fit.footprint, needs_probe=(), **counted)


def _print(report: SizeReport) -> None:
    console, spec, fit = stdout(), report.model.spec, report.fit
    _print_model(console, report)
    console.print(_table(fit, report.exact))
    if report.exact is not None:
        console.print(
            f"The estimate is {error_percent(fit, report.exact):+.2f} % off llama.cpp's dry run."
        )
    if fit.draft is not None:
        console.print(
            f"The draft model needs {format_bytes(fit.draft.total_bytes)} beside it, which are "
            "kept free on each device."
        )
    for share in fit.placement.devices:
        _print_share(console, share)
    if report.host_cache_bytes:
        console.print(
            f"Conversations beyond the first {fit.settings.parallel} may take up to "
            f"{format_bytes(report.host_cache_bytes)} of what stays free, as long as nobody else "
            "needs it."
        )
    if fit.advice is not None:
        console.print(fit.advice)
    _print_cache_loss(console, report)
    print_capacity(console, report.capacity, fit.settings, spec)
    if report.training is not None:
        print_training(console, report.training, spec)
    print_rules(console, spec, fit)
    if report.model.note is not None:
        info(f"Note: {report.model.note}", fg="yellow")
    for warning in report.warnings:
        warn(warning)
    if report.exact is None:
        for doubt in fit.footprint.needs_probe:
            info(f"Note: {doubt}. --exact asks llama.cpp.", fg="yellow")


def _print_cache_loss(console: Console, report: SizeReport) -> None:
    settings = report.fit.settings
    loss = cache_loss(report.model.spec.architecture, settings.kv_type_k, settings.kv_type_v)
    if loss is None:
        return
    console.print(literal(loss))
    for source in dict.fromkeys(row.source for row in _cache_quality(report)):
        console.print(literal(f"source: {source}", style="dim"))


def _print_model(console: Console, report: SizeReport) -> None:
    model, fit, spec = report.model, report.fit, report.model.spec
    title = f"{model.name} {model.quant or ''}".strip()
    console.print(literal(title, style="bold"))
    active = f" ({spec.active_parameters / 1e9:.2f} B active)" if spec.experts else ""
    console.print(
        f"{spec.architecture}, {spec.parameters / 1e9:.2f} B parameters{active}, "
        f"{spec.layers} layers; {fit.settings.context} tokens of context "
        f"x {fit.settings.parallel}, trained for {spec.context_train}",
        style="dim",
    )


def _table(fit: Fit, exact: Footprint | None) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("estimate", justify="right")
    if exact is not None:
        table.add_column("llama.cpp", justify="right")
    columns = [fit.footprint] if exact is None else [fit.footprint, exact]
    for part in PARTS:
        if part.kind is BufferKind.ADAPTERS and not fit.footprint.adapter_bytes:
            continue  # most loads have none
        table.add_row(part.label, *(format_bytes(part.bytes_in(column)) for column in columns))
    table.add_row("total", *(format_bytes(each.total_bytes) for each in columns), style="bold")
    return table


def _print_share(console: Console, share: DeviceShare) -> None:
    verdict = "fits" if share.fits else "does not fit"
    if share.exceeds_max_buffer:
        verdict += f" ({format_bytes(share.largest_buffer_bytes)} in one piece is too much)"
    layers = f", {share.layers} layers" if share.layers else ""
    console.print(
        literal(
            f"{share.name}: {format_bytes(share.total_bytes)} of "
            f"{format_bytes(max(0, share.free_bytes))} free{layers}: {verdict}",
            style="green" if share.fits else "red",
        )
    )
