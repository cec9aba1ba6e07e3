"""JSON Schemas as people send them: what a grammar follows of one, and a check of what it does not.

Pure, and safe with any JSON value: bounded in depth, size and time.
"""

from localllm.core.json_schema.combine import any_of
from localllm.core.json_schema.normalize import (
    GRAMMAR_FORMATS,
    Normalized,
    Unenforced,
    normalize,
)
from localllm.core.json_schema.parameters import tool_parameters
from localllm.core.json_schema.patterns import PatternParts, split_pattern
from localllm.core.json_schema.shape import shape_of
from localllm.core.json_schema.values import JsonSchema
from localllm.core.json_schema.violations import Verdict, check

__all__ = [
    "GRAMMAR_FORMATS",
    "JsonSchema",
    "Normalized",
    "PatternParts",
    "Unenforced",
    "Verdict",
    "any_of",
    "check",
    "normalize",
    "shape_of",
    "split_pattern",
    "tool_parameters",
]
