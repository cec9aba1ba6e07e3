"""Reduce a JSON Schema of any dialect to the keywords that a grammar (llguidance) follows.

The normalized schema accepts every value that the client's accepts: what cannot be followed is left
out and named. Client libraries write draft-04 to 2020-12, OpenAPI's `nullable`, Gemini's capitals,
nulls and empty words where nothing is meant; each of them is read as it is meant. A second pass
changes nothing. Depth, number of schemas and time are bounded, so that a hostile schema costs no
more than a large one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from localllm.core.json_schema.combine import IN_PLACE, add_patterns, join, may_be, or_null
from localllm.core.json_schema.disjoint import are_disjoint
from localllm.core.json_schema.keywords import (
    ARRAY_KEYWORDS,
    array_counts,
    number_keywords,
    object_counts,
    string_keywords,
)
from localllm.core.json_schema.patterns import split_pattern
from localllm.core.json_schema.values import (
    MAX_DEPTH,
    JsonSchema,
    canonical,
    has_type,
    is_exact,
    is_shallow,
    means_constant,
    resolve,
    type_of,
    types_of,
)
from localllm.core.json_schema.violations import check

MAX_SCHEMAS = 20_000
"""Of one document, those behind references included; llguidance takes up to 50,000."""
MAX_PROPERTIES = 1_000
"""Of one object: a step of a grammar with 2,000 optional ones takes 40 ms."""
MAX_ENUM = 20_000
MAX_NAMED = 100
"""Places that are named as not enforced; more of them help nobody."""

GRAMMAR_FORMATS = frozenset(
    (
        *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6"),
        *("uuid", "uri"),
    )
)
"""The formats that llguidance 1.9 follows (docs/json_schema.md)."""

Probe = Callable[[JsonSchema], bool]
"""Ask the grammar whether it can follow a small schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unenforced:
    """A keyword that the grammar does not follow, and where it stands (a JSON pointer)."""

    keyword: str
    pointer: str

    def __str__(self) -> str:
        return f"`{self.keyword}` at #{self.pointer}" if self.pointer else f"`{self.keyword}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalized:
    """A schema for the grammar, and what it leaves out of the client's."""

    schema: JsonSchema | bool
    unenforced: tuple[Unenforced, ...] = ()


def _always(fragment: JsonSchema) -> bool:
    return True


def normalize(schema: object, probe: Probe | None = None) -> Normalized:
    """Reduce a schema to what the grammar follows. Never raises, whatever the JSON value.

    `probe` is asked about strings, numbers and names with constraints of their own; without one
    whatever might be followed counts as followed.
    """
    normalizer = _Normalizer(schema, probe or (lambda fragment: True))
    return Normalized(schema=normalizer.document(), unenforced=tuple(normalizer.unenforced))


_UNFOLLOWED = (
    *("not", "dependentRequired", "dependentSchemas", "dependencies", "contains"),
    *("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"),
)
"""Keywords that narrow a value and have no form in the grammar."""

_IDLE: Mapping[str, tuple[object, ...]] = {
    "not": (False,),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "contains": (),
}
"""Values that say nothing."""


