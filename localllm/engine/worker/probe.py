"""llama.cpp's own answer to what a load would allocate, without allocating it.

`no_alloc` with load mode NONE makes a real context whose buffers are counted and not made
(recurrent states are made even so). A failed assertion ends the process: call this in a child.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp.llama_cpp as llama

from localllm.core.load import Allocation, BufferKind, LoadSettings
from localllm.engine.worker.header import without_tokenizer
from localllm.engine.worker.params import context_params, model_params
from localllm.engine.worker.readback import allocations
from localllm.errors import LoadFailed

_FIRST_BYTES = 4 * 2**20
_MOST_BYTES = 512 * 2**20
"""A header longer than this is not read; the largest published vocabularies take 20 MiB."""

_CACHE_SIZE = re.compile(r"llama_kv_cache: size =\s*([0-9.]+) MiB")
_CACHE_LAYER = re.compile(r"llama_kv_cache: layer\s+\d+: dev = (\S+)")


def probe(path: str, settings: LoadSettings, *, header_only: bool = True) -> tuple[Allocation, ...]:
    """Say what llama.cpp would allocate besides the weights, by device and kind.

    `path` may be any file that holds a whole GGUF header. With `header_only` the header is
    rewritten without its tokenizer into a sparse temporary file: the same sizes in a twentieth of
    the time. Raises LoadFailed with llama.cpp's reason.
    """
    if not header_only:
        return _dry_run(path, settings)
    with tempfile.TemporaryDirectory(prefix="localllm-probe-") as directory:
        target = Path(directory) / "header.gguf"
        _write_stripped(Path(path), target)
        return _dry_run(str(target), settings)


def _write_stripped(source: Path, target: Path) -> None:
    """Write the header of `source` to `target`, as long as its tensors would make it."""
    try:
        head = _read_head(source)
        with target.open("wb") as out:
            out.write(head)
            out.truncate(len(head) + source.stat().st_size)
    except OSError as error:
        raise LoadFailed(f"the header of {source} could not be copied: {error}") from error


def _read_head(source: Path) -> bytes:
    """The stripped header, reading more of the file until it is whole."""
    size = source.stat().st_size
    wanted = _FIRST_BYTES
    with source.open("rb") as file:
        while True:
            file.seek(0)
            head = file.read(wanted)
            try:
                return without_tokenizer(head)
            except LoadFailed:
                if len(head) >= size or wanted >= _MOST_BYTES or head[:4] != b"GGUF":
                    raise
                wanted *= 4


def _dry_run(path: str, settings: LoadSettings) -> tuple[Allocation, ...]:
    with _captured_log() as lines:
        model_settings = model_params(settings)
        model_settings.no_alloc = True
        model_settings.load_mode = llama.LLAMA_LOAD_MODE_NONE  # with mmap it asserts
        model = llama.llama_model_load_from_file(os.fsencode(path), model_settings)
        if not model:
            raise LoadFailed(f"llama.cpp refused the header of {path}: {_reason(lines)}")
        try:
            context = llama.llama_init_from_model(model, context_params(settings, 1))
            if not context:
                raise LoadFailed(f"llama.cpp would not make this context: {_reason(lines)}")
            llama.llama_free(context)
        finally:
            llama.llama_model_free(model)
    return _sizes(lines)


@contextmanager
def _captured_log() -> Iterator[list[str]]:
    """Collect llama.cpp's lines, debug lines included, and give its logger back afterwards."""
    pieces: list[str] = []
    lines: list[str] = []

    def receive(_level: int, text: bytes, _user_data: object) -> None:
        pieces.append(text.decode("utf-8", "replace"))
        if text.endswith(b"\n"):
            lines.append("".join(pieces).rstrip("\n"))
            pieces.clear()

    before, data = llama.llama_log_callback(), llama.ctypes.c_void_p()
    llama.llama_log_get(llama.ctypes.byref(before), llama.ctypes.byref(data))
    callback = llama.llama_log_callback(receive)
    llama.llama_log_set(callback, None)
    try:
        yield lines
    finally:
        llama.llama_log_set(before, data)


def _reason(lines: Iterable[str]) -> str:
    named = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    return named[0] if named else "no reason given"


def _sizes(lines: list[str]) -> tuple[Allocation, ...]:
    """The read-back of a dry run. Its KV buffers print 0, so the caches' own totals are taken,
    each divided among devices by the layers they hold."""
    others = tuple(
        a for a in allocations(lines) if a.kind not in (BufferKind.KV, BufferKind.WEIGHTS)
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
