"""What a tensor is to the recipes, by its name, and which tensors no recipe touches."""

from enum import Enum, auto
from functools import lru_cache

from localllm.core.quants import GgmlType


class Category(Enum):
    """What a tensor is to the recipes (`tensor_get_category`)."""

    OUTPUT = auto()
    TOKEN_EMBD = auto()
    ATTENTION_QKV = auto()
    ATTENTION_V = auto()  # attn_v and attn_kv_b: the recipes treat them alike
    ATTENTION_K = auto()
    ATTENTION_Q = auto()
    ATTENTION_OUTPUT = auto()
    FFN_UP = auto()
    FFN_GATE = auto()
    FFN_DOWN = auto()
    OTHER = auto()


_PARTS: tuple[tuple[str, Category], ...] = (
    ("attn_qkv.weight", Category.ATTENTION_QKV),
    ("attn_kv_b.weight", Category.ATTENTION_V),
    ("attn_v.weight", Category.ATTENTION_V),
    ("attn_k.weight", Category.ATTENTION_K),
    ("attn_q.weight", Category.ATTENTION_Q),
    ("attn_output.weight", Category.ATTENTION_OUTPUT),
    ("ffn_up", Category.FFN_UP),
    ("ffn_gate", Category.FFN_GATE),
    ("ffn_down", Category.FFN_DOWN),
)


@lru_cache(maxsize=512)
def category(name: str) -> Category:
    """Sort a tensor by its name."""
    if name == "output.weight":
        return Category.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return Category.TOKEN_EMBD
    return next((kind for part, kind in _PARTS if part in name), Category.OTHER)


# tensor_allows_quantization: kept as the converter wrote them. The F32 ones are those that
# conversion/base.py writes in F32 whatever the file type; the others stay in the source's type.
_KEPT_F32 = (
    "_norm.weight",
    "ffn_gate_inp",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "position_embd.weight",
    "token_types.weight",
    "altup_correct_coef",
    "altup_predict_coef",
)
_KEPT_SOURCE = ("altup", "laurel", "per_layer_model_proj")


@lru_cache(maxsize=4096)
def kept(name: str, shape: tuple[int, ...], source: GgmlType) -> GgmlType | None:
    """Give the type of a tensor that no recipe touches, or None where the recipe decides.

    `shape` is in ggml order; `source` is the type of the unquantized file (F16, BF16 or F32).
    """
    dimensions = max((i for i, n in enumerate(shape, 1) if n > 1), default=1)
    if len(shape) < 2 or not name.endswith(".weight"):
        return GgmlType.F32
    if any(part in name for part in _KEPT_F32):
        return GgmlType.F32
    if dimensions < 2 or any(part in name for part in _KEPT_SOURCE):
        return source
    return None
