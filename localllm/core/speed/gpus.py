"""The table of graphics devices by name: memory, bandwidth, generation.

For machines that are not here (`suggest --gpu "RTX 4060"`) and for drivers that do not tell. The
table merges the device tables of five public tools (fitlab 0.1.1, ggufit 0.3.0, llmfit 3f44fd30,
whichllm 0.5.21, make-localllm-easier 0.7.1; read in August 2026) and, for the 2070 Max-Q, MI50 and
MI60, public device databases (read in November 2026): the bandwidth is what most of them give;
where they differ by more than 3 % the others are kept and shown: only measuring settles it. A name
that is not there is unknown.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from localllm.core.hardware import Backend

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
    row = _table().get(words) or _table().get(tuple(w for w in words if w not in _FORM_FACTORS))
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
_ALIASES = {"mobile": "laptop", "notebook": "laptop"}
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
    for line in _DEVICES.strip().splitlines():
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
    """Return the bandwidths of the stated size: where a part is sold with as many sizes as
    bandwidths, the larger has the faster memory."""
    if stated in row.memory and len(row.memory) == len(row.bandwidth):
        return (sorted(row.bandwidth)[row.memory.index(stated)],)
    return row.bandwidth


_UNIFIED = re.compile(
    r"^m\d\b|^\d{3}m$|^\d{4}s$|^(?:gb10|dgx spark|strix halo|jetson|ryzen)\b", re.ASCII
)

_NAMED: tuple[tuple[Generation, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.ASCII))
    for kind, pattern in (
        (Generation.NVIDIA_BLACKWELL, r"\bblackwell\b|\b50[5-9]0\b|\bgb10\b|\bdgx spark\b"),
        (Generation.NVIDIA_ADA, r"\bada\b|\b40[5-9]0\b|\bl(?:4|40s?|20)\b"),
        (
            Generation.NVIDIA_HBM,
            r"\b(?:[pvh]100|a30|a100x?|gv100|h[28]00|g[hb]200|b[23]00|titan v)\b",
        ),
        (Generation.NVIDIA_AMPERE, r"\b30[5-9]0\b|\ba(?:2|10g?|16|40|[1-6][05]00)\b|\borin\b"),
        (Generation.NVIDIA_TURING, r"\b(?:20[6-8]|16[56])0\b|\bt(?:4|[46]00|1000|2000)\b|^titan$"),
        (Generation.NVIDIA_TURING, r"\bquadro [3-8]000\b"),
        (Generation.NVIDIA_PASCAL, r"\b10[1-8]0\b|\bp(?:4|40|[1-6]000)\b|\btitan xp\b"),
        (Generation.NVIDIA_MAXWELL, r"\b[79][5-8]0\b|\b[mk](?:[4-8]0|[2-6][02]00|[46]20)\b"),
        (Generation.AMD_HBM, r"\bmi\d{2,3}[xa]?\b|\bvii\b|\bvega\b"),
        (Generation.AMD_RDNA, r"\b(?:5[3-7]|6[3-9]|7[3-9]|90)[05]0(?: xtx?| gre)?\b|\b90[67]0\b"),
        (Generation.AMD_RDNA, r"\b[678][4-9]0m\b|\b80[56]0s\b|\bw[67]\d00\b|\bv620\b|\br9700\b"),
        (Generation.AMD_RDNA, r"\bstrix halo\b|\bryzen ai max\b"),
        (Generation.INTEL_ARC, r"\b[ab](?:3[18]|5[78]|7[57])0\b|\bbattlemage\b|\bb[567]0\b"),
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

# name | GiB, all sizes sold ("?": not said) | GB/s, the one used first, then those that differ
_DEVICES = """
1050 ti | 4 | 112
1060 | 3/6 | 192
1070 | 8 | 256
1070 ti | 8 | 256
1080 | 8 | 320
1080 ti | 11 | 484
1650 | ? | 128
1650 super | ? | 192
1660 | 6 | 192
1660 super | 6 | 336
1660 ti | 6 | 288
2060 | 6 | 336
2060 super | 8 | 448
2070 | 8 | 448
2070 max q | 8 | 384
2070 super | 8 | 448
2080 | 8 | 448
2080 super | 8 | 496
2080 ti | 11 | 616
3050 | 8 | 224
3060 | 12 | 360
3060 laptop | 6 | 336
3060 ti | 8 | 448
3060 ti gddr6x | 8 | 608
3070 | 8 | 448
3070 laptop | 8 | 448
3070 ti | 8 | 608
3080 | 10 | 760
3080 laptop | 8 | 448
3080 ti | 12 | 912
3080 ti laptop | 16 | 512
3090 | 24 | 936
3090 ti | 24 | 1008
4000 ada | 20 | 360
4050 laptop | 6 | 192
4060 | 8 | 272
4060 laptop | 8 | 256
4060 ti | 8/16 | 288
4070 | 12 | 504
4070 laptop | 8 | 256
4070 super | 12 | 504
4070 ti | 12 | 504
4070 ti super | 16 | 672
4080 | 16 | 717
4080 laptop | 12 | 432
4080 super | 16 | 736
4090 | 24 | 1008
4090 laptop | 16 | 576
5000 ada | 32 | 576
5050 | 8 | 320
5060 | 8 | 448/256/336
5060 ti | 8/16 | 448
5070 | 12 | 672
5070 ti | 16 | 896
5080 | 16 | 960
5080 laptop | 16 | 896
5090 | 32 | 1792
5090 laptop | 24 | 896
6000 ada | 48 | 960
6600 | 8 | 224
6600 xt | 8 | 256
660m | ? | 55
6650 xt | ? | 256
6700 | ? | 320
6700 xt | 12 | 384
6750 xt | 12 | 432
6800 | 16 | 512
6800 xt | 16 | 512
680m | ? | 75
6900 xt | 16 | 512
6950 xt | 16 | 576
740m | ? | 60
760 | ? | 192.2
7600 | 8 | 288
7600 xt | 16 | 288
760m | ? | 75
770 | ? | 224.3
7700 xt | 12 | 432
780 | ? | 288.4
7800 xt | 16 | 624
780m | ? | 90
7900 gre | 16 | 576
7900 xt | 20 | 800
7900 xtx | 24 | 960
8050s | ? | 256
8060s | ? | 256
840m | ? | 60
860m | ? | 90
880m | ? | 120
890m | ? | 120
9060 xt | ? | 320
9070 | 16 | 640/488/560
9070 xt | 16 | 640
950 | 2 | 105.6
960 | 2 | 112
970 | 4 | 224
980 | 4 | 224
980 ti | 6 | 336
a10 | 24 | 600
a100 | 40/80 | 1555/2039
a100 sxm | ? | 2039
a10g | ? | 600
a30 | 24 | 933
a3000 laptop | ? | 264
a40 | 48 | 696
a4000 | 16 | 448
a4500 | 20 | 640
a5000 | 24 | 768
a580 | 8 | 512
a6000 | 48 | 768
a750 | 8 | 512
a770 | 16 | 560
b570 | 10 | 380
b580 | 12 | 456
battlemage g31 | 32 | 608
dgx spark | ? | 273
gb10 | ? | 273
gb200 | 192 | 8000
gh200 | 96 | 4000
h100 | ? | 3350/2039
h100 nvl | 94 | 3900
h100 pcie | 80 | 2000
h100 sxm | 80 | 3350
h200 | 141 | 4800
jetson agx orin | 64 | 204
jetson orin nano | 8 | 68
l4 | 24 | 300
l40 | 48 | 864
l40s | 48 | 864
m1 | ? | 68
m1 max | ? | 400
m1 pro | ? | 200
m1 ultra | ? | 800
m2 | ? | 100
m2 max | ? | 400
m2 pro | ? | 200
m2 ultra | ? | 800
m3 | ? | 100
m3 max | ? | 400
m3 pro | ? | 150
m3 ultra | ? | 800
m4 | ? | 120
m4 max | ? | 546
m4 pro | ? | 273
m4 ultra | ? | 819.2
m5 | ? | 153.6
m5 max | ? | 614
m5 pro | ? | 307
mi100 | ? | 1229
mi50 | 16/32 | 1024
mi60 | 32 | 1024
mi210 | 64 | 1638
mi250 | ? | 3277
mi250x | 128 | 3277
mi300 | ? | 5300
mi300x | 192 | 5300
p100 | 16 | 732
pro b70 | 32 | 608
pro w7800 | 32 | 576
pro w7900 | 48 | 864
quadro k2200 | ? | 80
quadro k420 | ? | 14.4
quadro k4200 | ? | 173
quadro k5200 | ? | 192.3
quadro k6000 | ? | 288
quadro k620 | ? | 29
quadro rtx 8000 | 48 | 672
r9700 | ? | 640
radeon vii | 16 | 1024
ryzen ai max 395 | ? | 256
strix halo | ? | 256
t4 | 16 | 320
v100 | 16/32 | 900
titan rtx | 24 | 672
v100 sxm | ? | 900
"""
