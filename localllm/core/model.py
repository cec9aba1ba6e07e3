"""What a model is: the values read from a GGUF header, and the counts that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from localllm.core.quants import GgmlType

MetadataValue = (
    str | int | float | bool | Sequence[str] | Sequence[int] | Sequence[float] | Sequence[bool]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor of the file. `shape` is in ggml order (ne0, the contiguous one, first);
    `offset` counts from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A GGUF header that passed every check.

    `metadata` holds every key of the header; long arrays are lazy sequences. `data_offset` is
    where tensor data starts; `file_bytes` the real length of the file.
    """

    architecture: str
    metadata: Mapping[str, MetadataValue]
    tensors: tuple[TensorInfo, ...]
    version: int
    alignment: int
    data_offset: int
    file_bytes: int
