"""Which element type each tensor gets in each quant mix.

A label such as "Q4_K_M" is a recipe, not a type: some layers of some matrices get more bits.
The recipes here are those of `llama_tensor_get_type_impl`, `tensor_type_fallback` and
`tensor_allows_quantization` in llama.cpp's `src/llama-quant.cpp` (the build that
llama-cpp-python 0.3.36 carries); tests compare them with what that build writes. They let a
model be sized for every quant before any of its files was seen. Publishers who override single
tensors ("UD-" and "_XL" files) follow recipes of their own, which are not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from functools import lru_cache

from localllm.core.model.file_types import FILE_TYPES
from localllm.core.model.quants import BLOCKS, GgmlType

__all__ = [
    "Category",
    "Choice",
    "Recipe",
    "Traits",
    "Where",
    "category",
    "choose",
    "kept",
    "recipe",
]


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


class Where(StrEnum):
    """Which positions of a run of `total` tensors get the raised type."""

    MORE_BITS = "first and last eighth, and every third between"
    FIRST_EIGHTH = "first eighth"
    FIRST_SIXTEENTH = "first sixteenth"
    FIRST_TWO = "first two"
    FIRST_FOUR = "first four"
    MIDDLE = "all but the first and last eighth"

    def holds(self, i: int, total: int) -> bool:
        eighth = total // 8
        match self:
            case Where.MORE_BITS:
                return i < eighth or i >= 7 * total // 8 or (i - eighth) % 3 == 2
            case Where.FIRST_EIGHTH:
                return i < eighth
            case Where.FIRST_SIXTEENTH:
                return i < total // 16
            case Where.FIRST_TWO:
                return i < 2
            case Where.FIRST_FOUR:
                return i < 4
            case Where.MIDDLE:
                return eighth <= i < 7 * total // 8


@dataclass(frozen=True, slots=True)
class Choice:
    """The type of a run of tensors: `kind`, or `raised` at the positions where `where` holds."""

    kind: GgmlType
    raised: GgmlType | None = None
    where: Where | None = None

    def at(self, i: int, total: int) -> GgmlType:
        """Give the type at position `i` of `total`."""
        if self.raised is not None and self.where is not None and self.where.holds(i, total):
            return self.raised
        return self.kind

    def mapped(self, fit: Mapping[GgmlType, GgmlType]) -> "Choice":
        """Replace types; those not in `fit` stay."""
        raised = None if self.raised is None else fit.get(self.raised, self.raised)
        return Choice(fit.get(self.kind, self.kind), raised, self.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the recipes depend on besides the quant's label.

    `output_q8_0` and `is_70b` are the architecture's (`Architecture.output_q8_0`, LLM_TYPE_70B);
    `gqa` is query heads per key head in layer 0. `tied`: there is no `output.weight`. `imatrix`:
    the file is made with an importance matrix. `fused_as_value`: fused query, key and value
    matrices follow the recipe for values, as they do in the pinned build but did not in the builds
    that most published files come from.
    """

    output_q8_0: bool
    gqa: int
    experts: int
    is_70b: bool
    tied: bool
    imatrix: bool
    fused_as_value: bool


_IQ1_IQ2 = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M")
_EIGHT_EXPERTS_OUTPUT = [
    "Q2_K",
    "IQ3_XS",
    "IQ3_XXS",
    "Q3_K_S",
    "Q3_K_M",
    "IQ4_NL",
    "Q4_K_S",
    "Q4_K_M",
    "IQ3_S",
    "IQ3_M",
    "IQ4_XS",
]
_T = GgmlType


class Recipe:
    """One quant mix (a key of FILE_TYPES, else KeyError) for models of the same traits."""

    def __init__(self, quant: str, traits: Traits) -> None:
        self._quant, self._traits = quant, traits
        self._default = FILE_TYPES[quant].default
        self._float = BLOCKS[self._default].elements == 1
        self._choices: dict[Category, Choice] = {}

    def choose(self, kind: Category, ne: tuple[int, ...]) -> Choice:
        """Give the type of the quantizable tensors of one category and shape.

        Positions count the tensors of the category in layer order, except feed-forward tensors of
        models with experts, where the position is the layer.
        """
        if self._float:
            return Choice(self._default)
        if kind is Category.OUTPUT or (self._traits.tied and kind is Category.TOKEN_EMBD):
            output = _output(self._quant, self._default, ne[0], self._traits)
            return _fallback(Choice(output), ne[0])
        if self._quant == "MXFP4":
            stacked = len(ne) > 2 and ne[2] > 1
            return _fallback(Choice(_T.MXFP4 if stacked else _T.Q8_0), ne[0])
        if kind not in self._choices:
            self._choices[kind] = _in_layers(self._quant, self._default, kind, self._traits)
        return _fallback(self._choices[kind], ne[0])


