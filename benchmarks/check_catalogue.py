"""Check models.toml: what the file says of itself, and what llama.cpp says of it.

    python benchmarks/check_catalogue.py            the text alone: fields, counts, names, dates
    python benchmarks/check_catalogue.py --engine   also hand every entry to llama.cpp

With --engine each entry becomes a sparse file with the header that `size --exact` writes and no
weights. llama.cpp must accept it (it refuses a missing, surplus or misshapen tensor), and its
quantizer's dry run must choose the very type that `core/catalogue/quant_mix.py` chose for every
tensor of every quant. Exits 1 when anything disagrees.
"""

import argparse
import ctypes
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import llama_cpp.llama_cpp as llama

from localllm.core.catalogue.catalogue import Entry, parse
from localllm.core.gguf.writer import header_bytes
from localllm.core.model.file_types import FILE_TYPES
from localllm.core.model.spec import ModelSpec

MODELS = Path(__file__).parents[1] / "models.toml"
_ROW = re.compile(r"\[\s*\d+/\s*\d+\] (\S+)\s+- \[.*\], type =\s*(\w+), size = .*?(?:\((\w+)\))?$")


def text_problems(entries: tuple[Entry, ...]) -> Iterator[str]:
    """What is wrong with the file, entry by entry, without an engine."""
    repos: dict[str, str] = {}
    for entry in entries:
        stated, counted = entry.parameters, entry.blueprint.parameters
        if abs(stated - counted) > 0.01 * counted:
            yield f"{entry.name}: states {stated:,} parameters, its tensors hold {counted:,}"
        active = entry.blueprint.active_parameters
        if abs(entry.active_parameters - active) > 0.01 * active:
            yield f"{entry.name}: states {entry.active_parameters:,} active, shapes give {active:,}"
        if entry.released > date.today():
            yield f"{entry.name}: released in the future, {entry.released}"
        if not entry.checked:
            yield f"{entry.name}: nothing was checked"
        yield from _head_problems(entry)
        for repo in entry.repos:
            if repos.setdefault(repo, entry.name) != entry.name:
                yield f"{entry.name}: {repo} belongs to {repos[repo]} already"
    families = {entry.family for entry in entries}
    if len(entries) < 60 or len(families) < 12:
        yield f"{len(entries)} models in {len(families)} families; 60 in 12 are wanted"


def _head_problems(entry: Entry) -> Iterator[str]:
    shape = entry.blueprint.hparams
    for i in range(shape.layers):
        layer = shape.layer(i)
        if layer.kv_heads and layer.heads % layer.kv_heads:
            yield f"{entry.name}: {layer.heads} heads do not share {layer.kv_heads} key heads"
            return


def write_header(spec: ModelSpec, path: Path) -> None:
    """Write a sparse file with the header of `spec` and room for its tensors."""
    path.write_bytes(header_bytes(spec))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + spec.file_bytes + 2**20)


class Log:
    """llama.cpp's lines since the last `clear`."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._receive = llama.llama_log_callback(self._take)
        llama.llama_log_set(self._receive, None)

    def _take(self, _level: int, text: bytes, _data: object) -> None:
        self._pieces.append(text.decode("utf-8", "replace"))

    def clear(self) -> None:
        self._pieces.clear()

    @property
    def lines(self) -> list[str]:
        return "".join(self._pieces).splitlines()


def load_problem(path: Path, log: Log) -> str | None:
    """Let llama.cpp build the model without its weights; its complaint, or None."""
    log.clear()
    settings = llama.llama_model_default_params()
    settings.no_alloc = True
    settings.load_mode = llama.LLAMA_LOAD_MODE_NONE
    model = llama.llama_model_load_from_file(str(path).encode(), settings)
    if model:
        llama.llama_model_free(model)
        return None
    return next((line for line in log.lines if "error" in line), "llama.cpp gave no reason")


def quantizer_types(path: Path, quant: str, log: Log) -> dict[str, str]:
    """The types llama.cpp's quantizer would give every tensor, by its dry run."""
    log.clear()
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = FILE_TYPES[quant].number
    settings.dry_run = True
    settings.nthread = 1
    if quant.startswith("IQ"):
        settings.imatrix = _imatrix()
    if llama.llama_model_quantize(str(path).encode(), b"/dev/null", ctypes.byref(settings)):
        raise RuntimeError(next((x for x in log.lines if "fail" in x), "the dry run failed"))
    rows = (_ROW.search(line) for line in _joined(log.lines))
    return {row[1]: (row[3] or row[2]).upper() for row in rows if row}


def _joined(lines: list[str]) -> Iterator[str]:
    """The quantizer's rows, without the warnings that may stand in their middle."""
    for line in lines:
        if "size =" in line and (start := line.find("[")) >= 0:
            yield line[start:]


def _imatrix() -> object:
    """An importance matrix of one entry: enough for the quantizer to know that there is one."""
    kind = llama.llama_model_imatrix_data
    data = (ctypes.c_float * 1)(1.0)
    array = (kind * 2)()
    array[0].name, array[0].data, array[0].size = b"any", data, 1
    return array


def engine_problems(entry: Entry, directory: Path, log: Log) -> Iterator[str]:
    """What llama.cpp says against an entry."""
    path = directory / "model.gguf"
    # The quantizer at hand is the newest one; the file is made as this test makes it.
    blueprint = replace(entry.blueprint, imatrix=False, fused_as_value=True)
    write_header(blueprint.spec("BF16", name=entry.title), path)
    if problem := load_problem(path, log):
        yield f"{entry.name}: {problem.strip()}"
        return
    for quant in entry.quants:
        if quant in ("F32", "BF16", "F16"):
            continue
        theirs = quantizer_types(path, quant, log)
        ours = {
            tensor.name: tensor.type.name
            for tensor in blueprint.spec(quant, name=entry.title).tensors
        }
        if set(theirs) != set(ours):
            yield f"{entry.name} {quant}: {len(ours)} tensors, the quantizer saw {len(theirs)}"
        for name in sorted(set(ours) & set(theirs)):
            if ours[name] != theirs[name]:
                yield f"{entry.name} {quant}: {name} is {theirs[name]}, not {ours[name]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="store_true", help="also hand every entry to llama.cpp")
    parser.add_argument("names", nargs="*", help="only these entries")
    arguments = parser.parse_args()
    entries = parse(MODELS.read_text(encoding="utf-8"))
    problems = list(text_problems(entries))
    if arguments.engine:
        log = Log()
        for entry in entries:
            if arguments.names and entry.name not in arguments.names:
                continue
            with tempfile.TemporaryDirectory() as directory:
                found = list(engine_problems(entry, Path(directory), log))
            print(f"{entry.name:36} {'ok' if not found else found[0]}", flush=True)
            problems += found
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(entries)} entries, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
