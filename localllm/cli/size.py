"""`localllm size`: the memory one model needs, estimated from its header, or asked of llama.cpp."""

import asyncio
from dataclasses import asdict, dataclass

import click
from rich.table import Table

from localllm.cli import options
from localllm.cli.machine_now import machine_now
from localllm.cli.output import outside, print_json, stderr, stdout
from localllm.cli.target import Target, find_target
from localllm.core.fit import Fit, weigh
from localllm.core.load import Allocation, BufferKind, FlashAttention, KvType, LoadSettings
from localllm.core.units import format_bytes
from localllm.engine.client import ProcessEngine
from localllm.engine.events import ProbeRequest
from localllm.errors import ExitCode, UsageError
from localllm.library import paths
from localllm.library.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """What llama.cpp's own dry run says, in the parts of a footprint.

    Weights and overhead are not part of a dry run: they are the estimate's.
    """

    weights_bytes: int
    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(asdict(self).values())


@click.command()
@click.argument("model")
@click.option("--quant", metavar="QUANT", help="Quant of a catalogue model (default Q4_K_M).")
@options.CONTEXT
@options.PARALLEL
@options.KV_TYPE
@options.BATCH
@options.UBATCH
@options.GPU_LAYERS
@click.option("--cpu-moe", type=click.IntRange(0, 10_000), default=0, metavar="N",
              help="Keep the experts of the first N layers in system memory.")  # fmt: skip
@options.FLASH_ATTENTION
@options.SWA_FULL
@click.option("--exact", is_flag=True, help="Ask llama.cpp itself (a dry run; nothing is loaded).")
@options.JSON
def command(
    model: str,
    quant: str | None,
    context: int | None,
    parallel: int,
    kv_type: str,
    batch: int,
    ubatch: int,
    gpu_layers: int | None,
    cpu_moe: int,
    flash_attn: str,
    swa_full: bool,
    exact: bool,
    as_json: bool,
) -> int:
    """The memory MODEL needs: a GGUF file, an installed model, or a catalogue name[:QUANT]."""
    target = find_target(Store.default(), model, quant)
    settings = LoadSettings(
        context=context or options.default_context(target.spec),
        parallel=parallel,
        kv_type_k=KvType(kv_type),
        kv_type_v=KvType(kv_type),
        batch=batch,
        ubatch=min(ubatch, batch),
        gpu_layers=gpu_layers,
        cpu_moe=cpu_moe,
        flash_attention=FlashAttention(flash_attn),
        swa_full=swa_full,
    )
    fit = weigh(target.spec, settings, machine_now())
    answer = asyncio.run(_probe(target, fit)) if exact else None
    if as_json:
        print_json(document(target, fit, answer))
    else:
        _print(target, fit, answer)
    return ExitCode.OK


def document(target: Target, fit: Fit, exact: Exact | None) -> dict[str, object]:
    """What `size --json` prints."""
    spec = target.spec
    found: dict[str, object] = {
        "name": target.name,
        "quant": target.quant,
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
        "devices": [
            {
                "name": share.name,
                "weights_bytes": share.weights_bytes,
                "kv_bytes": share.kv_bytes,
                "compute_bytes": share.compute_bytes,
                "overhead_bytes": share.overhead_bytes,
                "total_bytes": share.total_bytes,
                "free_bytes": share.free_bytes,
                "fits": share.fits,
            }
            for share in fit.placement.devices
        ],
        "fits": fit.fits,
        "advice": fit.advice,
    }
    if exact is not None:
        found["exact"] = asdict(exact) | {"total_bytes": exact.total_bytes}
        found["error_percent"] = error_percent(fit, exact)
    return found


def error_percent(fit: Fit, exact: Exact) -> float:
    """How far the estimate is from the dry run, of the total, in percent; positive: too much."""
    return (fit.footprint.total_bytes / exact.total_bytes - 1) * 100


async def _probe(target: Target, fit: Fit) -> Exact:
    if target.path is None:
        raise UsageError(
            f"{target.name} is not on this disk, and --exact needs its header. "
            "Name a GGUF file or an installed model."
        )
    engine = ProcessEngine(log_dir=paths.log_dir())
    try:
        answer = await engine.probe(ProbeRequest(path=str(target.path), settings=fit.settings))
    finally:
        await engine.close()
    return exact_of(fit, answer.allocations)


def exact_of(fit: Fit, allocations: tuple[Allocation, ...]) -> Exact:
    """The dry run's buffers as the parts of a footprint."""
    sums = dict.fromkeys(BufferKind, 0)
    for part in allocations:
        sums[part.kind] += part.size_bytes
    return Exact(
        weights_bytes=fit.footprint.weights_bytes,
        kv_bytes=sums[BufferKind.KV],
        recurrent_bytes=sums[BufferKind.RECURRENT],
        compute_bytes=sums[BufferKind.COMPUTE],
        output_bytes=sums[BufferKind.OUTPUT],
        overhead_bytes=fit.footprint.overhead_bytes,
    )


_PARTS = (
    ("weights", "weights_bytes"),
    ("KV cache", "kv_bytes"),
    ("recurrent state", "recurrent_bytes"),
    ("compute", "compute_bytes"),
    ("output", "output_bytes"),
    ("overhead", "overhead_bytes"),
)


def _print(target: Target, fit: Fit, exact: Exact | None) -> None:
    console, spec = stdout(), target.spec
    title = f"{target.name} {target.quant or ''}".strip()
    console.print(outside(title, style="bold"))
    active = f" ({spec.active_parameters / 1e9:.2f} B active)" if spec.experts else ""
    console.print(
        f"{spec.architecture}, {spec.parameters / 1e9:.2f} B parameters{active}, "
        f"{spec.layers} layers; {fit.settings.context} tokens of context "
        f"x {fit.settings.parallel}, trained for {spec.context_train}",
        style="dim",
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("estimate", justify="right")
    if exact is not None:
        table.add_column("llama.cpp", justify="right")
    for label, name in _PARTS:
        row = [label, format_bytes(getattr(fit.footprint, name))]
        table.add_row(*row, *([] if exact is None else [format_bytes(getattr(exact, name))]))
    total = ["total", format_bytes(fit.footprint.total_bytes)]
    table.add_row(
        *total, *([] if exact is None else [format_bytes(exact.total_bytes)]), style="bold"
    )
    console.print(table)
    if exact is not None:
        console.print(
            f"The estimate is {error_percent(fit, exact):+.2f} % off llama.cpp's dry run."
        )
    for share in fit.placement.devices:
        verdict = "fits" if share.fits else "does not fit"
        console.print(
            f"{share.name}: {format_bytes(share.total_bytes)} of "
            f"{format_bytes(max(0, share.free_bytes))} free: {verdict}",
            style="green" if share.fits else "red",
        )
    for doubt in fit.footprint.needs_probe:
        stderr().print(f"Note: {doubt}. --exact asks llama.cpp.", style="yellow")
    if fit.advice is not None:
        console.print(fit.advice)
