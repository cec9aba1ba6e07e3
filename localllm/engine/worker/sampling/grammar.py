"""Structured output: a grammar and, for every next token, the tokens that it allows.

llguidance (Rust) does the parsing. It releases the GIL, so grammars are compiled and masks are
computed on a thread of their own while llama.cpp decodes. Imported when a request has a grammar.
"""

import functools
import json
from collections.abc import Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

import llguidance
import numpy as np

from localllm.core.json_schema import JsonSchema
from localllm.engine.messages import Grammar, GrammarKind
from localllm.engine.worker.llama.vocabulary import Vocabulary
from localllm.engine.worker.sampling.inline_schema import FORM
from localllm.engine.worker.sampling.logits import Allowed
from localllm.engine.worker.sampling.run_limits import TAIL_BYTES, RunLimits
from localllm.engine.worker.sampling.schemas import Followed, candidates, follow, json_grammar
from localllm.errors import BadRequest, GenerationFailed


class SchemaGrammar(Protocol):
    """A grammar around JSON Schemas, which is written when it is known what of them can be
    followed. `schemas`, as JSON text, have the names of tools, or FORM; the `strict` ones are
    followed whole or refused."""

    @property
    def schemas(self) -> Mapping[str, str]: ...

    @property
    def strict(self) -> Set[str]: ...

    def write(self, schemas: Mapping[str, JsonSchema | bool]) -> Grammar: ...


class _GuidanceTokenizer:
    """A vocabulary as llguidance asks for it (its `TokenizerWrapper`)."""

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        ids = range(vocab.size)
        pieces = [vocab.piece(token) for token in ids]
        self.special_token_ids = [token for token in ids if not pieces[token]]
        for token in self.special_token_ids:
            pieces[token] = vocab.token_text(token).encode()
        self.limits = RunLimits(pieces, self.special_token_ids)
        self.tokens = pieces
        self.bos_token_id = None
        self.eos_token_id = min(vocab.end_tokens)

    def __call__(self, text: bytes) -> list[int]:
        return self._vocab.tokenize(text.decode("utf-8", "replace"), special=False, ends=False)


class GrammarCompiler:
    """Compiles grammars for one model's vocabulary."""

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        # Two threads: a schema may take seconds to compile, and sequences wait for their masks.
        self._compiling = ThreadPoolExecutor(1, "grammar")
        self._masking = ThreadPoolExecutor(1, "mask")

    @functools.cached_property
    def _guidance(self) -> tuple[llguidance.LLTokenizer, "_Vocabulary"]:
        # Looks at every token: about a second for a large vocabulary, so only when one is needed.
        if not self._vocab.end_tokens:
            raise BadRequest("This model has no token that ends an answer: no grammar can be used.")
        tokenizer = _GuidanceTokenizer(self._vocab)
        wrapper = llguidance.TokenizerWrapper(tokenizer)
        return (
            llguidance.LLTokenizer(wrapper, eos_token=sorted(self._vocab.end_tokens)),
            _Vocabulary(pieces=tokenizer.tokens, limits=tokenizer.limits),
        )

    def start(self, grammar: "Grammar | SchemaGrammar", n: int = 1) -> "list[Constraint]":
        """Begin to compile, one time for `n` sequences; they are ready some time later."""
        compiled = self._compiling.submit(self._compile, grammar)
        return [Constraint(self._masking, compiled) for _ in range(n)]

    def close(self) -> None:
        """Wait for what is being computed, and compute nothing else: both threads read the
        vocabulary, which must not be freed before."""
        for thread in (self._compiling, self._masking):
            thread.shutdown(cancel_futures=True)

    def _compile(self, grammar: "Grammar | SchemaGrammar") -> "_Compiled":
        """Raises BadRequest with llguidance's reason."""
        if not isinstance(grammar, Grammar):
            return self._compile_around(grammar)
        if grammar.kind is GrammarKind.JSON_SCHEMA:
            return self._compile_schema(grammar)
        try:
            text = _guidance_grammar(grammar)
        except ValueError as error:
            raise BadRequest(_refusal(grammar, str(error))) from None
        return self._matcher(grammar, text)

    def _compile_schema(self, grammar: Grammar) -> "_Compiled":
        try:
            schema = _schema(grammar.text)
        except ValueError as error:
            raise BadRequest(_refusal(grammar, str(error))) from None
        refusal: BadRequest | None = None
        for followed in candidates(schema):
            if grammar.strict:
                _refuse_partial(followed, "The schema of the answer")
            try:
                compiled = self._matcher(grammar, json_grammar(followed.schema))
            except BadRequest as refused:
                refusal = refusal or refused
                continue
            compiled.unenforced[FORM] = followed.unenforced
            return compiled
        assert refusal is not None
        raise refusal

    def _compile_around(self, grammar: SchemaGrammar) -> "_Compiled":
        found = {name: follow(text) for name, text in grammar.schemas.items()}
        for name in grammar.strict:
            _refuse_partial(found[name], f"The schema of the tool {name}" if name else "The schema")
        written = grammar.write({name: each.schema for name, each in found.items()})
        try:
            compiled = self._matcher(written, _guidance_grammar(written))
        except BadRequest:
            if grammar.strict:
                raise
            # Each schema can be followed, and all of them together are too much.
            found = {name: _shape(text) for name, text in grammar.schemas.items()}
            written = grammar.write({name: each.schema for name, each in found.items()})
            compiled = self._matcher(written, _guidance_grammar(written))
        compiled.unenforced.update({name: each.unenforced for name, each in found.items()})
        return compiled

    def _matcher(self, grammar: Grammar, text: str) -> "_Compiled":
        tokenizer, vocabulary = self._guidance
        matcher = llguidance.LLMatcher(tokenizer, text, log_level=0)
        if matcher.is_error():
            raise BadRequest(_refusal(grammar, matcher.get_error()))
        limited = grammar.kind in _LIMITED
        return _Compiled(matcher=matcher, vocabulary=vocabulary if limited else None)