class _Normalizer:
    """One pass over one document."""

    def __init__(self, root: object, probe: Probe) -> None:
        self.unenforced: list[Unenforced] = []
        self._root = root
        self._probe = probe
        self._schemas = 0
        self._definitions: dict[str, object] = {}
        self._names: dict[str, str] = {}
        self._waiting: list[tuple[str, object]] = []
        self._recursive: dict[str, bool] = {}

    def document(self) -> JsonSchema | bool:
        """Normalize the document, then what it refers to."""
        schema = self._schema(self._root, "", 0)
        while self._waiting:
            pointer, target = self._waiting.pop(0)
            self._definitions[self._names[pointer]] = self._schema(target, pointer, 0)
        for name in self._definitions:
            if self._is_circle(name):
                self._skip("$ref", "")
                self._definitions[name] = True
        used = self._used(schema)
        if used and isinstance(schema, dict):
            schema["$defs"] = {name: self._definitions[name] for name in used}
            if self._probe is not _always:
                # Their names depend on what was left out: number them anew.
                return _Normalizer(schema, _always).document()
        return schema

    def _used(self, schema: object) -> dict[str, None]:
        """Return the names of the definitions that a schema needs: of some that were read, the
        place has been left out."""
        used: dict[str, None] = {}
        waiting = [schema]
        while waiting:
            each = waiting.pop()
            if isinstance(each, list):
                waiting += each
            elif isinstance(each, dict):
                waiting += [value for keyword, value in each.items() if keyword != "enum"]
                name = str(each.get("$ref", "")).removeprefix("#/$defs/")
                if name in self._definitions and name not in used:
                    used[name] = None
                    waiting.append(self._definitions[name])
        return {name: None for name in self._definitions if name in used}

    def _is_circle(self, name: str) -> bool:
        """Return True for a definition that is a reference, over others like it, to itself."""
        seen: set[str] = set()
        while name not in seen:
            seen.add(name)
            body = self._definitions[name]
            if not isinstance(body, dict) or body.keys() != {"$ref"}:
                return False
            name = str(body["$ref"]).removeprefix("#/$defs/")
        return True

    def _skip(self, keyword: str, at: str) -> None:
        if len(self.unenforced) < MAX_NAMED:
            self.unenforced.append(Unenforced(keyword=keyword, pointer=at))

    def _schema(self, value: object, at: str, depth: int) -> JsonSchema | bool:
        """Normalize the schema at a pointer."""
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            if value is not None:
                self._skip("schema", at)
            return True
        self._schemas += 1
        if depth > MAX_DEPTH or self._schemas > MAX_SCHEMAS:
            self._skip("schema", at)
            return True
        if value.get("not") == {} or value.get("not") is True:
            return False
        schema = {keyword: each for keyword, each in value.items() if each is not None}
        if means_constant(value):
            schema["const"] = value["const"]
        nullable = schema.pop("nullable", None)
        out = self._narrow(schema, at, depth)
        return or_null(out) if nullable is True else out

    def _narrow(self, schema: JsonSchema, at: str, depth: int) -> JsonSchema | bool:
        """Normalize a schema without nulls."""
        out = self._simple(schema, at)
        self._array(schema, out, at, depth)
        self._object(schema, out, at, depth)
        self._combined(schema, out, at, depth)
        for keyword in _UNFOLLOWED:
            self._unfollowed(schema, out, keyword, at)
        return False if out.get("anyOf") == [False] else out or True

    # --- types, constants, numbers, strings ---

    def _simple(self, schema: JsonSchema, at: str) -> JsonSchema:
        types = types_of(schema)
        out: JsonSchema = {}
        named = schema.get("type")
        if types is not None:
            out["type"] = types[0] if len(types) == 1 else list(types)
        elif named not in ("", "any", [], "ANY", "TYPE_UNSPECIFIED", None):
            self._skip("type", at)
        self._constants(schema, out, types, at)
        if "enum" in out:
            return out
        types = types_of(out)
        self._narrowed(out, number_keywords(schema, types), at)
        self._strings(schema, out, types, at)
        return out

    def _constants(
        self, schema: JsonSchema, out: JsonSchema, types: Sequence[str] | None, at: str
    ) -> None:
        for keyword in ("const", "enum"):
            if keyword not in schema:
                continue
            values = [schema["const"]] if keyword == "const" else schema["enum"]
            if not isinstance(values, list) or not values or len(values) > MAX_ENUM:
                if values != []:
                    self._skip(keyword, at)
                continue
            if not is_shallow(values) or not all(map(is_exact, values)):
                self._skip(keyword, at)
                if types is None:
                    kinds = list(dict.fromkeys(map(type_of, values)))
                    out["type"] = kinds if len(kinds) > 1 else kinds[0]
                continue
            distinct = list({canonical(each): each for each in values}.values())
            fitting = distinct if types is None else [v for v in distinct if has_type(v, types)]
            # Google's clients write the type "integer" beside ["1", "2"]: the constants are meant.
            out["enum"] = self._allowed(schema, fitting or distinct, at)
            # The constants have their types; a type beside them could only contradict.
            out.pop("type", None)
            return

    def _allowed(self, schema: JsonSchema, values: list[object], at: str) -> list[object]:
        """Leave the constants that the keywords beside them allow; all, if they allow none."""
        beside = {keyword: each for keyword, each in schema.items() if keyword in _OF_SCALARS}
        if not beside:
            return values
        verdicts = [check(beside, each, lambda *_: None) for each in values]
        for keyword in ("pattern", "format"):
            if any(each.startswith(keyword) for verdict in verdicts for each in verdict.unchecked):
                self._skip(keyword, at)
        allowed = [v for v, verdict in zip(values, verdicts, strict=True) if not verdict.violation]
        return allowed or values

    def _strings(
        self, schema: JsonSchema, out: JsonSchema, types: Sequence[str] | None, at: str
    ) -> None:
        if types is not None and "string" not in types:
            return
        wanted, skipped = string_keywords(schema)
        more: list[str] = []
        if wanted.get("format", "uuid") not in GRAMMAR_FORMATS:
            del wanted["format"]
            skipped.append("format")
        if "pattern" in wanted:
            parts = split_pattern(str(wanted.pop("pattern")))
            if parts is None or not self._follows(pattern=parts.core):
                skipped.append("pattern")
            else:
                wanted["pattern"] = parts.core
                more = [each for each in parts.required if self._follows(pattern=each)]
                if not parts.followed or len(more) < len(parts.required):
                    skipped.append("pattern")
        for dropped in ((), ("pattern",), ("format",), ("pattern", "format")):
            kept = {key: value for key, value in wanted.items() if key not in dropped}
            patterns = more if "pattern" in kept else []
            if not {"pattern", "format"} & kept.keys() or self._follows(
                **kept, **({"allOf": [{"pattern": each} for each in patterns]} if patterns else {})
            ):
                skipped += [each for each in dropped if each in wanted]
                out |= kept
                add_patterns(out, [{"type": "string", "pattern": each} for each in patterns], types)
                break
        for keyword in dict.fromkeys(skipped):
            self._skip(keyword, at)

    def _follows(self, **keywords: object) -> bool:
        """Ask whether the grammar takes a string with these keywords."""
        return self._probe({"type": "string", **keywords})

    def _narrowed(self, out: JsonSchema, found: tuple[JsonSchema, list[str]], at: str) -> None:
        """Add keywords of numbers, if the grammar takes them."""
        wanted, skipped = found
        if wanted:
            kinds = out.get("type", "number")
            kind = "integer" if kinds == "integer" else "number"
            if isinstance(kinds, list) and "integer" in kinds and "number" not in kinds:
                kind = "integer"
            if not self._probe({"type": kind, **wanted}):
                skipped += wanted
                wanted = {}
        out |= wanted
        for keyword in skipped:
            self._skip(keyword, at)

    # --- arrays and objects ---

    def _array(self, schema: JsonSchema, out: JsonSchema, at: str, depth: int) -> None:
        if "enum" in out or not may_be(out, "array") or not ARRAY_KEYWORDS & schema.keys():
            return
        items, first = schema.get("items"), schema.get("prefixItems")
        rest, rest_name = items, "items"
        if isinstance(items, list):  # a tuple of draft-07 and before
            first, rest, rest_name = items, schema.get("additionalItems"), "additionalItems"
            first_name = "items"
        else:
            first_name = "prefixItems"
        if isinstance(first, list) and first:
            out["prefixItems"] = [
                self._schema(each, f"{at}/{first_name}/{i}", depth + 1)
                for i, each in enumerate(first)
            ]
        elif first not in (None, []):
            self._skip(first_name, at)
        if rest is not None:
            item = self._schema(rest, f"{at}/{rest_name}", depth + 1)
            if item is not True:
                out["items"] = item
        counts, skipped = array_counts(schema)
        unique = schema.get("uniqueItems")
        if unique is True:
            skipped.append("uniqueItems")
            items = out.get("items")
            values = items.get("enum") if isinstance(items, dict) else None
            if isinstance(values, list) and "prefixItems" not in out:
                # So many different ones there are: the list cannot go on for ever.
                most = counts.get("maxItems", len(values))
                assert isinstance(most, int)
                counts["maxItems"] = min(most, len(values))
        elif unique not in (None, False):
            skipped.append("uniqueItems")
        out |= counts
        for keyword in skipped:
            self._skip(keyword, at)

    def _object(self, schema: JsonSchema, out: JsonSchema, at: str, depth: int) -> None:
        if "enum" in out or not may_be(out, "object"):
            return
        properties = schema.get("properties")
        if isinstance(properties, dict) and len(properties) <= MAX_PROPERTIES:
            out["properties"] = {
                str(name): self._schema(each, f"{at}/properties/{_escaped(name)}", depth + 1)
                for name, each in properties.items()
            }
        elif properties not in (None, [], {}):  # PHP writes an empty object as []
            self._skip("properties", at)
        additional = schema.get("additionalProperties")
        if additional is None and not IN_PLACE & schema.keys():
            additional = schema.get("unevaluatedProperties")
        if additional is not None and ("properties" in out or properties in (None, [], {})):
            rest = self._schema(additional, f"{at}/additionalProperties", depth + 1)
            if rest is not True:
                out["additionalProperties"] = rest
        self._patterns(schema, out, at, depth)
        self._names_of(schema, out, at)
        self._required(schema, out, at)
        counts, skipped = object_counts(schema, out)
        out |= counts
        for keyword in skipped:
            self._skip(keyword, at)

    def _required(self, schema: JsonSchema, out: JsonSchema, at: str) -> None:
        required = schema.get("required")
        if required is None or isinstance(required, bool):
            return  # draft-03 and some clients write it at the property
        if not isinstance(required, list):
            self._skip("required", at)
            return
        names = list(dict.fromkeys(each for each in required if isinstance(each, str)))
        properties = out.get("properties", {})
        assert isinstance(properties, dict)
        others = out.get("additionalProperties", True) or "patternProperties" in out
        possible = [name for name in names if properties.get(name, others) is not False]
        if len(possible) < len(required) or len(names) > MAX_PROPERTIES:
            self._skip("required", at)
        if possible and len(names) <= MAX_PROPERTIES:
            out["required"] = possible

    def _patterns(self, schema: JsonSchema, out: JsonSchema, at: str, depth: int) -> None:
        """Add `patternProperties`, all of them or none: names of one that is left out must not
        count as additional."""
        patterns = schema.get("patternProperties")
        if patterns in (None, {}, []):
            return
        followed: JsonSchema = {}
        whole = isinstance(patterns, dict) and len(patterns) <= MAX_PROPERTIES
        for pattern, each in patterns.items() if isinstance(patterns, dict) and whole else ():
            parts = split_pattern(str(pattern))
            if parts is None or not parts.followed or parts.required:
                whole = False
                break
            place = f"{at}/patternProperties/{_escaped(pattern)}"
            followed[parts.core] = self._schema(each, place, depth + 1)
        fragment: JsonSchema = {
            "type": "object",
            "patternProperties": dict.fromkeys(followed, True),
        }
        if not whole or not self._probe(fragment):
            self._skip("patternProperties", at)
            out.pop("additionalProperties", None)
            return
        out["patternProperties"] = followed

    def _names_of(self, schema: JsonSchema, out: JsonSchema, at: str) -> None:
        """Write `propertyNames` as (pattern) properties, where that says the same."""
        names = schema.get("propertyNames")
        if not isinstance(names, dict):
            if names not in (None, True):
                self._skip("propertyNames", at)
            return
        constraints = {key for key in names if key in _NAME_KEYWORDS}
        if not constraints:
            return
        declared = out.get("properties")
        rest = out.get("additionalProperties", True)
        choices = names.get("enum", [names["const"]] if "const" in names else None)
        if (
            constraints <= {"enum", "const"}
            and isinstance(choices, list)
            and all(isinstance(each, str) for each in choices)
            and 0 < len(choices) <= MAX_PROPERTIES
            and "patternProperties" not in out
        ):
            known = declared if isinstance(declared, dict) else {}
            out["properties"] = {name: known.get(name, rest) for name in choices}
            out["additionalProperties"] = False
            return
        pattern = names.get("pattern")
        if constraints == {"pattern"} and isinstance(pattern, str) and not declared:
            parts = split_pattern(pattern)
            fragment: JsonSchema = {"type": "object", "patternProperties": {pattern: True}}
            if (
                parts is not None
                and parts.followed
                and not parts.required
                and "patternProperties" not in out
                and self._probe(fragment | {"patternProperties": {parts.core: True}})
            ):
                out["patternProperties"] = {parts.core: rest}
                out["additionalProperties"] = False
                return
        self._skip("propertyNames", at)

    # --- schemas of schemas ---

    def _combined(self, schema: JsonSchema, out: JsonSchema, at: str, depth: int) -> None:
        every: list[object] = []
        for keyword in ("anyOf", "oneOf"):
            options = schema.get(keyword)
            if options is None or options == []:
                continue
            if not isinstance(options, list):
                self._skip(keyword, at)
                continue
            either = self._either(options, f"{at}/{keyword}", depth)
            if keyword == "oneOf" and not are_disjoint(options, self._root):
                self._skip(keyword, at)
            if either is not None:
                every.append(either)
        branches = self._branches(schema, at, depth)
        if branches is not None:
            every.append(branches)
        all_of = schema.get("allOf")
        if isinstance(all_of, list):
            more = (self._schema(each, f"{at}/allOf/{i}", depth + 1)
                    for i, each in enumerate(all_of))  # fmt: skip
            every += [each for each in more if each is not True]
        elif all_of is not None:
            self._skip("allOf", at)
        reference = self._reference(schema, at)
        if reference is not None:
            if (out or every) and self._reaches_itself(schema["$ref"]):
                # llguidance: "circular references with sibling keys are not supported"
                for keyword in out or ("$ref",):
                    self._skip(keyword, at)
                out.clear()
                every.clear()
            every.append(reference)
        join(out, every)

    def _either(
        self, options: Sequence[object], at: str, depth: int
    ) -> JsonSchema | Literal[False] | None:
        """Normalize alternatives; None when one of them is anything."""
        either = [self._schema(each, f"{at}/{i}", depth + 1) for i, each in enumerate(options)]
        if True in either:
            return None
        distinct: list[JsonSchema | bool] = []
        for each in either:
            if each is not False and each not in distinct[-8:]:
                distinct.append(each)
        return {"anyOf": distinct} if distinct else False

    def _branches(self, schema: JsonSchema, at: str, depth: int) -> JsonSchema | None:
        """Write if/then/else as an alternative of its two outcomes, which is what it is but for the
        negation of the condition."""
        if "if" not in schema or not {"then", "else"} & schema.keys():
            return None
        self._skip("if", at)
        if not {"then", "else"} <= schema.keys():
            return None
        either = [self._schema(schema[key], f"{at}/{key}", depth + 1) for key in ("then", "else")]
        return None if True in either else {"anyOf": either}

    def _reference(self, schema: JsonSchema, at: str) -> JsonSchema | None:
        if "$ref" not in schema:
            return None
        found = resolve(self._root, schema["$ref"])
        if found is None:
            self._skip("$ref", at)
            return None
        pointer, target = found
        if target is True or target == {}:
            return None
        if pointer not in self._names:
            self._names[pointer] = f"d{len(self._names)}"
            self._waiting.append((pointer, target))
        return {"$ref": f"#/$defs/{self._names[pointer]}"}

    def _reaches_itself(self, reference: object) -> bool:
        """Return True when a schema refers to itself, over others too, or is very large."""
        found = resolve(self._root, reference)
        assert found is not None
        pointer, target = found
        if pointer not in self._recursive:
            self._recursive[pointer] = self._find(pointer, target)
        return self._recursive[pointer]

    def _find(self, pointer: str, target: object) -> bool:
        seen: set[str] = set()
        waiting = [target]
        while waiting:
            self._schemas += 1
            if self._schemas > MAX_SCHEMAS:
                return True
            each = waiting.pop()
            if isinstance(each, list):
                waiting += each
            elif isinstance(each, dict):
                waiting += each.values()
                found = resolve(self._root, each.get("$ref"))
                if found is not None and found[0] not in seen:
                    seen.add(found[0])
                    if pointer == found[0] or pointer.startswith(f"{found[0]}/"):
                        return True
                    waiting.append(found[1])
        return False

    def _unfollowed(self, schema: JsonSchema, out: JsonSchema, keyword: str, at: str) -> None:
        value = schema.get(keyword)
        if value is None or value in _IDLE.get(keyword, ()):
            return
        if keyword == "unevaluatedProperties" and (
            "additionalProperties" in schema or not IN_PLACE & schema.keys()
        ):
            return  # it is `additionalProperties`
        kind = "array" if keyword in ("contains", "unevaluatedItems") else None
        if keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            kind = "object"
        if keyword == "unevaluatedProperties":
            kind = "object"
        if kind is None or may_be(out, kind):
            self._skip(keyword, at)


_OF_SCALARS = frozenset(
    (
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "format"),
    )
)

_NAME_KEYWORDS = frozenset(
    (
        *("enum", "const", "pattern", "format", "minLength", "maxLength", "not", "anyOf", "oneOf"),
        *("allOf", "$ref", "if"),
    )
)
"""Keywords that narrow a name; it is a string anyway."""


def _escaped(name: object) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")
