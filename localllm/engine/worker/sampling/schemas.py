"""JSON Schemas for llguidance: what it follows of one; texts against patterns and formats."""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import llguidance

from localllm.core.json_schema import JsonSchema, normalize, shape_of
from localllm.engine.worker.sampling.inline_schema import ON_ONE_LINE, schema_document

MAX_CHECKED_CHARS = 100_000
_CACHED = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A schema that the grammar follows, and the parts of the client's that it does not."""

    schema: JsonSchema | bool
    unenforced: tuple[str, ...] = ()


def candidates(schema: object) -> Iterator[Followed]:
    """Yield what may be followed of a schema, best first: all that the grammar has a form for, its
    shape alone, any value."""
    normalized = normalize(schema, _probe)
    named = tuple(map(str, normalized.unenforced))
    yield Followed(schema=normalized.schema, unenforced=named)
    yield Followed(schema=shape_of(normalized.schema), unenforced=(*named, _BEYOND_SHAPE))
    is_object = isinstance(normalized.schema, dict) and normalized.schema.get("type") == "object"
    anything: JsonSchema | bool = {"type": "object"} if is_object else True
    yield Followed(schema=anything, unenforced=(_ALL,))


_BEYOND_SHAPE = "what is no type, property, item or constant (together it is too much)"
_ALL = "the schema as a whole (it is too much, or no value can follow it)"


@functools.lru_cache(_CACHED)
def follow(text: str) -> Followed:
    """Return the best of a schema, as JSON text, that the grammar can follow."""
    *better, anything = candidates(json.loads(text))
    return next((each for each in better if _compiles(json_grammar(each.schema))), anything)


def json_grammar(schema: JsonSchema | bool) -> str:
    """Return llguidance's grammar of JSON on one line that follows a normalized schema."""
    return llguidance.LLMatcher.grammar_from_json_schema(
        json.dumps(schema_document(schema) | {"x-guidance": ON_ONE_LINE})
    )


def _compiles(grammar: str) -> bool:
    failed, _ = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    return not failed


def _probe(fragment: JsonSchema) -> bool:
    return _fragment_compiles(json.dumps(fragment))


@functools.lru_cache(_CACHED)
def _fragment_compiles(text: str) -> bool:
    return _compiles(llguidance.LLMatcher.grammar_from_json_schema(text))


def check_string(keyword: str, wanted: str, text: str) -> bool | None:
    """Tell whether a text has a pattern or a format (a `StringCheck`): in linear time, by the
    grammar that would have enforced it. None for what llguidance does not know."""
    if len(text) > MAX_CHECKED_CHARS:
        return None
    compiled = _string_matcher(keyword, wanted)
    if compiled is None:
        return None
    try:
        tokens = list(json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f").encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    matcher = compiled.deep_copy()
    taken = matcher.try_consume_tokens(tokens)
    if taken < len(tokens) and matcher.is_error():
        return None
    return taken == len(tokens) and bool(matcher.is_accepting())


@functools.lru_cache(64)
def _string_matcher(keyword: str, wanted: str) -> llguidance.LLMatcher | None:
    schema = json.dumps({"type": "string", keyword: wanted})
    matcher = llguidance.LLMatcher(
        llguidance.LLTokenizer("byte"),
        llguidance.LLMatcher.grammar_from_json_schema(schema),
        log_level=0,
    )
    return None if matcher.is_error() else matcher
