"""Look at GGUF files before they become part of the library: what they are, and all their parts."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core import gguf
from localllm.core.model.architecture import Purpose
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Mmproj
from localllm.core.sizing.mmproj import mmproj_of
from localllm.core.text import single_line
from localllm.errors import GgufError, NotFound, StoreError
from localllm.library.files import names, paths
from localllm.library.files.checksum import open_regular
from localllm.library.files.names import printable
from localllm.library.store.installed import Part, of_file

_SHOWN_MISSING = 5
_HINT = "Name a GGUF file."


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedModel:
    """Files that passed every check.

    `spec` is the header of the first file with the tensors of all of them; each offset counts in
    the tensor's own file. `file_bytes` is the sum over the files.
    """

    parts: tuple[Part, ...]
    spec: ModelSpec

    @property
    def size_bytes(self) -> int:
        return self.spec.file_bytes

    @property
    def stem(self) -> str:
        """What the file is called, without suffix and part number."""
        file_name = self.parts[0].path.name
        split = names.split_of(file_name)
        return split[0] if split else Path(file_name).stem

    @property
    def quant(self) -> str | None:
        """What the header says; else what the file's name says."""
        return self.spec.quant or names.quant_in(self.stem)


def files_of(path: Path) -> tuple[Path, ...]:
    """Every file of the model that `path` is one of, in order.

    Raises NotFound naming the parts of a split model that are not there.
    """
    try:
        path = paths.absolute(path)
    except FileNotFoundError as error:
        raise NotFound("The current directory was deleted. Change to another one.") from error
    split = names.split_of(path.name)
    if split is None:
        return (path,)
    stem, number, count = split
    if not 1 <= number <= count:
        raise StoreError(f"{printable(path)} is called part {number} of {count}. Rename it.")
    files = tuple(
        path.with_name(names.split_name(stem, each, count, path.suffix))
        for each in range(1, count + 1)
    )
    missing = [file for file in files if not os.path.exists(file)]  # noqa: PTH110  # never raises
    if missing:
        listed = ", ".join(printable(file.name) for file in missing[:_SHOWN_MISSING])
        more = f" and {len(missing) - _SHOWN_MISSING} more" if len(missing) > _SHOWN_MISSING else ""
        raise NotFound(
            f"{printable(path)} is one of {count} parts of a model and {len(missing)} of them are"
            f" not in {printable(path.parent)}: {listed}{more}. Put all parts into one directory."
        )
    return files


def inspect_model(path: Path) -> InspectedModel:
    """Read the header of a model's files, all parts of a split one.

    Raises NotFound for a missing file, StoreError for one that is no regular file or cannot be
    read, GgufError for one that is no GGUF or no language model by itself.
    """
    files = files_of(path)
    read = [_read(file, number=number, count=len(files)) for number, file in enumerate(files)]
    spec = _joined(tuple(spec for _, spec in read))
    _require_model(spec, files[0])
    return InspectedModel(parts=tuple(part for part, _ in read), spec=spec)


def of_path(path: Path) -> Part:
    """Record a file that goes with a model, as it is now. Raises NotFound, StoreError."""
    with open_regular(path) as (_, status):
        return of_file(status, path)


def encoder_at(path: Path) -> Part:
    """Read the header of an encoder (mmproj) and record it. Raises NotFound, StoreError, and
    GgufError for a file that is none."""
    return _encoder(path)[0]


def mmproj_for(path: Path, model: ModelSpec) -> Mmproj:
    """Pass an encoder of images that is to be loaded with this model.

    Raises NotFound, StoreError, and GgufError for a file that sees nothing or that was made for
    another model.
    """
    try:
        return mmproj_of(_encoder(path)[1], model, path=str(path))
    except GgufError as error:
        raise GgufError(f"The image encoder {printable(path)} cannot be used: {error}.") from error


def _encoder(path: Path) -> tuple[Part, ModelSpec]:
    part, spec = _read(path, number=0, count=1)
    if not _is_encoder(spec):
        raise GgufError(f"{printable(path)} is no image or audio encoder (mmproj).")
    return part, spec


def adapter_at(path: Path) -> ModelSpec:
    """Read the header of an adapter, which is in one file. Raises NotFound, StoreError, GgufError;
    what kind of file it is remains to be judged (`core/sizing/lora.py`)."""
    return _read(path, number=0, count=1)[1]


def _read(path: Path, *, number: int, count: int) -> tuple[Part, ModelSpec]:
    """Read one part's header and compare its place in the split with its file's name."""
    with open_regular(path) as (stream, status):
        try:
            spec = gguf.read(stream, status.st_size)
        except GgufError as error:
            raise GgufError(f"{printable(path)} is not usable: {error}") from error
        except OSError as error:
            raise StoreError(f"{printable(path)} cannot be read: {error.strerror}.") from error
    said = spec.metadata.get("split.no", number), spec.metadata.get("split.count", count)
    if said != (number, count) and (count > 1 or said[1] != 0):
        raise GgufError(
            f"{printable(path)} is part {_one_up(said[0])} of {said[1]!r:.20} by its header and"
            f" {number + 1} of {count} by its name. Rename the parts as they were published"
            " (NAME-00001-of-00005.gguf)."
        )
    return of_file(status, path), spec


def _joined(specs: tuple[ModelSpec, ...]) -> ModelSpec:
    """One header for all parts: the first has the metadata, every one its own tensors."""
    if len(specs) == 1:
        return specs[0]
    return replace(
        specs[0],
        tensors=tuple(tensor for spec in specs for tensor in spec.tensors),
        file_bytes=sum(spec.file_bytes for spec in specs),
    )


def _require_model(spec: ModelSpec, path: Path) -> None:
    """Refuse what is a GGUF file but no model that can answer. Raises GgufError."""
    kind = spec.metadata.get("general.type", "model")
    if _is_encoder(spec):
        what = "an image or audio encoder (mmproj), which works beside a model"
    elif kind == "adapter":
        what = "a LoRA adapter, which works on top of a model"
    elif kind != "model":
        what = f"of type {single_line(str(kind))[:40]!r}"
    elif not spec.tensors:
        what = "a vocabulary without weights"
    else:
        return
    raise GgufError(f"{printable(path)} is {what}. Import the model's own file.")


def _is_encoder(spec: ModelSpec) -> bool:
    kind = spec.metadata.get("general.type")
    return kind in ("mmproj", "clip-vision") or spec.arch.purpose is Purpose.MMPROJ


def _one_up(number: object) -> str:
    return str(number + 1) if isinstance(number, int) else repr(number)[:20]