@lru_cache(maxsize=1024)
def recipe(quant: str, traits: Traits) -> Recipe:
    """Give the recipe of a quant mix. Raises KeyError for a label that has none here."""
    return Recipe(quant, traits)


def choose(quant: str, kind: Category, ne: tuple[int, ...], traits: Traits) -> Choice:
    """As `Recipe.choose`, for a single question."""
    return recipe(quant, traits).choose(kind, ne)


def _in_layers(quant: str, default: _T, kind: Category, traits: Traits) -> Choice:
    """The choice for what is neither the output matrix nor MXFP4's; shapes do not matter."""
    if kind is Category.TOKEN_EMBD:
        return Choice(_TOKEN_EMBD.get(quant, default))
    if kind is Category.ATTENTION_QKV:
        if not traits.fused_as_value:
            return Choice(_FUSED.get(quant, default))
        kind = Category.ATTENTION_V
    if quant in _IQ1_IQ2:
        return _low_bit(quant, default, kind, traits)
    match kind:
        case Category.ATTENTION_V:
            return _attention_v(quant, default, traits)
        case Category.ATTENTION_K | Category.ATTENTION_Q:
            if kind is Category.ATTENTION_K and traits.experts == 8:
                return Choice(_T.Q8_0)
            return Choice({"IQ3_XS": _T.IQ3_XXS, "IQ3_XXS": _T.IQ2_S}.get(quant, default))
        case Category.FFN_DOWN:
            return _ffn_down(quant, default, traits)
        case Category.ATTENTION_OUTPUT:
            return Choice(_attention_output(quant, default, traits))
        case Category.FFN_GATE | Category.FFN_UP if quant == "IQ3_XS":
            return Choice(default, _T.IQ3_XXS, Where.MIDDLE)
        case _:
            return Choice(default)


_TOKEN_EMBD: Mapping[str, _T] = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), _T.Q2_K),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), _T.IQ3_S),
}


# llama-quant.cpp up to early 2026; published Phi files agree with it to the byte.
_FUSED: Mapping[str, _T] = {
    **dict.fromkeys(("Q3_K_M", "Q3_K_L", "IQ3_M"), _T.Q4_K),
    "Q4_K_M": _T.Q5_K,
    "Q5_K_M": _T.Q6_K,
}


def _output(quant: str, default: _T, columns: int, traits: Traits) -> _T:
    if quant == "MXFP4" or traits.output_q8_0 or columns % BLOCKS[default].elements:
        return _T.Q8_0
    if quant in (*_IQ1_IQ2, "IQ3_XXS"):
        return _T.Q5_K
    return _T.Q8_0 if default is _T.Q8_0 else _T.Q6_K


def _low_bit(quant: str, default: _T, kind: Category, traits: Traits) -> Choice:
    richer = _T.IQ3_S if quant in ("IQ2_S", "IQ2_M") else _T.Q2_K
    if kind is Category.ATTENTION_V:
        return Choice(_T.Q4_K if traits.gqa >= 4 or traits.experts >= 4 else richer)
    if kind is Category.ATTENTION_K and traits.experts == 8:
        return Choice(_T.Q4_K)
    if kind is Category.FFN_DOWN:
        return Choice(default, richer, Where.FIRST_EIGHTH)
    if kind is Category.ATTENTION_OUTPUT:
        if traits.experts == 8:
            return Choice(_T.Q5_K)
        if quant in ("IQ1_S", "IQ1_M"):
            return Choice(_T.IQ2_XXS)
        if quant in ("IQ2_S", "IQ2_M"):
            return Choice(_T.IQ3_S)
    return Choice(default)


def _attention_v(quant: str, default: _T, traits: Traits) -> Choice:
    if traits.experts == 8:
        return Choice(_T.Q8_0)
    choice = _attention_v_plain(quant, default, traits)
    if traits.is_70b:
        return choice.mapped({_T.Q3_K: _T.Q5_K, _T.Q4_K: _T.Q5_K})
    return choice


