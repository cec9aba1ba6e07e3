"""What an answer must look like: a grammar and, for every next token, the tokens it allows.

llguidance (Rust) does the parsing. It releases the GIL, so grammars are compiled and masks are
computed on a thread of their own while llama.cpp decodes. Imported when a request has a grammar.
"""

import functools
import json
from concurrent.futures import Future, ThreadPoolExecutor, wait

import llguidance
import numpy as np

from localllm.engine.messages import Grammar, GrammarKind
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.sampling.logits import Allowed
from localllm.errors import BadRequest, GenerationFailed

_ANY_OBJECT = '{"type": "object"}'


class Vocabulary:
    """A model's tokens as llguidance asks for them (its `TokenizerWrapper`)."""

    def __init__(self, model: Model) -> None:
        self._model = model
        ids = range(model.vocabulary)
        pieces = [model.piece(token) for token in ids]
        self.special_token_ids = [token for token in ids if not pieces[token]]
        for token in self.special_token_ids:
            pieces[token] = model.token_text(token).encode()
        self.tokens = pieces
        self.bos_token_id = None
        self.eos_token_id = min(model.ends)

    def __call__(self, text: bytes) -> list[int]:
        return self._model.tokenize(text.decode("utf-8", "replace"), special=False, ends=False)


class GrammarCompiler:
    """Makes grammars for one model's vocabulary."""

    def __init__(self, model: Model) -> None:
        self._model = model
        # Two threads: a schema may take seconds to compile, and answers wait for their masks.
        self._compiling = ThreadPoolExecutor(1, "grammar")
        self._masking = ThreadPoolExecutor(1, "mask")

    @functools.cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        # Looks at every token: about a second for a large vocabulary, so only when one is needed.
        if not self._model.ends:
            raise BadRequest("This model has no token that ends an answer: no grammar can be used.")
        wrapper = llguidance.TokenizerWrapper(Vocabulary(self._model))
        return llguidance.LLTokenizer(wrapper, eos_token=sorted(self._model.ends))

    def start(self, grammar: Grammar, answers: int = 1) -> "list[Constraint]":
        """Begin to compile, once for so many answers; they are ready some time later."""
        compiled = self._compiling.submit(self._compile, grammar)
        return [Constraint(self._masking, compiled) for _ in range(answers)]

    def _compile(self, grammar: Grammar) -> llguidance.LLMatcher:
        """Raises BadRequest with llguidance's reason."""
        try:
            text = _lark(grammar)
        except ValueError as error:
            raise BadRequest(_refusal(grammar, str(error))) from None
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0)
        if matcher.is_error():
            raise BadRequest(_refusal(grammar, matcher.get_error()))
        return matcher


class Constraint:
    """One answer's way through a grammar. `ready` first; after `begin`, `allowed` and `accept` in
    turn."""

    def __init__(
        self, thread: ThreadPoolExecutor, compiled: "Future[llguidance.LLMatcher]"
    ) -> None:
        self._thread = thread
        self._compiled = compiled  # nobody changes this one: others may begin with it later
        self._matcher: llguidance.LLMatcher | None = None
        self._next: Future[Allowed] | None = None

    @property
    def ready(self) -> bool:
        """Whether `check` returns at once."""
        return self._compiled.done()

    def wait(self, seconds: float) -> None:
        """Wait until it is ready, but no longer than this."""
        wait((self._compiled,), seconds)

    def check(self) -> None:
        """Wait until the grammar is compiled. Raises BadRequest when it is not one that can be
        followed."""
        self._compiled.result()

    def begin(self) -> None:
        """Compute what may come first. `check` has returned."""
        self._matcher = self._compiled.result().deep_copy()
        self._next = self._thread.submit(_allowed, self._matcher)

    def begin_after(self, said: list[int]) -> bool:
        """Begin behind tokens that were drawn freely; false when the grammar does not begin like
        this, or is none that can be followed."""
        try:
            matcher = self._compiled.result().deep_copy()
        except BadRequest:
            return False
        if matcher.try_consume_tokens(said) < len(said) or matcher.is_stopped():
            return False
        self._matcher = matcher
        self._next = self._thread.submit(_allowed, matcher)
        return True

    def allowed(self) -> Allowed:
        """The tokens that may come next; at least one. Raises GenerationFailed when the grammar
        became too large to follow."""
        assert self._next is not None
        assert self._matcher is not None
        tokens = self._next.result()
        if not len(tokens):
            reason = self._matcher.get_error() or "no token can continue the answer"
            raise GenerationFailed(f"The grammar cannot be followed any further: {reason}.")
        return tokens

    def check_end(self) -> None:
        """Raise GenerationFailed when the answer cannot end here, though no other token goes on:
        the vocabulary has none for what the grammar wants."""
        assert self._matcher is not None
        if not self._matcher.is_accepting():
            raise GenerationFailed(
                "The grammar cannot be followed any further: the model has no token for what must "
                "come next."
            )

    def accept(self, token: int) -> bool:
        """Go on by a token that was allowed; false when the answer can only end now."""
        assert self._matcher is not None
        self._matcher.consume_token(token)
        if self._matcher.is_stopped():
            return False
        self._next = self._thread.submit(_allowed, self._matcher)
        return True


def _allowed(matcher: llguidance.LLMatcher) -> Allowed:
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.flatnonzero(np.unpackbits(bits, bitorder="little"))


def _lark(grammar: Grammar) -> str:
    """The grammar in llguidance's own form. Raises ValueError."""
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
    """On one line, as `json.dumps` writes it: a small model that may write white space writes
    nothing else until its answer is cut."""
    return llguidance.LLMatcher.grammar_from_json_schema(
        schema,
        overrides={
            "whitespace_flexible": False,
            "item_separator": ", ",
            "key_separator": ": ",
        },
    )


def _schema(text: str) -> str:
    """A JSON Schema as text; a schema is an object or a boolean. Raises ValueError."""
    if not isinstance(json.loads(text), dict | bool):
        raise ValueError("a JSON Schema is an object or true or false")
    return text


def _choice(text: str) -> str:
    """A Lark grammar of a JSON list of texts. Raises ValueError."""
    texts = json.loads(text)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise ValueError("a choice is a list of texts, none of them empty")
    return "start: " + " | ".join(json.dumps(each, ensure_ascii=False) for each in texts)


def _refusal(grammar: Grammar, reason: str) -> str:
    if grammar.kind is GrammarKind.TOOL_CALLS:  # of the grammar nobody has seen a line
        why = reason.partition("\n")[0].partition("): ")[2] or reason
        return f"The parameters of the `tools` cannot be followed: {why[:500]}"
    first = " ".join(reason.split())[:500]
    return f"This {grammar.kind.value.replace('_', ' ')} cannot be followed: {first}"