_LIMITED = (GrammarKind.JSON_OBJECT, GrammarKind.JSON_SCHEMA, GrammarKind.TOOL_CALLS)
"""Grammars whose numbers and strings nobody has given an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vocabulary:
    pieces: list[bytes]
    limits: RunLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    """A grammar at its beginning. `vocabulary` None: its answers are followed by no limits.
    `unenforced`: by the name of a schema, its parts that the grammar does not follow."""

    matcher: llguidance.LLMatcher
    vocabulary: _Vocabulary | None
    unenforced: dict[str, tuple[str, ...]] = field(default_factory=dict)


def _shape(text: str) -> Followed:
    _, shape, _ = candidates(json.loads(text))
    return shape


def _refuse_partial(followed: Followed, subject: str) -> None:
    """Raise BadRequest for a strict schema that the grammar does not follow whole."""
    if followed.unenforced:
        raise BadRequest(
            f"{subject} is strict, and the grammar cannot enforce "
            f"{', '.join(followed.unenforced[:5])}. Take it out, or send "
            "strict: false to have it checked when the answer is finished."
        )


class Constraint:
    """The state of one sequence in a grammar.

        compiling --ready--> check --begin--> allowed, accept(token), allowed, ...

    The mask of the next token is computed on another thread as soon as a token is accepted.
    """

    def __init__(self, thread: ThreadPoolExecutor, compiled: "Future[_Compiled]") -> None:
        self._thread = thread
        self._compiled = compiled  # never advanced: other sequences begin with it later
        self._matcher: llguidance.LLMatcher | None = None
        self._vocabulary: _Vocabulary | None = None
        self._tail = b""
        self._next: Future[Allowed] | None = None

    @property
    def ready(self) -> bool:
        """True when `check` returns at once."""
        return self._compiled.done()

    def wait(self, seconds: float) -> None:
        """Wait until it is ready, but no longer than this."""
        wait((self._compiled,), seconds)

    def check(self) -> None:
        """Wait until the grammar is compiled. Raises BadRequest when it cannot be followed."""
        self._compiled.result()

    def begin(self) -> None:
        """Compute the first mask. `check` has returned."""
        compiled = self._compiled.result()
        self._begin(compiled, compiled.matcher.deep_copy(), [])

    def begin_after(self, tokens: list[int]) -> bool:
        """Begin behind tokens that were drawn freely. Returns False when the grammar does not begin
        with them, or cannot be followed."""
        try:
            compiled = self._compiled.result()
        except BadRequest:
            return False
        matcher = compiled.matcher.deep_copy()
        if matcher.try_consume_tokens(tokens) < len(tokens) or matcher.is_stopped():
            return False
        self._begin(compiled, matcher, tokens)
        return True

    @property
    def unenforced(self) -> Mapping[str, tuple[str, ...]]:
        """The parts of schemas that the grammar does not follow, by FORM or a tool's name; empty
        when there is no grammar after all."""
        failed = not self._compiled.done() or self._compiled.exception() is not None
        return {} if failed else self._compiled.result().unenforced

    def allowed(self) -> Allowed:
        """Return the tokens that may come next, at least one. Raises GenerationFailed when the
        grammar became too large to follow."""
        assert self._next is not None
        assert self._matcher is not None
        tokens = self._next.result()
        if not len(tokens):
            reason = self._matcher.get_error() or "no token can continue the answer"
            raise GenerationFailed(f"The grammar cannot be followed any further: {reason}.")
        return tokens

    def check_end(self) -> None:
        """Raise GenerationFailed when the answer must not end here, although it has to: the
        vocabulary has no token for what the grammar demands."""
        assert self._matcher is not None
        if not self._matcher.is_accepting():
            raise GenerationFailed(
                "The grammar cannot be followed any further: the model has no token for what must "
                "come next."
            )

    def accept(self, token: int) -> bool:
        """Advance by a token that was allowed. Returns False when the answer can only end now."""
        assert self._matcher is not None
        self._matcher.consume_token(token)
        if self._matcher.is_stopped():
            return False
        self._advance([token])
        return True

    def _begin(self, compiled: _Compiled, matcher: llguidance.LLMatcher, tokens: list[int]) -> None:
        self._matcher = matcher
        self._vocabulary = compiled.vocabulary
        self._tail = b""
        self._advance(tokens)

    def _advance(self, tokens: list[int]) -> None:
        assert self._matcher is not None
        limits = None
        if self._vocabulary is not None:
            pieces = self._vocabulary.pieces
            self._tail = (self._tail + b"".join(pieces[each] for each in tokens))[-TAIL_BYTES:]
            limits = self._vocabulary.limits
        self._next = self._thread.submit(_allowed, self._matcher, limits, self._tail)


def _allowed(matcher: llguidance.LLMatcher, limits: RunLimits | None, tail: bytes) -> Allowed:
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    tokens = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    return tokens if limits is None else limits.narrow(tokens, tail)


def _guidance_grammar(grammar: Grammar) -> str:
    """Return the grammar in llguidance's own form. Raises ValueError."""
    match grammar.kind:
        case GrammarKind.JSON_OBJECT:
            return json_grammar({"type": "object"})
        case GrammarKind.JSON_SCHEMA:
            return json_grammar(follow(grammar.text).schema)
        case GrammarKind.CHOICE:
            return llguidance.LLMatcher.grammar_from_lark(_choice(grammar.text))
        case GrammarKind.REGEX:
            return llguidance.LLMatcher.grammar_from_regex(grammar.text)
        case GrammarKind.LARK | GrammarKind.TOOL_CALLS:
            return llguidance.LLMatcher.grammar_from_lark(grammar.text)
        case GrammarKind.GBNF:
            return llguidance.grammar_from("gbnf", grammar.text)


def _schema(text: str) -> object:
    """Return a JSON Schema, which is an object or a boolean. Raises ValueError."""
    schema: object = json.loads(text)
    if not isinstance(schema, dict | bool):
        raise ValueError("a JSON Schema is an object or true or false")
    return schema


def _choice(text: str) -> str:
    """Return a Lark grammar of a JSON list of texts. Raises ValueError."""
    texts = json.loads(text)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise ValueError("a choice is a list of texts, none of them empty")
    return "start: " + " | ".join(json.dumps(each, ensure_ascii=False) for each in texts)


def _refusal(grammar: Grammar, reason: str) -> str:
    if grammar.kind is GrammarKind.TOOL_CALLS:  # nobody has written this grammar
        why = reason.partition("\n")[0].partition("): ")[2] or reason
        return f"The parameters of the `tools` cannot be followed: {why[:500]}"
    first = " ".join(reason.split())[:500]
    return f"This {grammar.kind.value.replace('_', ' ')} cannot be followed: {first}"
