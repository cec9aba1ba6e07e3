"""A coarser form of a normalized schema, for a grammar that was too much."""

from localllm.core.json_schema.values import JsonSchema


def shape_of(schema: JsonSchema | bool) -> JsonSchema | bool:
    """Leave of a normalized schema only types, properties, items, constants and alternatives; it
    accepts all that the schema accepts."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        schema = {key: schema[key] for key in ("$ref", "$defs") if key in schema}
    alone = schema.keys() <= {"anyOf", "$defs"}
    # Without the pattern that it belongs to, a name would be additional.
    closed = "patternProperties" not in schema
    kept: JsonSchema = {}
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs") and isinstance(value, dict):
            kept[keyword] = {name: _shape(each) for name, each in value.items()}
        elif isinstance(value, list) and (
            keyword == "prefixItems" or (keyword == "anyOf" and alone)
        ):
            kept[keyword] = [_shape(each) for each in value]
        elif keyword == "items" or (keyword == "additionalProperties" and closed):
            kept[keyword] = _shape(value)
        elif keyword in ("type", "enum", "required", "$ref"):
            kept[keyword] = value
    return kept


def _shape(schema: object) -> object:
    return shape_of(schema) if isinstance(schema, dict) else schema
