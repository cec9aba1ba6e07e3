"""Structured output: a grammar and, for every next token, the tokens that it allows.

llguidance (Rust) does the parsing. It releases the GIL, so grammars are compiled and masks are
computed on a thread of their own while llama.cpp decodes. Imported when a request has a grammar.
"""

import functools
import json
from concurrent.futures import Future, ThreadPoolExecutor, wait

import llguidance
import numpy as np

from localllm.engine.messages import Grammar, GrammarKind
from localllm.engine.worker.llama.vocabulary import Vocabulary
from localllm.engine.worker.sampling.logits import Allowed
from localllm.errors import BadRequest, GenerationFailed

_ANY_OBJECT = '{"type": "object"}'


class _GuidanceTokenizer:
    """A vocabulary as llguidance asks for it (its `TokenizerWrapper`)."""

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        ids = range(vocab.size)
        pieces = [vocab.piece(token) for token in ids]
        self.special_token_ids = [token for token in ids if not pieces[token]]
        for token in self.special_token_ids:
            pieces[token] = vocab.token_text(token).encode()
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
    def _tokenizer(self) -> llguidance.LLTokenizer:
        # Looks at every token: about a second for a large vocabulary, so only when one is needed.
        if not self._vocab.end_tokens:
            raise BadRequest("This model has no token that ends an answer: no grammar can be used.")
        wrapper = llguidance.TokenizerWrapper(_GuidanceTokenizer(self._vocab))
        return llguidance.LLTokenizer(wrapper, eos_token=sorted(self._vocab.end_tokens))

    def start(self, grammar: Grammar, n: int = 1) -> "list[Constraint]":
        """Begin to compile, one time for `n` sequences; they are ready some time later."""
        compiled = self._compiling.submit(self._compile, grammar)
        return [Constraint(self._masking, compiled) for _ in range(n)]

    def close(self) -> None:
        """Wait for what is being computed, and compute nothing else: both threads read the
        vocabulary, which must not be freed before."""
        for thread in (self._compiling, self._masking):
            thread.shutdown(cancel_futures=True)

    def _compile(self, grammar: Grammar) -> llguidance.LLMatcher:
        """Raises BadRequest with llguidance's reason."""
        try:
            text = _guidance_grammar(grammar)
        except ValueError as error:
            raise BadRequest(_refusal(grammar, str(error))) from None
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0)
        if matcher.is_error():
            raise BadRequest(_refusal(grammar, matcher.get_error()))
        return matcher


class Constraint:
    """The state of one sequence in a grammar.

        compiling --ready--> check --begin--> allowed, accept(token), allowed, ...

    The mask of the next token is computed on another thread as soon as a token is accepted.
    """

    def __init__(
        self, thread: ThreadPoolExecutor, compiled: "Future[llguidance.LLMatcher]"
    ) -> None:
        self._thread = thread
        self._compiled = compiled  # never advanced: other sequences begin with it later
        self._matcher: llguidance.LLMatcher | None = None
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
        self._matcher = self._compiled.result().deep_copy()
        self._next = self._thread.submit(_allowed, self._matcher)

    def begin_after(self, tokens: list[int]) -> bool:
        """Begin behind tokens that were drawn freely. Returns False when the grammar does not begin
        with them, or cannot be followed."""
        try:
            matcher = self._compiled.result().deep_copy()
        except BadRequest:
            return False
        if matcher.try_consume_tokens(tokens) < len(tokens) or matcher.is_stopped():
            return False
        self._matcher = matcher
        self._next = self._thread.submit(_allowed, matcher)
        return True

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
        self._next = self._thread.submit(_allowed, self._matcher)
        return True


def _allowed(matcher: llguidance.LLMatcher) -> Allowed:
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.flatnonzero(np.unpackbits(bits, bitorder="little"))


def _guidance_grammar(grammar: Grammar) -> str:
    """Return the grammar in llguidance's own form. Raises ValueError."""
    match grammar.kind:
        case GrammarKind.JSON_OBJECT:
            return _json(_ANY_OBJECT)
        case GrammarKind.JSON_SCHEMA:
            return _json(_schema(grammar.text))
        case GrammarKind.CHOICE:
            return llguidance.LLMatcher.grammar_from_lark(_choice(grammar.text))
        case GrammarKind.REGEX:
            return llguidance.LLMatcher.grammar_from_regex(grammar.text)
        case GrammarKind.LARK | GrammarKind.TOOL_CALLS:
            return llguidance.LLMatcher.grammar_from_lark(grammar.text)
        case GrammarKind.GBNF:
            return llguidance.grammar_from("gbnf", grammar.text)


def _json(schema: str) -> str:
    """Return the grammar of a schema, for JSON on one line as `json.dumps` writes it: a small model
    that may write white space writes nothing else until its answer is cut."""
    return llguidance.LLMatcher.grammar_from_json_schema(
        schema,
        overrides={
            "whitespace_flexible": False,
            "item_separator": ", ",
            "key_separator": ": ",
        },
    )


def _schema(text: str) -> str:
    """Return a JSON Schema, which is an object or a boolean. Raises ValueError."""
    if not isinstance(json.loads(text), dict | bool):
        raise ValueError("a JSON Schema is an object or true or false")
    return text


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
