"""Normalized JSON Schemas as text for llguidance, without loading it."""

import json

from localllm.core.json_schema import JsonSchema

FORM = ""
"""The name of the answer's own schema, beside those of tools."""

ON_ONE_LINE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""JSON as `json.dumps` writes it: a small model that may write white space writes nothing else
until its answer is cut."""


def schema_document(schema: JsonSchema | bool) -> JsonSchema:
    """Write true and false as schemas that are objects."""
    if isinstance(schema, dict):
        return schema
    return {} if schema else {"anyOf": [False]}


def inline(schema: JsonSchema | bool) -> str:
    """Write a normalized schema as a term of a Lark grammar."""
    return f"%json {json.dumps(schema_document(schema) | {'x-guidance': ON_ONE_LINE})}"
