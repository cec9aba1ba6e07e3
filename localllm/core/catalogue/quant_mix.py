"""The element type of each tensor in each quant mix.

A label such as "Q4_K_M" is a mix of types: some layers of some matrices get more bits. The rules
here are those of `llama_tensor_get_type_impl`, `tensor_type_fallback` and
`tensor_allows_quantization` in llama.cpp's `src/llama-quant.cpp` (the build that
llama-cpp-python 0.3.36 carries); tests compare them with what that build writes. They let a
model be sized for every quant before any of its files was seen. Publishers who override single
tensors ("UD-" and "_XL" files) follow rules of their own, which are not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from functools import lru_cache

from localllm.core.model.file_types import FILE_TYPES
from localllm.core.model.quants import BLOCKS, GgmlType


class Category(Enum):
    """The kinds of tensors that the rules distinguish (`tensor_get_category`)."""

    OUTPUT = auto()
    TOKEN_EMBD = auto()
    ATTENTION_QKV = auto()
    ATTENTION_V = auto()  # attn_v and attn_kv_b: the rules treat them alike
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
    """Find a tensor's category by its name."""
    if name == "output.weight":
        return Category.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return Category.TOKEN_EMBD
    return next((kind for part, kind in _PARTS if part in name), Category.OTHER)


# tensor_allows_quantization: left as the converter wrote them. The F32 ones are those that
# conversion/base.py writes in F32 whatever the file type; the others stay in the source's type.
_ALWAYS_F32 = (
    "_norm.weight",
    "ffn_gate_inp",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "position_embd.weight",
    "token_types.weight",
    "altup_correct_coef",
    "altup_predict_coef",
)
_AS_CONVERTED = ("altup", "laurel", "per_layer_model_proj")


@lru_cache(maxsize=4096)
def fixed_type(name: str, shape: tuple[int, ...], source: GgmlType) -> GgmlType | None:
    """Return the type of a tensor that is never quantized, or None where the mix decides.

    `shape` is in ggml order; `source` is the type of the unquantized file (F16, BF16 or F32).
    """
    dimensions = max((i for i, n in enumerate(shape, 1) if n > 1), default=1)
    if len(shape) < 2 or not name.endswith(".weight"):
        return GgmlType.F32
    if any(part in name for part in _ALWAYS_F32):
        return GgmlType.F32
    if dimensions < 2 or any(part in name for part in _AS_CONVERTED):
        return source
    return None


class Positions(StrEnum):
    """The positions, of `total` tensors of a category, that get the raised type."""

    MORE_BITS = "first and last eighth, and every third between"
    FIRST_EIGHTH = "first eighth"
    FIRST_SIXTEENTH = "first sixteenth"
    FIRST_TWO = "first two"
    FIRST_FOUR = "first four"
    MIDDLE = "all but the first and last eighth"

    def includes(self, i: int, total: int) -> bool:
        """Return True when position `i` of `total` is one of them."""
        eighth = total // 8
        match self:
            case Positions.MORE_BITS:
                return i < eighth or i >= 7 * total // 8 or (i - eighth) % 3 == 2
            case Positions.FIRST_EIGHTH:
                return i < eighth
            case Positions.FIRST_SIXTEENTH:
                return i < total // 16
            case Positions.FIRST_TWO:
                return i < 2
            case Positions.FIRST_FOUR:
                return i < 4
            case Positions.MIDDLE:
                return eighth <= i < 7 * total // 8