def _attention_v_plain(quant: str, default: _T, traits: Traits) -> Choice:
    shared = traits.gqa >= 4
    match quant:
        case "Q2_K":
            return Choice(_T.Q4_K if shared else _T.Q3_K)
        case "IQ3_XXS" if not shared:
            return Choice(_T.IQ3_XXS if traits.imatrix else _T.IQ3_S)
        case "Q2_K_S" | "IQ3_XXS" | "IQ3_XS" | "IQ3_S" if shared:
            return Choice(_T.Q4_K)
        case "IQ3_M":
            return Choice(_T.Q4_K)
        case "Q3_K_M":
            return Choice(_T.Q4_K, _T.Q5_K, Where.FIRST_TWO)
        case "Q3_K_L":
            return Choice(_T.Q5_K)
        case "IQ4_NL" | "IQ4_XS" if shared:
            return Choice(_T.Q5_K)
        case "Q4_K_M" | "Q5_K_M":
            return Choice(default, _T.Q6_K, Where.MORE_BITS)
        case "Q4_K_S":
            return Choice(default, _T.Q5_K, Where.FIRST_FOUR)
        case _:
            return Choice(default)


def _ffn_down(quant: str, default: _T, traits: Traits) -> Choice:
    match quant:
        case "Q2_K":
            return Choice(_T.Q3_K)
        case "Q2_K_S":
            return Choice(default, _T.Q4_K, Where.FIRST_EIGHTH)
        case "IQ3_XXS" if not traits.imatrix:
            return Choice(_T.Q3_K, _T.Q4_K, Where.FIRST_EIGHTH)
        case "Q3_K_M":
            return Choice(_T.Q4_K, _T.Q5_K, Where.FIRST_SIXTEENTH)
        case "IQ3_M":
            where = Where.MORE_BITS if traits.experts == 8 else Where.FIRST_EIGHTH
            return Choice(default, _T.Q4_K, where)
        case "Q3_K_L":
            return Choice(_T.Q5_K)
        case "Q4_K_M" | "Q5_K_M":
            return Choice(default, _T.Q6_K, Where.MORE_BITS)
        case "IQ4_NL" | "IQ4_XS" if not traits.imatrix:
            return Choice(default, _T.Q5_K, Where.FIRST_EIGHTH)
        case "Q4_K_S":
            return Choice(default, _T.Q5_K, Where.FIRST_EIGHTH)
        case "Q4_0" if traits.imatrix:
            return Choice(default, _T.Q4_1, Where.FIRST_EIGHTH)
        case "Q5_0" if traits.imatrix:
            return Choice(default, _T.Q5_1, Where.FIRST_EIGHTH)
        case _:
            return Choice(default)


def _attention_output(quant: str, default: _T, traits: Traits) -> _T:
    if traits.experts == 8:
        return _T.Q5_K if quant in _EIGHT_EXPERTS_OUTPUT else default
    return {
        "Q2_K": _T.Q3_K,
        "IQ3_XXS": _T.IQ3_S,
        "Q3_K_M": _T.Q4_K,
        "Q3_K_L": _T.Q5_K,
        "IQ3_M": _T.Q4_K,
    }.get(quant, default)


# tensor_type_fallback: rows that do not fill blocks of 256 get a type with blocks of 32.
_SMALLER_BLOCK: Mapping[_T, _T] = {
    **dict.fromkeys(
        (_T.IQ1_S, _T.IQ1_M, _T.IQ2_XXS, _T.IQ2_XS, _T.IQ2_S, _T.IQ3_XXS, _T.IQ3_S, _T.IQ4_XS),
        _T.IQ4_NL,
    ),
    _T.Q2_K: _T.Q4_0,
    _T.Q3_K: _T.Q4_0,
    _T.Q4_K: _T.Q5_0,
    _T.Q5_K: _T.Q5_1,
    _T.Q6_K: _T.Q8_0,
}


def _fits(kind: _T, columns: int) -> _T:
    if columns % BLOCKS[kind].elements == 0:
        return kind
    smaller = _SMALLER_BLOCK.get(kind, kind)
    return _T.F16 if columns % BLOCKS[smaller].elements else smaller


def _fallback(choice: Choice, columns: int) -> Choice:
    if columns % 256 == 0:
        return choice
    raised = None if choice.raised is None else _fits(choice.raised, columns)
    return Choice(_fits(choice.kind, columns), raised, choice.where)
