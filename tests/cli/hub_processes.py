"""localllm as processes in front of the loopback Hub, and what the Hub holds for them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tests.core import forge
from tests.core.forge import Forged
from tests.hub import FakeHub, SparseFile
from tests.library import tiny
from tests.library.tiny import MODEL, Values

LOCALLLM = [sys.executable, "-m", "localllm"]
OTHER_NAME = (b"Smollm2 135M", b"Testllm 135M")
"""In the header of the starter model: with another name it is another file."""


def environment(hub: FakeHub, **more: str) -> dict[str, str]:
    """That of a process which knows this Hub only."""
    return {**os.environ, "HF_ENDPOINT": hub.endpoint, **more}


def localllm(hub: FakeHub, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LOCALLLM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(hub, **more),
    )


def start(hub: FakeHub, *arguments: str | Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LOCALLLM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(hub, **more),
    )


def document(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """The JSON that a verb printed."""
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def rows(found: dict[str, object], key: str) -> list[dict[str, object]]:
    """A list of objects in a document."""
    listed = found[key]
    assert isinstance(listed, list)
    return listed


def renamed(smollm2: Path) -> bytes:
    """The starter model's file with another name in it: it answers, and is not installed."""
    raw = smollm2.read_bytes()
    old, new = OTHER_NAME
    assert raw[: 64 << 10].count(old), "the starter calls itself otherwise now"
    return raw.replace(old, new, 1)


def with_vocabulary(forged: Forged) -> Forged:
    """The same model with a list of tokens, which makes a header as large as real ones."""
    tokens = tuple(f"token-number-{n}" for n in range(forged.vocabulary))
    return replace(forged, general={**forged.general, "tokenizer.ggml.tokens": tokens})


def sparse(forged: Forged, directory: Path) -> SparseFile:
    """A forged model as a file of the Hub: a true header and a hole."""
    path = directory / "forged.gguf"
    forge.write(forged, path)
    with path.open("rb") as stream:
        head = stream.read(forge.spec(forged).data_offset)
    return SparseFile(head=head, size=path.stat().st_size)


def split_model(stem: str, count: int) -> dict[str, bytes]:
    """A model of one tiny layer in parts, each with one tensor, as `gguf-split` makes them."""
    keys: Values = {
        **MODEL, "general.name": "Tiny", "llama.block_count": 1, "llama.context_length": 512,
        "llama.embedding_length": 32, "llama.attention.head_count": 1,
        "llama.feed_forward_length": 32, "llama.vocab_size": 32,
    }  # fmt: skip
    parts = {}
    for number in range(count):
        place: Values = {"split.no": number, "split.count": count, "split.tensors.count": count}
        name = f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"
        parts[name] = tiny.header({**keys, **place} if number == 0 else place)
    return parts
