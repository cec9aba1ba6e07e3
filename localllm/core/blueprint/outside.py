"""The tensors outside the layers: embeddings, output, factors that all layers share."""

from localllm.core.blueprint.parts import ALTUP, ENCODERS, Row
from localllm.core.blueprint.shape import Shape


def outer_rows(s: Shape) -> list[Row]:
    """List the tensors outside the layers."""
    rows: list[Row] = [("token_embd.weight", (s.width, s.vocabulary))]
    if s.architecture in ENCODERS:
        return rows + _encoder_outside(s)
    rows.append((_OUTPUT_NORM.get(s.architecture, "output_norm.weight"), (s.width,)))
    if s.architecture == "starcoder2":
        rows.append(("output_norm.bias", (s.width,)))
    if not s.tied:
        rows.append(("output.weight", (s.width, s.vocabulary)))
    if "classifier" in s.extra:
        labels = s.gguf.get("classifier.output_labels", ())
        rows.append(
            ("cls.output.weight", (s.width, len(labels) if isinstance(labels, tuple) else 1))
        )
    rows += _rope_factors(s)
    if s.number("embedding_length_per_layer_input", 0):
        rows += _per_layer_outside(s)
    if s.number("dense_2_feat_out", 0):
        rows.append(("dense_2.weight", (s.width, s.number("dense_2_feat_out"))))
        rows.append(("dense_3.weight", (s.number("dense_3_feat_in"), s.width)))
    return rows


_OUTPUT_NORM = {"lfm2": "token_embd_norm.weight", "lfm2moe": "token_embd_norm.weight"}


def _rope_factors(s: Shape) -> list[Row]:
    half = s.number("rope.dimension_count", s.head_size(s.layer(0))) // 2
    if "rope_freqs" in s.extra:
        return [("rope_freqs.weight", (half,))]
    if "rope_long_short" in s.extra:
        return [("rope_factors_long.weight", (half,)), ("rope_factors_short.weight", (half,))]
    return []


def _per_layer_outside(s: Shape) -> list[Row]:
    per_layer = s.number("embedding_length_per_layer_input")
    rows: list[Row] = [
        ("per_layer_token_embd.weight", (per_layer * s.layers, s.vocabulary)),
        ("per_layer_model_proj.weight", (s.width, per_layer * s.layers)),
        ("per_layer_proj_norm.weight", (per_layer,)),
    ]
    if s.architecture == "gemma3n":
        rows.append(("altup_proj.weight", (s.width, s.width, ALTUP - 1)))
        rows.append(("altup_unembd_proj.weight", (s.width, s.width, ALTUP - 1)))
    return rows


def _encoder_outside(s: Shape) -> list[Row]:
    rows: list[Row] = [("token_embd_norm.weight", (s.width,)), ("token_embd_norm.bias", (s.width,))]
    types = s.number("token_type_count", 1)
    if "token_types" in s.extra or types > 1:
        rows.append(("token_types.weight", (s.width, types)))
    if s.architecture == "bert":
        rows.append(("position_embd.weight", (s.width, s.context)))
    if "classifier" in s.extra:
        rows += [("cls.weight", (s.width, s.width)), ("cls.bias", (s.width,))]
        rows += [("cls.output.weight", (s.width, 1)), ("cls.output.bias", (1,))]
    return rows
