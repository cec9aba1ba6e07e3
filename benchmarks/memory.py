"""Print the estimate beside the real memory of an engine that has just answered.

    python -m benchmarks.memory [MODEL.gguf ...]

Real memory is the proportional set size of the engine's process (`Pss` in
`/proc/PID/smaps_rollup`: Linux only), read after a prompt that fills most of the context and a
generated answer. Without a path the two models of the test packages are measured, and each once
more in another quant. Every file is copied first, so that no other process shares its pages.
Markdown out; the exit status is 1 when an estimate is more than 5 % off.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gguf_header import installed_models
from localllm.core.sizing import footprint
from localllm.core.sizing.footprint import Footprint
from localllm.core.sizing.load import KvType, LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import Finished, GenerateRequest, LoadRequest, Sampling
from localllm.runtime.load_plan import read_spec

MIB = 2**20
TOLERATED_PERCENT = 5.0
CONTEXT = 2048
WORD = " word"  # one token in both vocabularies
WORDS, ANSWER_TOKENS = 1500, 32
BASE = LoadSettings(context=CONTEXT, gpu_layers=0, threads=2)
SETTINGS: tuple[tuple[str, LoadSettings], ...] = (
    ("defaults", BASE),
    ("read, not mapped", replace(BASE, mmap=False)),
    ("q8_0 cache, 4 at once", replace(
        BASE, parallel=4, kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0)),
)  # fmt: skip
REQUANTIZED = (("Q8_0", 7), ("Q4_0", 2))  # enum llama_ftype (llama.h, b11434)

_QUANTIZE = """
import ctypes, sys
import llama_cpp
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype, settings.allow_requantize = int(sys.argv[3]), True
source, target = (each.encode() for each in sys.argv[1:3])
sys.exit(llama_cpp.llama_model_quantize(source, target, ctypes.byref(settings)))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One load: what was expected of it, and its process after the answer, in bytes."""

    estimate: Footprint
    pss_bytes: int
    anonymous_bytes: int
    prompt_tokens: int

    @property
    def error_percent(self) -> float:
        return (self.estimate.total_bytes / self.pss_bytes - 1) * 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", type=Path)
    arguments = parser.parse_args()
    worst = 0.0
    say("| model | load | estimate, MiB | real, MiB | of it private, MiB | difference |")
    say("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="localllm-memory-") as scratch:
        for path in models(arguments.models, Path(scratch)):
            for words, settings in SETTINGS:
                found = asyncio.run(measure(path, settings))
                worst = max(worst, abs(found.error_percent))
                say(
                    f"| {path.stem} | {words} | {found.estimate.total_bytes / MIB:.1f} | "
                    f"{found.pss_bytes / MIB:.1f} | {found.anonymous_bytes / MIB:.1f} | "
                    f"{found.error_percent:+.1f}% |"
                )
            path.unlink()
    say("")
    say(f"Worst: {worst:.1f}%.")
    return 0 if worst <= TOLERATED_PERCENT else 1


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def models(given: list[Path], scratch: Path) -> Iterator[Path]:
    """Copies of the files to measure, each of which may be deleted afterwards."""
    installed = () if given else tuple(installed_models(scratch))
    for source in given or installed:
        own = scratch / f"{source.stem} (copy).gguf"
        shutil.copyfile(source, own)
        yield own
    for source, (quant, kind) in zip(installed, REQUANTIZED, strict=False):
        target = scratch / f"{source.stem} as {quant}.gguf"
        subprocess.run(
            [sys.executable, "-c", _QUANTIZE, str(source), str(target), str(kind)],
            check=True,
            capture_output=True,
        )
        yield target


async def measure(path: Path, settings: LoadSettings) -> Measured:
    """Load, answer, and read the process's memory while it still holds the model."""
    engine = ProcessEngine()
    try:
        async for _ in engine.load(LoadRequest(path=str(path), settings=settings)):
            pass
        request = GenerateRequest(
            request_id="memory",
            prompt=WORD * WORDS,
            max_tokens=ANSWER_TOKENS,
            ignore_eos=True,
            sampling=Sampling(seed=1),
        )
        finished = None
        async for event in engine.generate(request):
            if isinstance(event, Finished):
                finished = event
        assert finished is not None
        assert engine.pid is not None
        sizes = smaps(engine.pid)
    finally:
        await engine.close()
    return Measured(
        estimate=footprint.of(read_spec(path), settings),
        pss_bytes=sizes["Pss"],
        anonymous_bytes=sizes["Pss_Anon"],
        prompt_tokens=finished.prompt_tokens,
    )


def smaps(pid: int) -> dict[str, int]:
    """The sums of `/proc/PID/smaps_rollup` (proc_pid_smaps(5)), in bytes."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]:
        name, kilobytes, *_ = line.split()
        sizes[name.rstrip(":")] = int(kilobytes) * 1024
    return sizes


if __name__ == "__main__":
    sys.exit(main())
