"""The table of graphics devices by name: memory, bandwidth, generation.

For machines that are not here (`suggest --gpu "RTX 4060"`) and for drivers that do not tell. The
table (`gpu_table.py`) merges the device tables of public tools and databases: the bandwidth is what
most of them give; where they differ by more than 3 % the others are kept and shown: only measuring
settles it. A name that is not there is unknown.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from localllm.core.hardware import Backend
from localllm.core.speed.gpu_table import DEVICES

GIB = 1 << 30
GB_PER_S = 1_000_000_000.0


class Generation(StrEnum):
    """Families of devices that run llama.cpp's kernels alike (`core/speed` is fitted by them)."""

    NVIDIA_MAXWELL = "nvidia_maxwell"  # and Kepler: no integer dot product
    NVIDIA_PASCAL = "nvidia_pascal"
    NVIDIA_TURING = "nvidia_turing"
    NVIDIA_AMPERE = "nvidia_ampere"
    NVIDIA_ADA = "nvidia_ada"
    NVIDIA_BLACKWELL = "nvidia_blackwell"
    NVIDIA_HBM = "nvidia_hbm"  # data-centre parts on stacked memory: P100, V100, A30, A100, H100...
    AMD_RDNA = "amd_rdna"
    AMD_HBM = "amd_hbm"  # Vega and Instinct
    INTEL_ARC = "intel_arc"
    APPLE_M1_M2 = "apple_m1_m2"
    APPLE_M3_M4 = "apple_m3_m4"
    APPLE_M5 = "apple_m5"

    @property
    def backend(self) -> Backend:
        """The llama.cpp backend that such a device is usually run with."""
        return _BACKENDS[self.value.split("_")[0]]


