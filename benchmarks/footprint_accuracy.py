"""Print the estimate beside llama.cpp: its dry run over a grid of loads of forged headers, and the
cache sizes that its users published. `python -m benchmarks.footprint_accuracy`; Markdown out.
"""

import ast
import csv
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

from localllm.core.model.spec import MetadataValue, ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.footprint.cache import kv_bytes, recurrent_bytes
from localllm.core.sizing.load import FlashAttention, KvType, LoadSettings
from localllm.errors import UsageError
from tests.core.dry_run import dry_runs
from tests.core.forge import Forged, spec, write
from tests.core.forge_catalogue import catalogued
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

MODELS: tuple[Forged, ...] = (*EVERY_ATTENTION, *EVERY_RECURRENT, *catalogued())
PUBLISHED = Path(__file__).parent / "data" / "llamacpp_allocations.csv"
MIB = 2**20
PRINTED_MIB = 0.011  # llama.cpp prints two decimals, once or twice


def grid() -> Iterator[LoadSettings]:
    shapes = ((512, 1), (4096, 1), (4096, 4), (1000, 3), (32768, 1))
    types = ((KvType.F16, KvType.F16), (KvType.Q8_0, KvType.Q8_0), (KvType.Q8_0, KvType.F16),
             (KvType.BF16, KvType.BF16), (KvType.Q4_0, KvType.Q4_0))  # fmt: skip
    for (context, parallel), ubatch, (key, value) in product(shapes, (128, 512), types):
        yield LoadSettings(
            context=context, parallel=parallel, ubatch=ubatch, kv_type_k=key, kv_type_v=value
        )
    base = LoadSettings()
    yield replace(base, flash_attention=FlashAttention.OFF)
    yield replace(base, flash_attention=FlashAttention.OFF, parallel=4, context=2048)
    yield replace(base, swa_full=True, context=16384)
    yield replace(base, ubatch=2048, context=8192)
    yield replace(base, parallel=4, kv_unified=True)
    for kind in (KvType.F32, KvType.Q4_1, KvType.Q5_0, KvType.Q5_1, KvType.IQ4_NL):
        yield replace(base, kv_type_k=kind, kv_type_v=kind)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def forged_rows(forged: Forged, path: Path) -> str:
    """One line of the table: the worst difference of each part over the grid."""
    known, loads, estimates = spec(forged), [], []
    for load in grid():
        try:
            estimates.append(footprint.of(known, load))
            loads.append(load)
        except UsageError:
            continue  # llama.cpp refuses it too; the tests say which
    cache = compute = total = 0.0
    sized = 0
    for estimate, sizes in zip(estimates, dry_runs((path, load) for load in loads), strict=True):
        if isinstance(sizes, str):
            continue
        sized += 1
        ours = estimate.kv_bytes + estimate.recurrent_bytes
        theirs = sizes.get("kv", 0) + sizes.get("recurrent", 0)
        cache = max(cache, abs(ours - theirs) / MIB)
        off = estimate.compute_bytes - sizes["compute"]
        compute = max(compute, abs(off) / sizes["compute"])
        total = max(total, abs(off + ours - theirs) / (estimate.weights_bytes + theirs))
    equal = "equal" if cache <= PRINTED_MIB else f"{cache:.2f} MiB"
    mark = "needs the probe" if estimates[0].needs_probe else ""
    return (
        f"| {forged.name} | {forged.architecture} | {sized} of {len(loads)} | {equal} "
        f"| {compute:.2%} | {total:.2%} | {mark} |"
    )


def forge_table() -> None:
    say("| model | architecture | loads sized | cache and state | compute, worst | sum, worst | |")
    say("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        for forged in MODELS:
            path = Path(directory) / f"{forged.name}.gguf"
            write(forged, path)
            say(forged_rows(forged, path))
            path.unlink()


def published_spec(row: dict[str, str]) -> ModelSpec:
    """The few header numbers that a row states; layers of one kind stand together."""
    full = ast.literal_eval(row["kv_layers_heads_k_v"] or "()")
    sliding = ast.literal_eval(row["swa_layers_heads_k_v_window"] or "()")
    state = ast.literal_eval(row["rec_layers_conv_inner_state_group"] or "()")
    heads = (full or sliding)[1]
    layers = [sum(part[:1]) for part in (full, sliding, state)]
    keys: dict[str, MetadataValue] = {
        "block_count": sum(layers),
        "embedding_length": int(row["n_embd"]),
        "attention.head_count": int(row["n_head"]),
        "attention.head_count_kv": heads,
        "attention.key_length": full[2],
        "attention.value_length": full[3],
    }
    architecture = "llama"
    if full[3] == 0:  # latent attention keeps keys only
        keys |= {"attention.key_length_mla": 192, "attention.value_length_mla": 128}
        architecture = "deepseek2"
    if sliding:
        architecture = "gpt-oss"
        keys["attention.sliding_window"] = sliding[4]
        keys["attention.sliding_window_pattern"] = [False] * layers[0] + [True] * layers[1]
    if state:
        architecture = "qwen3next"
        keys["attention.recurrent_layers"] = [False] * layers[0] + [True] * layers[2]
        names = ("conv_kernel", "inner_size", "state_size", "group_count")
        keys |= {f"ssm.{name}": value for name, value in zip(names, state[1:], strict=True)}
    return ModelSpec(
        architecture=architecture,
        metadata={f"{architecture}.{key}": value for key, value in keys.items()},
        tensors=(),
        version=3,
        alignment=32,
        data_offset=0,
        file_bytes=0,
    )


def published_load(row: dict[str, str]) -> LoadSettings:
    sequences = int(row["n_seq"] or 1)
    unified = row["kv_unified"] != "False"
    kind = KvType(row["type_kv"])
    return LoadSettings(
        context=int(row["n_ctx"] or 4096) // sequences,
        parallel=sequences,
        ubatch=int(row["n_ubatch"]),
        kv_unified=unified,
        kv_type_k=kind,
        kv_type_v=kind,
    )


def published_parts(row: dict[str, str]) -> Iterator[tuple[str, float, float]]:
    """(part, ours, logged) in MiB for every cache size of a row whose settings are known."""
    known, load = published_spec(row), published_load(row)
    kv = kv_bytes(known, load)
    window = sum(size for i, size in enumerate(kv) if known.slides(i))
    if row["kv_full"] and row["n_ctx"]:
        yield "KV", (sum(kv) - window) / MIB, float(row["kv_full"])
    if row["kv_swa"]:
        yield "window KV", window / MIB, float(row["kv_swa"])
    if row["rs_state"]:
        snapshots = 1 + int(row["n_rs_seq"] or 0)
        state = sum(recurrent_bytes(known, load)) * snapshots
        yield "state", state / MIB, float(row["rs_state"])


def published_table() -> None:
    say("| row | model | part | estimate, MiB | logged, MiB | difference |")
    say("| --- | --- | --- | --- | --- | --- |")
    differences = []
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            if not row["kv_layers_heads_k_v"]:
                continue
            for part, ours, logged in published_parts(row):
                differences.append(abs(ours - logged) / logged)
                say(
                    f"| {row['id']} | {row['model']} | {part} | {ours:.2f} | {logged:.2f} "
                    f"| {(ours - logged) / logged:+.2%} |"
                )
    say("")
    say(
        f"{len(differences)} sizes: median {median(differences):.2%}, worst {max(differences):.2%}."
    )


if __name__ == "__main__":
    published_table()
    say("")
    forge_table()
