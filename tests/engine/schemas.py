"""JSON Schemas of the kinds that people send, each of which ends an answer by itself."""

from collections.abc import Mapping

TEXT: dict[str, object] = {"type": "string", "maxLength": 12}
WORD: dict[str, object] = {"type": "string", "pattern": "^[a-z]{2,8}$"}
COUNT: dict[str, object] = {"type": "integer", "minimum": 0, "maximum": 99}


def record(*optional: str, **properties: object) -> dict[str, object]:
    """An object with these properties and no others, all required but the `optional` ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def listing(items: object, *, least: int = 1, most: int = 3) -> dict[str, object]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


SCHEMAS: Mapping[str, dict[str, object]] = {
    "text": TEXT,
    "pattern": WORD,
    "email": {"type": "string", "pattern": "^[a-z]{1,8}@[a-z]{1,8}\\.(com|org)$"},
    "date": {"type": "string", "format": "date"},
    "clock": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "least length": {"type": "string", "minLength": 3, "maxLength": 6},
    "integer": COUNT,
    "negative": {"type": "integer", "minimum": -20, "maximum": -1},
    "exclusive": {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 7},
    "number": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "enum": {"enum": ["red", "green", "blue"]},
    "mixed enum": {"enum": [1, "one", None, True, [1, 2], {"a": 1}]},
    "const": {"const": {"version": 2, "tags": ["a", "b"]}},
    "types": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    "person": record(name=TEXT, age=COUNT),
    "optional": record("nickname", name=TEXT, nickname=WORD),
    "no properties": record(),
    "nested": record(user=record(name=WORD, address=record(city=WORD, number=COUNT))),
    "list of texts": listing(WORD),
    "list of numbers": listing({"type": "integer", "minimum": 0, "maximum": 255}, least=3),
    "empty list": listing(WORD, least=0, most=0),
    "list of records": listing(record(name=WORD, done={"type": "boolean"}), most=2),
    "list of lists": listing(listing(COUNT, most=2), most=2),
    "tuple": {
        "type": "array",
        "prefixItems": [WORD, COUNT, {"type": "boolean"}],
        "items": False,
        "minItems": 3,
    },
    "any of": {"anyOf": [WORD, COUNT]},
    "any of records": {
        "anyOf": [
            record(kind={"const": "cat"}, lives=COUNT),
            record(kind={"const": "dog"}, name=WORD),
        ]
    },
    "all of": {"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 5}]},
    "reference": {
        "$defs": {"word": WORD},
        **record(first={"$ref": "#/$defs/word"}, second={"$ref": "#/$defs/word"}),
    },
    "recursive": {
        "$defs": {
            "tree": record(
                value={"enum": [1, 2]},
                leaves=listing({"anyOf": [{"type": "null"}]}, least=0, most=2),
            )
        },
        "$ref": "#/$defs/tree",
    },
    "additional properties": {
        "type": "object",
        "properties": {"id": COUNT},
        "required": ["id"],
        "additionalProperties": False,
    },
    "sentiment": record(
        sentiment={"enum": ["positive", "negative", "neutral"]},
        score={"type": "integer", "minimum": 1, "maximum": 5},
    ),
    "tool call": record(
        name={"enum": ["get_weather", "get_time"]},
        arguments=record(city=TEXT, unit={"enum": ["celsius", "fahrenheit"]}),
    ),
    "recipe": record(
        title=TEXT, minutes=COUNT, ingredients=listing(record(name=WORD, grams=COUNT), most=2)
    ),
    "extraction": record(
        people=listing(WORD, least=0), places=listing(WORD, least=0), amount=COUNT
    ),
    "flags": record(**{f"flag_{each}": {"type": "boolean"} for each in "abcdefgh"}),
    "odd keys": record(**{'a"b': COUNT, "c\\d": COUNT, "é": COUNT, "with space": COUNT}),
    "unicode": {"enum": ["héllo", "日本語", "🙂"]},
    "escapes": {"const": 'line\nbreak "quoted" back\\slash'},
    "invoice": record(
        number={"type": "string", "pattern": "^INV-[0-9]{4}$"},
        lines=listing(record(item=WORD, price=COUNT), most=2),
        paid={"type": "boolean"},
        note={"type": ["string", "null"], "maxLength": 10},
    ),
    "chess move": {"type": "string", "pattern": "^[a-h][1-8][a-h][1-8]$"},
    "percent": {"type": "string", "pattern": "^(100|[1-9]?[0-9])%$"},
}
