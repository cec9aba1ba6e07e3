"""Read the keywords of a schema that are numbers or texts, whatever a client writes there.

Each function returns what a grammar follows, and the names of what it does not. Protocol buffers
write whole numbers as texts ("minItems": "1"), draft-04 `exclusiveMinimum` as a flag.
"""

import math
from collections.abc import Mapping, Sequence

from localllm.core.json_schema.values import JsonSchema, is_number

ARRAY_KEYWORDS = frozenset(
    ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems")
)

MAX_COUNT = 10_000
"""Of items and properties: the grammar has a rule for each."""
MAX_LENGTH = 2**31 - 1
"""Of a text; far more than any answer has."""
MAX_INTEGER = 10**18
"""Bounds of integers from here on are not followed: llguidance reads them as doubles and fails at
int64's own. An answer's integers stay in int64 in any case."""
MAX_NUMBER, MIN_NUMBER = 1e15, 1e-9
"""Bounds of numbers outside of these become regular expressions of hundreds of digits."""
MAX_DIVISOR = 10_000
"""Of `multipleOf`, without its decimal point: a state of the grammar for each remainder."""

INT64 = 2**63 - 1

Found = tuple[JsonSchema, list[str]]


def string_keywords(schema: Mapping[str, object]) -> Found:
    """Read minLength, maxLength, pattern and format."""
    wanted, skipped = _counts(schema, "minLength", "maxLength", limit=MAX_LENGTH)
    for keyword in ("pattern", "format"):
        value = schema.get(keyword)
        if isinstance(value, str) and value:
            wanted[keyword] = value
        elif value not in (None, ""):
            skipped.append(keyword)
    return wanted, skipped


def array_counts(schema: Mapping[str, object]) -> Found:
    """Read minItems and maxItems."""
    return _counts(schema, "minItems", "maxItems", limit=MAX_COUNT)


def object_counts(schema: Mapping[str, object], out: Mapping[str, object]) -> Found:
    """Read minProperties and maxProperties; `out` is the object so far, normalized."""
    wanted, skipped = _counts(schema, "minProperties", "maxProperties", limit=MAX_COUNT)
    required = out.get("required", [])
    properties = out.get("properties", {})
    assert isinstance(required, list)
    assert isinstance(properties, dict)
    least = wanted.get("minProperties", 0)
    if isinstance(least, int) and least <= len(required):
        wanted.pop("minProperties", None)  # what is required is enough
    if "minProperties" in wanted and any(name not in required for name in properties):
        wanted.pop("minProperties")
        skipped.append("minProperties")
    if "maxProperties" in wanted and any(name not in required for name in properties):
        wanted.pop("maxProperties")
        skipped.append("maxProperties")
    return wanted, skipped


def number_keywords(schema: Mapping[str, object], types: Sequence[str] | None) -> Found:
    """Read the bounds and `multipleOf` of a number; `types` None: any."""
    if types is not None and not {"integer", "number"} & set(types):
        return {}, []
    whole = types is not None and "integer" in types and "number" not in types
    wanted: JsonSchema = {}
    skipped: list[str] = []
    for keyword, exclusive, sign in (
        ("minimum", "exclusiveMinimum", 1),
        ("maximum", "exclusiveMaximum", -1),
    ):
        bound, open_bound = schema.get(keyword), schema.get(exclusive)
        if isinstance(open_bound, bool):
            bound, open_bound = (None, bound) if open_bound else (bound, None)
        for name, value in ((keyword, bound), (exclusive, open_bound)):
            if value is None:
                continue
            if not is_number(value):
                skipped.append(name)
                continue
            assert isinstance(value, int | float)
            if _says_nothing(value * sign, whole=whole):
                continue
            if not _in_reach(value, whole=whole):
                skipped.append(name)
            elif whole:
                _tighten(wanted, keyword, _whole_bound(value, sign, open_=name == exclusive), sign)
            else:
                wanted[name] = value
    divisor = schema.get("multipleOf")
    if divisor is not None:
        if _is_divisor(divisor):
            wanted["multipleOf"] = divisor
        else:
            skipped.append("multipleOf")
    return wanted, skipped


def _says_nothing(least: float, *, whole: bool) -> bool:
    """Return True for a lower bound that is below every number that can be written."""
    return least <= (-INT64 if whole else -1.7e308)


def _in_reach(value: float, *, whole: bool) -> bool:
    if whole:
        return abs(value) < MAX_INTEGER
    return value == 0 or MIN_NUMBER <= abs(value) <= MAX_NUMBER


def _whole_bound(value: float, sign: int, *, open_: bool) -> int:
    """Return the integer that a bound of integers stands for."""
    nearest = math.ceil(value * sign)
    return (nearest + 1 if open_ and nearest == value * sign else nearest) * sign


def _tighten(wanted: JsonSchema, keyword: str, bound: int, sign: int) -> None:
    before = wanted.get(keyword)
    if not isinstance(before, int) or bound * sign > before * sign:
        wanted[keyword] = bound


def _is_divisor(value: object) -> bool:
    """Return True for a positive number of few digits, which the grammar can divide by."""
    if not is_number(value):
        return False
    assert isinstance(value, int | float)
    if not MIN_NUMBER <= value <= MAX_NUMBER:
        return False
    digits = repr(value)
    if "e" in digits:
        mantissa, _, exponent = digits.partition("e")
        digits = mantissa if int(exponent) < 0 else str(int(value))
    if isinstance(value, float):
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return int(digits.replace(".", "")) <= MAX_DIVISOR


def count_of(value: object) -> int | None:
    """Read a whole number; None when it is none. Protocol buffers write it as a text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if isinstance(value, float) and is_number(value) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _counts(schema: Mapping[str, object], least: str, most: str, *, limit: int) -> Found:
    wanted: JsonSchema = {}
    skipped: list[str] = []
    for keyword in (least, most):
        if schema.get(keyword) is None:
            continue
        count = count_of(schema[keyword])
        if keyword == least and count is not None and count <= 0:
            continue  # nothing has less
        if count is None or not 0 <= count <= limit:
            skipped.append(keyword)
        else:
            wanted[keyword] = count
    low, high = wanted.get(least, 0), wanted.get(most, limit)
    if isinstance(low, int) and isinstance(high, int) and low > high:
        return {}, [*skipped, least, most]  # nothing can be both
    return wanted, skipped
