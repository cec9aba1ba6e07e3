"""A dry run of a load: llama.cpp counts what it would allocate, without allocating it.

`no_alloc` with load mode NONE makes a real context whose buffers are counted and not made
(recurrent states are made even so). A failed assertion ends the process: call this in a child.
"""

import ctypes
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from localllm.core.gguf import read
from localllm.core.gguf.writer import header_bytes
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Allocation, BufferKind, LoadSettings
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.allocations import allocations, with_all_outputs
from localllm.engine.worker.llama.load_failure import LogLine, refusal
from localllm.engine.worker.llama.params import context_params, model_params, snapshots_of
from localllm.errors import GgufError, LoadFailed

_LONGEST_FILE = 16 * 2**40
"""A file may be only the beginning of its model: what a header says of the rest is believed up to
this size (a sparse file of that length takes no room)."""

_ERROR = 4  # GGML_LOG_LEVEL_ERROR (ggml.h, b11434)

_CACHE_SIZE = re.compile(r"llama_kv_cache: size =\s*([0-9.]+) MiB")
_CACHE_LAYER = re.compile(r"llama_kv_cache: layer\s+\d+: dev = (\S+)")


def probe(path: str, settings: LoadSettings, *, header_only: bool = True) -> tuple[Allocation, ...]:
    """Return what llama.cpp would allocate besides the weights, by device and kind.

    `path` may be any file that holds a whole GGUF header. With `header_only` the header is
    rewritten without its tokenizer into a sparse temporary file: the same sizes in a twentieth of
    the time. Raises LoadFailed with llama.cpp's reason.
    """
    with captured_log() as lines:
        model = (
            _load_stripped(path, settings, lines) if header_only else _load(path, settings, lines)
        )
        try:
            params = context_params(settings, 1, snapshots=snapshots_of(model, settings))
            context = llama.llama_init_from_model(model, params)
            if not context:
                raise LoadFailed(refusal("a context with these settings", lines))
            llama.llama_free(context)
        finally:
            llama.llama_model_free(model)
    return _sizes([line.text for line in lines], settings)


def _load_stripped(path: str, settings: LoadSettings, lines: list[LogLine]) -> int:
    """Load the model of a header without its tokenizer. The file is deleted before a context is
    made: that is where llama.cpp aborts, and it would be left behind then."""
    with tempfile.TemporaryDirectory(prefix="localllm-probe-") as directory:
        target = Path(directory) / "header.gguf"
        _write_stripped(Path(path), target)
        return _load(str(target), settings, lines, named=path)


def _load(
    path: str, settings: LoadSettings, lines: list[LogLine], *, named: str | None = None
) -> int:
    """Load the model without its weights. Raises LoadFailed, in which the file is `named`."""
    params = model_params(settings)
    params.no_alloc = True
    params.load_mode = llama.LLAMA_LOAD_MODE_NONE  # with mmap it asserts
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise LoadFailed(refusal(Path(named or path).name, lines))
    return int(model)


def _write_stripped(source: Path, target: Path) -> None:
    """Write the checked header of `source` to `target`; its data becomes a hole."""
    try:
        with source.open("rb") as file:
            spec = read(file, max(source.stat().st_size, _LONGEST_FILE))
        head = header_bytes(spec)
        data_bytes = max((t.offset + t.size_bytes for t in spec.tensors), default=0)
        with target.open("wb") as out:
            out.write(head)
            out.truncate(len(head) + data_bytes)
    except (OSError, GgufError) as error:
        raise LoadFailed(f"the header of {source} cannot be probed: {error}") from error


@contextmanager
def captured_log() -> Iterator[list[LogLine]]:
    """Collect llama.cpp's lines, debug lines included, and restore its logger afterwards."""
    pieces: list[str] = []
    lines: list[LogLine] = []

    def receive(level: int, text: bytes, _user_data: object) -> None:
        pieces.append(text.decode("utf-8", "replace"))
        if text.endswith(b"\n"):
            lines.append(LogLine("".join(pieces).rstrip("\n"), error=level == _ERROR))
            pieces.clear()

    before, data = llama.llama_log_callback(), ctypes.c_void_p()
    llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    callback = llama.llama_log_callback(receive)
    llama.llama_log_set(callback, None)
    try:
        yield lines
    finally:
        llama.llama_log_set(before, data)


def _sizes(lines: list[str], settings: LoadSettings) -> tuple[Allocation, ...]:
    """Read the sizes from the log of a dry run. Its KV buffers print 0, so the caches' own totals
    are taken, each divided among devices by their layers."""
    others = tuple(
        a
        for a in with_all_outputs(allocations(lines), settings)
        if a.kind not in (BufferKind.KV, BufferKind.WEIGHTS)
    )
    return _cache_sizes(lines) + others


def _cache_sizes(lines: Iterable[str]) -> tuple[Allocation, ...]:
    totals: dict[str, float] = {}
    devices: list[str] = []
    for line in lines:
        if layer := _CACHE_LAYER.search(line):
            devices.append(layer[1])
        elif size := _CACHE_SIZE.search(line):
            for device in devices or ["CPU"]:
                share = float(size[1]) * 2**20 / max(len(devices), 1)
                totals[device] = totals.get(device, 0.0) + share
            devices = []
    return tuple(
        Allocation(device=device, kind=BufferKind.KV, size_bytes=round(size))
        for device, size in totals.items()
    )


def read_header(path: str) -> ModelSpec:
    """Read and check the header of a model's (first) file. Raises LoadFailed."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # the path is text, whatever it holds
            return read(file, os.fstat(file.fileno()).st_size)
    except (OSError, GgufError) as error:
        raise LoadFailed(f"The header of {path} cannot be read: {error}") from error
