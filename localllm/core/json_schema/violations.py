"""Check a finished value against the whole schema, for what the grammar did not follow.

Beside `jsonschema`, which is no dependency: it has four more packages (one of them compiled), ends
deep values with a RecursionError, and matches patterns with `re`, which a hostile pattern keeps
busy for hours. Here patterns are matched by whoever calls, and the steps are counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from localllm.core.json_schema.keywords import count_of
from localllm.core.json_schema.patterns import split_pattern
from localllm.core.json_schema.values import (
    canonical,
    has_type,
    is_number,
    is_shallow,
    means_constant,
    resolve,
    types_of,
)

MAX_STEPS = 20_000
"""Schemas applied to values. No answer is written while one is checked: about 50 ms."""
MAX_CHECK_DEPTH = 120

StringCheck = Callable[[str, str, str], bool | None]
"""Tell whether a text has a pattern or a format: the keyword, its value, the text. The pattern has
no assertions but `^` and `$`. None: that cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of a check: the first violation (None: there is none), and the keywords that
    could not be checked."""

    violation: str | None = None
    unchecked: tuple[str, ...] = ()


class _TooMuch(Exception):
    """The check is longer than anybody should wait for."""


def check(schema: object, value: object, strings: StringCheck) -> Verdict:
    """Check a value against a schema. Never raises, whatever the JSON values."""
    checker = _Checker(schema, strings)
    try:
        violation = checker.fault(schema, value, "", 0)
    except _TooMuch:
        return Verdict(unchecked=(*checker.unchecked, "a part that is too large to check"))
    return Verdict(violation=violation, unchecked=tuple(checker.unchecked))


class _Checker:
    def __init__(self, root: object, strings: StringCheck) -> None:
        self.unchecked: dict[str, None] = {}
        self._root = root
        self._strings = strings
        self._steps = 0
        self._doubts = 0

    def _doubt(self, keyword: str) -> None:
        self.unchecked[keyword] = None
        self._doubts += 1

    def fault(self, schema: object, value: object, at: str, depth: int) -> str | None:
        """Return the first violation of a schema at a place in the value; None for none."""
        self._steps += 1
        if self._steps > MAX_STEPS or depth > MAX_CHECK_DEPTH:
            raise _TooMuch
        if schema is False:
            return f"{_place(at)} must not be there"
        if not isinstance(schema, dict):
            return None
        if value is None and schema.get("nullable") is True:
            return None
        for part in (self._plain, self._number, self._string):
            if (fault := part(schema, value, at)) is not None:
                return fault
        for nested in (self._array, self._object, self._combined):
            if (fault := nested(schema, value, at, depth)) is not None:
                return fault
        for keyword in ("$dynamicRef", "$recursiveRef", "unevaluatedItems"):
            if schema.get(keyword) is not None:
                self._doubt(keyword)
        return None

    def _holds(self, schema: object, value: object, depth: int) -> bool | None:
        """Return whether a value follows a schema; None when that cannot be told."""
        before = self._doubts
        fault = self.fault(schema, value, "", depth + 1)
        return None if fault is None and self._doubts > before else fault is None

    def _plain(self, schema: Mapping[str, object], value: object, at: str) -> str | None:
        types = types_of(schema)
        if types is not None and not has_type(value, types):
            return f"{_place(at)} is not of the type {' or '.join(types)}"
        constant = [schema["const"]] if means_constant(schema) else None
        for choices in (schema.get("enum"), constant):
            if not isinstance(choices, list) or not choices:
                continue
            if not is_shallow(choices) or not is_shallow(value):
                self._doubt("enum")
                continue
            self._steps += len(choices) // 8
            written = canonical(value)
            if not any(canonical(each) == written for each in choices):
                return f"{_place(at)} is none of the constants (`enum`, `const`)"
        return None

    def _number(self, schema: Mapping[str, object], value: object, at: str) -> str | None:
        if not is_number(value):
            return None
        assert isinstance(value, int | float)
        for keyword, exclusive, sign in (
            ("minimum", "exclusiveMinimum", 1),
            ("maximum", "exclusiveMaximum", -1),
        ):
            bound, open_bound = schema.get(keyword), schema.get(exclusive)
            if isinstance(open_bound, bool):
                bound, open_bound = (None, bound) if open_bound else (bound, None)
            if is_number(bound) and isinstance(bound, int | float) and value * sign < bound * sign:
                return f"{_place(at)} is out of bounds (`{keyword}`)"
            if (
                is_number(open_bound)
                and isinstance(open_bound, int | float)
                and value * sign <= open_bound * sign
            ):
                return f"{_place(at)} is out of bounds (`{exclusive}`)"
        divisor = schema.get("multipleOf")
        if not is_number(divisor) or not isinstance(divisor, int | float) or divisor <= 0:
            return None
        # Exact in decimal, as people write them: 0.3 is a multiple of 0.1.
        remainder = Fraction(repr(value)) % Fraction(repr(divisor))
        return f"{_place(at)} is no multiple (`multipleOf`)" if remainder else None

    def _string(self, schema: Mapping[str, object], value: object, at: str) -> str | None:
        if not isinstance(value, str):
            return None
        least, most = count_of(schema.get("minLength")), count_of(schema.get("maxLength"))
        if least is not None and len(value) < least:
            return f"{_place(at)} is too short (`minLength`)"
        if most is not None and 0 <= most < len(value):
            return f"{_place(at)} is too long (`maxLength`)"
        for keyword, holds in (("pattern", self._has_pattern), ("format", self._has_format)):
            wanted = schema.get(keyword)
            if not isinstance(wanted, str) or not wanted:
                continue
            self._steps += 10
            found = holds(wanted, value)
            if found is None:
                self._doubt(f"{keyword} {wanted[:80]!r}")
            elif not found:
                return f"{_place(at)} does not have its {keyword}"
        return None

    def _has_format(self, wanted: str, text: str) -> bool | None:
        return self._strings("format", wanted, text)

    def _has_pattern(self, pattern: str, text: str) -> bool | None:
        parts = split_pattern(pattern)
        if parts is None:
            return None
        outcomes = [self._strings("pattern", each, text) for each in (parts.core, *parts.required)]
        if False in outcomes:
            return False
        if not parts.exact:
            return None
        for each in parts.excluded:
            matches = self._strings("pattern", each, text)
            if matches:
                return False
            outcomes.append(None if matches is None else True)
        return None if None in outcomes else True

    # --- containers ---

    def _array(
        self, schema: Mapping[str, object], value: object, at: str, depth: int
    ) -> str | None:
        if not isinstance(value, list):
            return None
        least, most = count_of(schema.get("minItems")), count_of(schema.get("maxItems"))
        if least is not None and len(value) < least:
            return f"{_place(at)} has too few items (`minItems`)"
        if most is not None and 0 <= most < len(value):
            return f"{_place(at)} has too many items (`maxItems`)"
        if schema.get("uniqueItems") is True and is_shallow(value):
            self._steps += len(value)
            if len(set(map(canonical, value))) < len(value):
                return f"{_place(at)} has an item twice (`uniqueItems`)"
        first, rest = schema.get("prefixItems"), schema.get("items")
        if isinstance(rest, list):
            first, rest = rest, schema.get("additionalItems")
        leading = first if isinstance(first, list) else []
        for i, item in enumerate(value):
            wanted = leading[i] if i < len(leading) else rest
            if (fault := self.fault(wanted, item, f"{at}/{i}", depth + 1)) is not None:
                return fault
        return self._contains(schema, value, at, depth)

    def _contains(
        self, schema: Mapping[str, object], value: Sequence[object], at: str, depth: int
    ) -> str | None:
        wanted = schema.get("contains")
        if wanted is None:
            return None
        least, most = count_of(schema.get("minContains")), count_of(schema.get("maxContains"))
        found = [self._holds(wanted, item, depth) for item in value]
        if found.count(True) + found.count(None) < (1 if least is None else least):
            return f"{_place(at)} does not contain what it must (`contains`)"
        if most is not None and found.count(True) > most:
            return f"{_place(at)} contains too many (`maxContains`)"
        return None

    def _object(
        self, schema: Mapping[str, object], value: object, at: str, depth: int
    ) -> str | None:
        if not isinstance(value, dict):
            return None
        required = schema.get("required")
        for name in required if isinstance(required, list) else ():
            if isinstance(name, str) and name not in value:
                return f"{_place(at)} lacks {_quoted(name)} (`required`)"
        least, most = count_of(schema.get("minProperties")), count_of(schema.get("maxProperties"))
        if least is not None and len(value) < least:
            return f"{_place(at)} has too few properties (`minProperties`)"
        if most is not None and 0 <= most < len(value):
            return f"{_place(at)} has too many properties (`maxProperties`)"
        for name, each in value.items():
            if (fault := self._property(schema, name, each, at, depth)) is not None:
                return fault
        return self._dependent(schema, value, at, depth)

    def _property(
        self, schema: Mapping[str, object], name: str, value: object, at: str, depth: int
    ) -> str | None:
        place = f"{at}/{name[:80]}"
        names = schema.get("propertyNames")
        if names is not None and self._holds(names, name, depth) is False:
            return f"{_place(place)} has a name that is not allowed (`propertyNames`)"
        declared, patterns = schema.get("properties"), schema.get("patternProperties")
        wanted: list[object] = []
        if isinstance(declared, dict) and name in declared:
            wanted.append(declared[name])
        doubtful = False
        for pattern, each in patterns.items() if isinstance(patterns, dict) else ():
            matches = self._has_pattern(str(pattern), name)
            doubtful |= matches is None
            if matches:
                wanted.append(each)
        if doubtful:
            self._doubt("patternProperties")
        elif not wanted:
            additional = schema.get("additionalProperties")
            if additional is None:
                additional = self._unevaluated(schema)
            wanted.append(additional)
        for each in wanted:
            if (fault := self.fault(each, value, place, depth + 1)) is not None:
                return fault
        return None

    def _unevaluated(self, schema: Mapping[str, object]) -> object:
        """Return `unevaluatedProperties` where no other schema looks at the same properties."""
        found = schema.get("unevaluatedProperties")
        if found is not None and {"allOf", "anyOf", "oneOf", "$ref", "if"} & schema.keys():
            self._doubt("unevaluatedProperties")
            return None
        return found

    def _dependent(
        self, schema: Mapping[str, object], value: Mapping[str, object], at: str, depth: int
    ) -> str | None:
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            rules = schema.get(keyword)
            for name, rule in rules.items() if isinstance(rules, dict) else ():
                if name not in value:
                    continue
                if isinstance(rule, list):
                    for other in rule:
                        if isinstance(other, str) and other not in value:
                            return f"{_place(at)} lacks {_quoted(other)} (`{keyword}`)"
                elif (fault := self.fault(rule, value, at, depth + 1)) is not None:
                    return fault
        return None

    # --- schemas of schemas ---

    def _combined(
        self, schema: Mapping[str, object], value: object, at: str, depth: int
    ) -> str | None:
        reference = schema.get("$ref")
        if reference is not None:
            found = resolve(self._root, reference)
            if found is None:
                self._doubt("$ref")
            elif (fault := self.fault(found[1], value, at, depth + 1)) is not None:
                return fault
        every = schema.get("allOf")
        for each in every if isinstance(every, list) else ():
            if (fault := self.fault(each, value, at, depth + 1)) is not None:
                return fault
        for keyword in ("anyOf", "oneOf"):
            options = schema.get(keyword)
            if not isinstance(options, list) or not options:
                continue
            held = [self._holds(each, value, depth) for each in options]
            if True not in held and None not in held:
                return f"{_place(at)} follows none of the alternatives (`{keyword}`)"
            if keyword == "oneOf" and held.count(True) > 1:
                return f"{_place(at)} follows more than one alternative (`oneOf`)"
        if schema.get("not") is not None and self._holds(schema["not"], value, depth) is True:
            return f"{_place(at)} follows what it must not (`not`)"
        return self._conditional(schema, value, at, depth)

    def _conditional(
        self, schema: Mapping[str, object], value: object, at: str, depth: int
    ) -> str | None:
        if schema.get("if") is None:
            return None
        held = self._holds(schema["if"], value, depth)
        if held is None:
            return None
        branch = schema.get("then" if held else "else")
        return self.fault(branch, value, at, depth + 1)


def _place(at: str) -> str:
    return at[:200] or "the value"


def _quoted(name: str) -> str:
    return repr(name[:80])