_BACKENDS = {
    "nvidia": Backend.CUDA,
    "amd": Backend.ROCM,
    "intel": Backend.VULKAN,
    "apple": Backend.METAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One row of the table, as far as a name decides it.

    `memory_bytes` None: the tables do not say, or the memory is the system's own. `memory_options`
    holds every size the part is sold with; without one in the name the smallest counts.
    `bandwidth_options` has more than one value (bytes/s) when the tables disagree.
    """

    name: str
    memory_bytes: int | None
    memory_options: tuple[int, ...]
    bandwidth_bytes_per_s: float
    bandwidth_options: tuple[float, ...]
    generation: Generation | None
    unified: bool


def lookup(name: str) -> Gpu | None:
    """Find a device by any usual spelling of its name; None when the table does not have it.

    Vendor words, "(TM)" and the kind of memory do not matter; "Laptop", "Ti", "SUPER" and the
    like do. A size in the name ("16GB") chooses among the sizes a part is sold with.
    """
    words, stated = _words(name)
    table = _table()
    row = table.get(words) or table.get(tuple(w for w in words if w not in _FORM_FACTORS))
    if row is None and words:
        row = table.get((*words, _LAPTOP))  # "Quadro T2000": there is no other
    if row is None:
        return None
    bandwidth = _chosen_bandwidth(row, stated)
    return Gpu(
        name=row.name,
        memory_bytes=_chosen_memory(row, stated),
        memory_options=row.memory,
        bandwidth_bytes_per_s=bandwidth[0],
        bandwidth_options=tuple(sorted(bandwidth)),
        generation=generation(name),
        unified=_UNIFIED.search(" ".join(words)) is not None,
    )


def generation(name: str, *, compute_capability: str | None = None) -> Generation | None:
    """Find a device's generation by CUDA's compute capability ("8.9") or by its name."""
    if compute_capability is not None:
        found = _by_capability(compute_capability)
        if found is not None:
            return found
    text = " ".join(_words(name)[0])
    return next((kind for kind, pattern in _NAMED if pattern.search(text)), None)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    memory: tuple[int, ...]
    bandwidth: tuple[float, ...]  # the one to use first


_NOISE = re.compile(
    r"nvidia|geforce|amd|ati|intel|apple|arc|rtx|gtx|rx|radeon|tesla|instinct|graphics|gpus?|"
    r"corporation|inc|oam|series|edition|generation|with|design|gddr5x?|gddr[67]|hbm[23]?e?"
)
_LAPTOP = "laptop"
_ALIASES = {"mobile": _LAPTOP, "notebook": _LAPTOP}
_FORM_FACTORS = frozenset({"sxm", "pcie", "gddr6x"})  # tried first as they stand
_GLUED = re.compile(r"\b(rtx|gtx|rx)(?=\d)|(\d{4})(?=(?:ti|super|xtx?|gre)\b)")
_MARKS = re.compile(r"\((?:r|tm|c)\)|[®™+]|\([^)]*\)")
_SIZE = re.compile(r"(\d{1,4}) ?gi?b")
_LONGEST_NAME = 200  # of a device; whatever is longer is not one


def _words(name: str) -> tuple[tuple[str, ...], int | None]:
    """Split a name into the words that distinguish devices and the memory in bytes in it."""
    text = _GLUED.sub(r"\g<0> ", _MARKS.sub(" ", name[:_LONGEST_NAME].lower()))
    size = _SIZE.search(text)
    text = _SIZE.sub(" ", text)
    words = (_ALIASES.get(word, word) for word in re.split(r"[^a-z0-9.]+", text) if word)
    significant = (re.sub(r"^sxm\d$", "sxm", word) for word in words if not _NOISE.fullmatch(word))
    return tuple(significant), int(size[1]) * GIB if size else None


@cache
def _table() -> dict[tuple[str, ...], _Row]:
    rows = {}
    for line in DEVICES.strip().splitlines():
        name, memory, bandwidth = (part.strip() for part in line.split("|"))
        sizes = () if memory == "?" else tuple(int(float(size) * GIB) for size in memory.split("/"))
        rates = tuple(float(rate) * GB_PER_S for rate in bandwidth.split("/"))
        rows[_words(name)[0]] = _Row(name, sizes, rates)
    return rows


def _chosen_memory(row: _Row, stated: int | None) -> int | None:
    """Return the size in the name if the part is sold with it; otherwise the smallest."""
    if stated is None or not row.memory:
        return stated or min(row.memory, default=None)
    return stated if stated in row.memory else min(stated, *row.memory)


def _chosen_bandwidth(row: _Row, stated: int | None) -> tuple[float, ...]:
    """Return the bandwidth of the size that counts, where a part is sold with as many sizes as
    bandwidths."""
    if row.memory and len(row.memory) == len(row.bandwidth):
        size = _chosen_memory(row, stated)
        return (row.bandwidth[row.memory.index(size if size in row.memory else min(row.memory))],)
    return row.bandwidth


_UNIFIED = re.compile(
    r"^m\d\b|^\d{3}m$|^80[56]0s$|^1[34]0[tv]$|^iris xe$|"
    r"^(?:gb10|dgx spark|strix halo|jetson|ryzen)\b",
    re.ASCII,
)

_NAMED: tuple[tuple[Generation, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.ASCII))
    for kind, pattern in (
        (Generation.INTEL_ARC, r"^pro [ab][3-6]0m?$"),  # NVIDIA's A40 is no "Pro"
        (Generation.NVIDIA_BLACKWELL, r"\bblackwell\b|\b50[5-9]0\b|\bgb10\b|\bdgx spark\b"),
        (Generation.NVIDIA_ADA, r"\bada\b|\b40[5-9]0\b|\bl(?:4|40s?|20)\b"),
        (
            Generation.NVIDIA_HBM,
            r"\b(?:[pvh]100|a30|a100x?|gv100|h[28]00|g[hb]200|b[23]00|titan v)\b",
        ),
        (
            Generation.NVIDIA_AMPERE,
            r"\b(?:2050|30[5-9]0)\b|\ba(?:2|4|10g?|16|40|[45]00|[1-6][05]00)\b|\borin\b|\bmx570\b",
        ),
        (
            Generation.NVIDIA_TURING,
            r"\b(?:20[6-8]|16[56])0\b|\bt(?:4|[4-6][05]0|1[02]00|2000)\b|^titan$",
        ),
        (Generation.NVIDIA_TURING, r"\bquadro [3-8]000\b|\bmx[45]50\b"),
        (
            Generation.NVIDIA_PASCAL,
            r"\b10[1-8]0\b|\bp(?:4|40|[4-6][02]0|[1-6][02]00)\b|\btitan xp\b"
            r"|\bmx(?:150|[23][35]0)\b",
        ),
        (
            Generation.NVIDIA_MAXWELL,
            r"\bmx1[13]0\b|\b[79][5-8]0\b|\b[mk](?:[4-8]0|[2-6][02]00|[46]20)\b",
        ),
        (Generation.AMD_HBM, r"\bmi\d{2,3}[xa]?\b|\bvii\b|\bvega\b"),
        (
            Generation.AMD_RDNA,
            r"\b(?:5[3-7]|6[3-9]|7[3-9]|90)[05]0[ms]?(?: xtx?| gre)?\b|\b90[67]0\b",
        ),
        (
            Generation.AMD_RDNA,
            r"\b(?:610|[678][4-9]0)m\b|\b80[56]0s\b|\b(?:64|65)50m\b|\bw[5-7]\d00m?\b|\bv620\b|\br9700\b",
        ),
        (Generation.AMD_RDNA, r"\bstrix halo\b|\bryzen ai max\b"),
        (Generation.INTEL_ARC, r"\b[ab](?:3[1578]|5[3578]|7[357])0m?\b|\bbattlemage\b|\bb[567]0\b"),
        (Generation.INTEL_ARC, r"\b1[34]0[tv]\b|^iris xe\b"),
        (Generation.APPLE_M1_M2, r"^m[12]\b"),
        (Generation.APPLE_M3_M4, r"^m[34]\b"),
        (Generation.APPLE_M5, r"^m5\b"),
    )
)


def _by_capability(text: str) -> Generation | None:
    major, _, minor = text.partition(".")
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        return None
    return _CAPABILITIES.get((int(major), int(minor))) or _MAJORS.get(int(major))


# CUDA C++ programming guide: x.0 of 6, 7, 8 and all of 9 and 10 have stacked memory
_CAPABILITIES = {
    (6, 0): Generation.NVIDIA_HBM,
    (7, 0): Generation.NVIDIA_HBM,
    (8, 0): Generation.NVIDIA_HBM,
    (8, 9): Generation.NVIDIA_ADA,
}
_MAJORS = {
    3: Generation.NVIDIA_MAXWELL,
    5: Generation.NVIDIA_MAXWELL,
    6: Generation.NVIDIA_PASCAL,
    7: Generation.NVIDIA_TURING,
    8: Generation.NVIDIA_AMPERE,
    9: Generation.NVIDIA_HBM,
    10: Generation.NVIDIA_HBM,
    12: Generation.NVIDIA_BLACKWELL,
}
