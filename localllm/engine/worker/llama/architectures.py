"""The architectures that the installed llama.cpp runs, as it says itself.

llama.cpp has no function that lists them. It is given a header that holds nothing but the name: a
name that it knows fails at the next key that is missing, in 5 ms and without an allocation (all 163
names of b11434 were tried; none ends the process).
"""

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from localllm.core.gguf.format import MAGIC, U32, U64, VERSIONS, ValueType
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.dry_run import captured_log
from localllm.errors import LoadFailed

_REFUSED = re.compile(r"(?:unknown|unsupported) model architecture: '")


def runnable(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of these architectures that llama.cpp runs. Raises LoadFailed when no file can
    be written for it to read."""
    try:
        with tempfile.TemporaryDirectory(prefix="localllm-probe-") as directory:
            path = Path(directory) / "header.gguf"
            return tuple(name for name in names if _runs(name, path))
    except OSError as error:
        raise LoadFailed(f"No file can be written to ask llama.cpp with: {error}.") from error


def _runs(name: str, path: Path) -> bool:
    path.write_bytes(_header(name))
    params = llama.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    with captured_log() as lines:
        model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if model:  # it did without any other key
        llama.llama_model_free(model)
        return True
    return not any(_REFUSED.search(line.text) for line in lines)


def _header(architecture: str) -> bytes:
    """Write a GGUF file without tensors whose only key is the architecture."""
    key, value = b"general.architecture", architecture.encode()
    pair = U64.pack(len(key)) + key + U32.pack(ValueType.STRING) + U64.pack(len(value)) + value
    return MAGIC + U32.pack(VERSIONS[-1]) + U64.pack(0) + U64.pack(1) + pair
