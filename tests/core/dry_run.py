"""llama.cpp's dry run of many loads, in child processes: a header that makes it abort costs only
the rest of its batch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from localllm.core.sizing.load import BufferKind, LoadSettings

_CHILD = """
import json, sys
import msgspec
from localllm.core.sizing.load import LoadSettings
from localllm.engine.worker.llama.dry_run import probe
from localllm.errors import LoadFailed
for line in sys.stdin:
    path, load = msgspec.json.decode(line, type=tuple[str, LoadSettings])
    try:
        sizes = {}
        for part in probe(path, load, header_only=sys.argv[1] == "header"):
            sizes[part.kind] = sizes.get(part.kind, 0) + part.size_bytes
        print(json.dumps(sizes), flush=True)
    except LoadFailed as error:
        print(json.dumps({"refused": str(error)}), flush=True)
"""

Sizes = dict[str, int]


def dry_runs(
    loads: Iterable[tuple[Path, LoadSettings]], *, header_only: bool = True
) -> list[Sizes | str]:
    """Sizes by kind for each load, or why llama.cpp gave none. One child runs them in turn and is
    started again after an abort. Where the tokenizer is short, as in forged files, the whole file
    is read sooner than its header is rewritten without (`header_only`)."""
    waiting = list(loads)
    results: list[Sizes | str] = []
    while len(results) < len(waiting):
        batch = waiting[len(results) :]
        done = _batch(batch, header_only=header_only)
        results += done
        if len(done) < len(batch):
            results.append("llama.cpp aborted")
    return results


def _batch(loads: Sequence[tuple[Path, LoadSettings]], *, header_only: bool) -> list[Sizes | str]:
    lines = "".join(json.dumps([str(path), asdict(load)]) + "\n" for path, load in loads)
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, "header" if header_only else "whole"],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )
    results = [json.loads(line) for line in child.stdout.splitlines()]
    if not results and child.returncode == 1:
        raise AssertionError(f"the dry run's process did not start: {child.stderr[-2000:]}")
    return [result.get("refused", result) for result in results]


def total(sizes: Sizes) -> int:
    return sum(sizes.get(kind, 0) for kind in BufferKind)
