"""The rules of the quant mixes by hand; whole models are in test_catalogue.py."""

from itertools import product

import pytest

from localllm.core.catalogue.quant_mix import (
    Category,
    Positions,
    QuantTraits,
    TypeRule,
    category,
    fixed_type,
    quant_mix,
)
from localllm.core.model.file_types import ALIASES, FILE_TYPES, QUANT_LABELS, quant_in
from localllm.core.model.quants import BLOCKS, GgmlType

PLAIN = QuantTraits(
    output_q8_0=False,
    gqa=4,
    experts=0,
    is_70b=False,
    tied=False,
    imatrix=False,
    fused_as_value=True,
)


def test_names_sort_into_the_categories_llama_cpp_gives_them() -> None:
    assert category("output.weight") is Category.OUTPUT
    assert category("per_layer_token_embd.weight") is Category.TOKEN_EMBD
    assert category("blk.3.attn_v.weight") is Category.ATTENTION_V
    assert category("blk.3.attn_kv_b.weight") is Category.ATTENTION_V
    assert category("blk.3.attn_v_b.weight") is Category.OTHER
    assert category("blk.3.attn_output.weight") is Category.ATTENTION_OUTPUT
    assert category("blk.3.ffn_gate_up_exps.weight") is Category.FFN_GATE
    assert category("blk.3.ffn_down_shexp.weight") is Category.FFN_DOWN
    assert category("blk.3.ssm_out.weight") is Category.OTHER


def test_norms_biases_and_routers_stay_as_the_converter_wrote_them() -> None:
    assert fixed_type("blk.0.attn_norm.weight", (64,), GgmlType.BF16) is GgmlType.F32
    assert fixed_type("blk.0.attn_q.bias", (64,), GgmlType.BF16) is GgmlType.F32
    assert fixed_type("blk.0.ffn_gate_inp.weight", (64, 8), GgmlType.BF16) is GgmlType.F32
    assert fixed_type("blk.0.laurel_l.weight", (64, 8), GgmlType.BF16) is GgmlType.BF16
    assert fixed_type("cls.weight", (64, 1), GgmlType.F16) is GgmlType.F16
    assert fixed_type("blk.0.attn_q.weight", (64, 64), GgmlType.BF16) is None


def test_more_bits_go_to_the_ends_and_every_third_layer_between() -> None:
    raised = [i for i in range(32) if Positions.MORE_BITS.includes(i, 32)]
    assert raised == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


@pytest.mark.parametrize(
    ("quant", "kind", "expected"),
    [
        ("Q4_K_M", Category.OUTPUT, TypeRule(GgmlType.Q6_K)),
        ("Q4_K_M", Category.TOKEN_EMBD, TypeRule(GgmlType.Q4_K)),
        ("Q4_K_M", Category.FFN_DOWN, TypeRule(GgmlType.Q4_K, GgmlType.Q6_K, Positions.MORE_BITS)),
        (
            "Q4_K_S",
            Category.ATTENTION_V,
            TypeRule(GgmlType.Q4_K, GgmlType.Q5_K, Positions.FIRST_FOUR),
        ),
        ("Q2_K", Category.ATTENTION_V, TypeRule(GgmlType.Q4_K)),
        ("Q3_K_L", Category.ATTENTION_OUTPUT, TypeRule(GgmlType.Q5_K)),
        ("IQ3_XS", Category.FFN_UP, TypeRule(GgmlType.IQ3_S, GgmlType.IQ3_XXS, Positions.MIDDLE)),
        ("Q8_0", Category.OUTPUT, TypeRule(GgmlType.Q8_0)),
        ("BF16", Category.FFN_DOWN, TypeRule(GgmlType.BF16)),
    ],
)
def test_a_recipe_gives_a_category_its_type(quant: str, kind: Category, expected: TypeRule) -> None:
    assert quant_mix(quant, PLAIN).type_rule(kind, (4096, 4096)) == expected


@pytest.mark.parametrize(
    ("quant", "shape", "kind"),
    [],
)
def test_rows_that_do_not_fill_large_blocks_get_small_ones(
    quant: str, shape: tuple[int, int], kind: GgmlType
) -> None:
    assert quant_mix(quant, PLAIN).type_rule(Category.ATTENTION_Q, shape).kind is kind


def test_every_recipe_gives_every_shape_a_type_whose_blocks_it_fills() -> None:
    for quant, kind, columns in product(FILE_TYPES, Category, (4096, 576, 100)):
        rule = quant_mix(quant, PLAIN).type_rule(kind, (columns, 64, 8))
        for each in (rule.kind, rule.raised):
            assert each is None or columns % BLOCKS[each].elements == 0


def test_a_label_has_one_number_and_one_spelling() -> None:
    assert len(set(QUANT_LABELS.values())) == len(QUANT_LABELS)
    assert all(QUANT_LABELS[each.number] == label for label, each in FILE_TYPES.items())
    assert set(ALIASES.values()) <= set(QUANT_LABELS.values())
    for label in QUANT_LABELS.values():
        assert quant_in(f"model-{label.lower()}") == label
    for alias, label in ALIASES.items():
        assert alias not in QUANT_LABELS.values()
        assert quant_in(f"model.{alias}") == label
