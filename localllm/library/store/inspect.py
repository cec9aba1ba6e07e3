"""Read and check GGUF headers before a file becomes part of the library or is loaded.

The gatekeeper: llama.cpp opens no file that has not passed here, alone and with the files that go
with it (the parts of a split model, mmproj, LoRA).
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core import gguf
from localllm.core.model.architecture import Purpose
from localllm.core.model.file_types import quant_in, split_name, split_of
from localllm.core.model.foreign import is_image_model, remedy_for
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Mmproj
from localllm.core.sizing.mmproj import mmproj_of
from localllm.core.text import single_line
from localllm.errors import GgufError, NotFound, StoreError
from localllm.library.files import paths
from localllm.library.files.checksum import open_regular
from localllm.library.files.names import printable
from localllm.library.store.installed import InstalledFile

_MAX_LISTED = 5
_HINT = "Name a GGUF file."


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedModel:
    """The files of one model that passed every check.

    `spec` is the header of the first file with the tensors of all of them; each offset counts in
    the tensor's own file. Its `file_bytes` is the sum over the files.
    """

    parts: tuple[InstalledFile, ...]
    spec: ModelSpec

    @property
    def size_bytes(self) -> int:
        """The sum of the files."""
        return self.spec.file_bytes

    @property
    def stem(self) -> str:
        """The file's name without suffix and part number."""
        file_name = self.parts[0].path.name
        split = split_of(file_name)
        return split[0] if split else Path(file_name).stem

    @property
    def quant(self) -> str | None:
        """The quant that the header states, else the one in the file's name."""
        return self.spec.quant or quant_in(self.stem)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return every file of the model that `path` belongs to, in order.

    Raises NotFound naming the missing parts of a split model, StoreError for an impossible part
    number.
    """
    try:
        path = paths.absolute(path)
    except FileNotFoundError as error:
        raise NotFound("The current directory was deleted. Change to another one.") from error
    split = split_of(path.name)
    if split is None:
        return (path,)
    stem, number, count = split
    if not 1 <= number <= count:
        raise StoreError(f"{printable(path)} is called part {number} of {count}. Rename it.")
    files = tuple(
        path.with_name(split_name(stem, each, count, path.suffix)) for each in range(1, count + 1)
    )
    missing = [file for file in files if not os.path.exists(file)]  # noqa: PTH110  # never raises
    if missing:
        listed = ", ".join(printable(file.name) for file in missing[:_MAX_LISTED])
        more = f" and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
        raise NotFound(
            f"{printable(path)} is one of {count} parts of a model and {len(missing)} of them are"
            f" not in {printable(path.parent)}: {listed}{more}. Put all parts into one directory."
        )
    return files


def inspect_model(path: Path) -> InspectedModel:
    """Inspect a model's files, all parts of a split one.

    Raises NotFound for a missing file, StoreError for one that is no regular file or cannot be
    read, GgufError for one that is no GGUF or no language model by itself.
    """
    files = files_of(path)
    read = [_read(file, number=number, count=len(files)) for number, file in enumerate(files)]
    spec = _joined(tuple(spec for _, spec in read))
    _require_model(spec, files[0])
    return InspectedModel(parts=tuple(file for file, _ in read), spec=spec)


def record_file(path: Path) -> InstalledFile:
    """Record a file without reading its header. Raises NotFound, StoreError."""
    with open_regular(path) as (_, status):
        return InstalledFile.from_stat(path, status)


def inspect_mmproj(path: Path) -> InstalledFile:
    """Inspect an mmproj file, without a model to compare it with.

    Raises NotFound, StoreError, and GgufError for a file that is no mmproj.
    """
    return _read_mmproj(path)[0]


def mmproj_for(path: Path, model: ModelSpec) -> Mmproj:
    """Inspect an mmproj file that is to be loaded with this model.

    Raises NotFound, StoreError, and GgufError for a file without vision or one that was made for
    another model.
    """
    try:
        return mmproj_of(_read_mmproj(path)[1], model, path=str(path))
    except GgufError as error:
        raise GgufError(f"The image encoder {printable(path)} cannot be used: {error}.") from error


def _read_mmproj(path: Path) -> tuple[InstalledFile, ModelSpec]:
    file, spec = _read(path, number=0, count=1)
    if not _is_mmproj(spec):
        raise GgufError(f"{printable(path)} is no image or audio encoder (mmproj).")
    return file, spec


def lora_header(path: Path) -> ModelSpec:
    """Read the header of a LoRA file; `core/sizing/lora.py` checks that it is one.

    Raises NotFound, StoreError, GgufError.
    """
    return _read(path, number=0, count=1)[1]


def _read(path: Path, *, number: int, count: int) -> tuple[InstalledFile, ModelSpec]:
    """Read one file's header and compare its split number with the file's name."""
    with open_regular(path) as (stream, status):
        try:
            spec = gguf.read(stream, status.st_size)
        except GgufError as error:
            raise GgufError(f"{printable(path)} is not usable: {error}") from error
        except OSError as error:
            raise StoreError(f"{printable(path)} cannot be read: {error.strerror}.") from error
    in_header = spec.metadata.get("split.no", number), spec.metadata.get("split.count", count)
    # gguf-split --merge leaves a split.count of 0 in the merged file.
    if in_header != (number, count) and (count > 1 or in_header[1] != 0):
        raise GgufError(
            f"{printable(path)} is part {_plus_one(in_header[0])} of {in_header[1]!r:.20} by its"
            f" header and {number + 1} of {count} by its name. Rename the parts as they were"
            " published (NAME-00001-of-00005.gguf)."
        )
    return InstalledFile.from_stat(path, status), spec


def _joined(specs: tuple[ModelSpec, ...]) -> ModelSpec:
    """Join the headers of all parts: the first has the metadata, each has its own tensors."""
    if len(specs) == 1:
        return specs[0]
    return replace(
        specs[0],
        tensors=tuple(tensor for spec in specs for tensor in spec.tensors),
        file_bytes=sum(spec.file_bytes for spec in specs),
    )


def _require_model(spec: ModelSpec, path: Path) -> None:
    """Refuse a GGUF file that is no language model. Raises GgufError."""
    kind = spec.metadata.get("general.type", "model")
    if _is_mmproj(spec):
        what = "an image or audio encoder (mmproj), which works beside a model"
    elif kind == "adapter":
        what = "a LoRA adapter, which works on top of a model"
    elif kind != "model":
        what = f"of type {single_line(str(kind))[:40]!r}"
    elif is_image_model(spec.architecture):
        raise GgufError(
            f"{printable(path)} cannot be used: {spec.architecture} is no language model. "
            f"{remedy_for(spec.architecture)}"
        )
    elif not spec.tensors:
        what = "a vocabulary without weights"
    else:
        return
    raise GgufError(f"{printable(path)} is {what}. Import the model's own file.")


def _is_mmproj(spec: ModelSpec) -> bool:
    kind = spec.metadata.get("general.type")
    return kind in ("mmproj", "clip-vision") or spec.arch.purpose is Purpose.MMPROJ


def _plus_one(number: object) -> str:
    return str(number + 1) if isinstance(number, int) else repr(number)[:20]