@dataclass(frozen=True, slots=True)
class TypeRule:
    """The type of a category's tensors: `kind`, or `raised` at the positions of `where`."""

    kind: GgmlType
    raised: GgmlType | None = None
    where: Positions | None = None

    def at(self, i: int, total: int) -> GgmlType:
        """Return the type at position `i` of `total`."""
        if self.raised is not None and self.where is not None and self.where.includes(i, total):
            return self.raised
        return self.kind

    def replaced(self, types: Mapping[GgmlType, GgmlType]) -> "TypeRule":
        """Replace types; those that are no key of `types` stay."""
        raised = None if self.raised is None else types.get(self.raised, self.raised)
        return TypeRule(types.get(self.kind, self.kind), raised, self.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantTraits:
    """The facts about a model that the rules depend on, besides the quant's label.

    `output_q8_0` and `is_70b` are the architecture's (`Architecture.output_q8_0`, LLM_TYPE_70B);
    `gqa` is query heads per key head in layer 0. `tied`: there is no `output.weight`. `imatrix`:
    the file is made with an importance matrix. `fused_as_value`: fused query, key and value
    matrices follow the rule for values, as they do in the pinned build but did not in the builds
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


class QuantMix:
    """One quant mix (a key of FILE_TYPES, else KeyError) for models of the same traits."""

    def __init__(self, quant: str, traits: QuantTraits) -> None:
        self._quant, self._traits = quant, traits
        self._default = FILE_TYPES[quant].default
        self._float = BLOCKS[self._default].elements == 1
        self._rules: dict[Category, TypeRule] = {}

    def type_rule(self, kind: Category, ne: tuple[int, ...]) -> TypeRule:
        """Return the rule for the quantizable tensors of one category and shape.

        Positions count the tensors of the category in layer order, except feed-forward tensors of
        models with experts, where the position is the layer.
        """
        if self._float:
            return TypeRule(self._default)
        if kind is Category.OUTPUT or (self._traits.tied and kind is Category.TOKEN_EMBD):
            output = _output(self._quant, self._default, ne[0], self._traits)
            return _fallback(TypeRule(output), ne[0])
        if self._quant == "MXFP4":
            stacked = len(ne) > 2 and ne[2] > 1
            return _fallback(TypeRule(_T.MXFP4 if stacked else _T.Q8_0), ne[0])
        if kind not in self._rules:
            self._rules[kind] = _in_layers(self._quant, self._default, kind, self._traits)
        return _fallback(self._rules[kind], ne[0])


@lru_cache(maxsize=1024)
def quant_mix(quant: str, traits: QuantTraits) -> QuantMix:
    """Return a quant mix, made once. Raises KeyError for a label whose rules are not known."""
    return QuantMix(quant, traits)


def _in_layers(quant: str, default: _T, kind: Category, traits: QuantTraits) -> TypeRule:
    """Return the rule for all but the output matrix and MXFP4; shapes do not matter."""
    if kind is Category.TOKEN_EMBD:
        return TypeRule(_TOKEN_EMBD.get(quant, default))
    if kind is Category.ATTENTION_QKV:
        if not traits.fused_as_value:
            return TypeRule(_FUSED.get(quant, default))
        kind = Category.ATTENTION_V
    if quant in _IQ1_IQ2:
        return _low_bit(quant, default, kind, traits)
    match kind:
        case Category.ATTENTION_V:
            return _attention_v(quant, default, traits)
        case Category.ATTENTION_K | Category.ATTENTION_Q:
            if kind is Category.ATTENTION_K and traits.experts == 8:
                return TypeRule(_T.Q8_0)
            return TypeRule({"IQ3_XS": _T.IQ3_XXS, "IQ3_XXS": _T.IQ2_S}.get(quant, default))
        case Category.FFN_DOWN:
            return _ffn_down(quant, default, traits)
        case Category.ATTENTION_OUTPUT:
            return TypeRule(_attention_output(quant, default, traits))
        case Category.FFN_GATE | Category.FFN_UP if quant == "IQ3_XS":
            return TypeRule(default, _T.IQ3_XXS, Positions.MIDDLE)
        case _:
            return TypeRule(default)


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


def _output(quant: str, default: _T, columns: int, traits: QuantTraits) -> _T:
    if quant == "MXFP4" or traits.output_q8_0 or columns % BLOCKS[default].elements:
        return _T.Q8_0
    if quant in (*_IQ1_IQ2, "IQ3_XXS"):
        return _T.Q5_K
    return _T.Q8_0 if default is _T.Q8_0 else _T.Q6_K


def _low_bit(quant: str, default: _T, kind: Category, traits: QuantTraits) -> TypeRule:
    richer = _T.IQ3_S if quant in ("IQ2_S", "IQ2_M") else _T.Q2_K
    if kind is Category.ATTENTION_V:
        return TypeRule(_T.Q4_K if traits.gqa >= 4 or traits.experts >= 4 else richer)
    if kind is Category.ATTENTION_K and traits.experts == 8:
        return TypeRule(_T.Q4_K)
    if kind is Category.FFN_DOWN:
        return TypeRule(default, richer, Positions.FIRST_EIGHTH)
    if kind is Category.ATTENTION_OUTPUT:
        if traits.experts == 8:
            return TypeRule(_T.Q5_K)
        if quant in ("IQ1_S", "IQ1_M"):
            return TypeRule(_T.IQ2_XXS)
        if quant in ("IQ2_S", "IQ2_M"):
            return TypeRule(_T.IQ3_S)
    return TypeRule(default)


def _attention_v(quant: str, default: _T, traits: QuantTraits) -> TypeRule:
    if traits.experts == 8:
        return TypeRule(_T.Q8_0)
    rule = _attention_v_plain(quant, default, traits)
    if traits.is_70b:
        return rule.replaced({_T.Q3_K: _T.Q5_K, _T.Q4_K: _T.Q5_K})
    return rule


def _attention_v_plain(quant: str, default: _T, traits: QuantTraits) -> TypeRule:
    shared = traits.gqa >= 4
    match quant:
        case "Q2_K":
            return TypeRule(_T.Q4_K if shared else _T.Q3_K)
        case "IQ3_XXS" if not shared:
            return TypeRule(_T.IQ3_XXS if traits.imatrix else _T.IQ3_S)
        case "Q2_K_S" | "IQ3_XXS" | "IQ3_XS" | "IQ3_S" if shared:
            return TypeRule(_T.Q4_K)
        case "IQ3_M":
            return TypeRule(_T.Q4_K)
        case "Q3_K_M":
            return TypeRule(_T.Q4_K, _T.Q5_K, Positions.FIRST_TWO)
        case "Q3_K_L":
            return TypeRule(_T.Q5_K)
        case "IQ4_NL" | "IQ4_XS" if shared:
            return TypeRule(_T.Q5_K)
        case "Q4_K_M" | "Q5_K_M":
            return TypeRule(default, _T.Q6_K, Positions.MORE_BITS)
        case "Q4_K_S":
            return TypeRule(default, _T.Q5_K, Positions.FIRST_FOUR)
        case _:
            return TypeRule(default)


def _ffn_down(quant: str, default: _T, traits: QuantTraits) -> TypeRule:
    match quant:
        case "Q2_K":
            return TypeRule(_T.Q3_K)
        case "Q2_K_S":
            return TypeRule(default, _T.Q4_K, Positions.FIRST_EIGHTH)
        case "IQ3_XXS" if not traits.imatrix:
            return TypeRule(_T.Q3_K, _T.Q4_K, Positions.FIRST_EIGHTH)
        case "Q3_K_M":
            return TypeRule(_T.Q4_K, _T.Q5_K, Positions.FIRST_SIXTEENTH)
        case "IQ3_M":
            where = Positions.MORE_BITS if traits.experts == 8 else Positions.FIRST_EIGHTH
            return TypeRule(default, _T.Q4_K, where)
        case "Q3_K_L":
            return TypeRule(_T.Q5_K)
        case "Q4_K_M" | "Q5_K_M":
            return TypeRule(default, _T.Q6_K, Positions.MORE_BITS)
        case "IQ4_NL" | "IQ4_XS" if not traits.imatrix:
            return TypeRule(default, _T.Q5_K, Positions.FIRST_EIGHTH)
        case "Q4_K_S":
            return TypeRule(default, _T.Q5_K, Positions.FIRST_EIGHTH)
        case "Q4_0" if traits.imatrix:
            return TypeRule(default, _T.Q4_1, Positions.FIRST_EIGHTH)
        case "Q5_0" if traits.imatrix:
            return TypeRule(default, _T.Q5_1, Positions.FIRST_EIGHTH)
        case _:
            return TypeRule(default)


def _attention_output(quant: str, default: _T, traits: QuantTraits) -> _T:
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


def _fallback(rule: TypeRule, columns: int) -> TypeRule:
    if columns % 256 == 0:
        return rule
    raised = None if rule.raised is None else _fits(rule.raised, columns)
    return TypeRule(_fits(rule.kind, columns), raised, rule.where)
