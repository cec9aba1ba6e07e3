"""Texts of clients to tokens and back, in bounded time: no running answer goes on meanwhile."""

from typing import Protocol

from localllm.engine.messages import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest
from localllm.engine.messages.validation import check_detokenize, check_tokenize
from localllm.engine.worker.prompt.word_parts import WordFinder
from localllm.errors import BadRequest

_SHORT_CHARS = 2**14
"""Of a text in which no words need counting."""
_MAX_WORDS = 4096
"""llama.cpp cuts a text at each word that is one token, in time that grows with their square:
24,000 of them take 2.7 s, 4,096 less than 0.2 s (b11434, two cores)."""


class TokenVocabulary(Protocol):
    """The part of a vocabulary that is needed here (`llama.vocabulary.Vocabulary`)."""

    size: int

    @property
    def control_words(self) -> frozenset[str]: ...

    @property
    def user_words(self) -> frozenset[str]: ...

    def tokenize(self, text: str, *, special: bool, ends: bool = True) -> list[int]: ...

    def written(self, token: int) -> bytes: ...


class TextTokenizer:
    """Answers the requests that need a vocabulary and nothing else."""

    def __init__(self, vocab: TokenVocabulary) -> None:
        self._vocab = vocab
        self._finders: dict[bool, WordFinder] = {}

    def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """Cut a text into tokens. Raises BadRequest for one that takes too long."""
        check_tokenize(request)
        self._check_words(request)
        tokens = self._vocab.tokenize(
            request.text, special=request.parse_special, ends=request.add_special
        )
        return Tokenized(
            request_id=request.request_id,
            tokens=tuple(tokens),
            pieces=tuple(map(self._vocab.written, tokens)),
        )

    def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Write tokens as text. Raises BadRequest for one that this model has not."""
        check_detokenize(request)
        for token in request.tokens:
            if token >= self._vocab.size:
                raise BadRequest(
                    f"A token is {token}; this model's are 0 to {self._vocab.size - 1}."
                )
        text = b"".join(map(self._vocab.written, request.tokens)).decode("utf-8", "replace")
        return Detokenized(request_id=request.request_id, text=text)

    def _check_words(self, request: TokenizeRequest) -> None:
        if len(request.text) <= _SHORT_CHARS:
            return
        special = request.parse_special
        if special not in self._finders:
            words = self._vocab.user_words | (self._vocab.control_words if special else frozenset())
            self._finders[special] = WordFinder(words - {""})
        for count, _ in enumerate(self._finders[special].find(request.text)):
            if count >= _MAX_WORDS:
                raise BadRequest(
                    f"The text holds more than {_MAX_WORDS} words that are tokens of their own, "
                    "such as control tokens: that takes too long. Send it in parts."
                )
