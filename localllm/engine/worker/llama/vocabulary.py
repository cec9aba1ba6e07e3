"""A model's vocabulary in llama.cpp: text to tokens and back.

Apart from `Model` because the prompt, the parser and the grammar need tokens and nothing else.
"""

import ctypes
import functools
from dataclasses import astuple, dataclass

from localllm.engine.worker.binding import llama

_PIECE_BYTES = 128
"""Long enough for nearly every token; a longer one takes a second call."""


@dataclass(frozen=True, slots=True)
class InfillTokens:
    """The tokens that fill in the middle of a text; those that a vocabulary has not are None."""

    prefix: int
    suffix: int
    middle: int
    repository: int | None = None
    file: int | None = None
    pad: int | None = None

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(token for token in astuple(self) if token is not None)


class Vocabulary:
    """llama.cpp's `llama_vocab`. Valid as long as the model that it belongs to is loaded."""

    def __init__(self, model: int) -> None:
        """`model` is llama.cpp's handle."""
        self._vocab = llama.llama_model_get_vocab(model)
        self.size: int = llama.llama_vocab_n_tokens(self._vocab)
        """Tokens; a row of logits has as many numbers."""
        self._pieces: dict[int, bytes] = {}

    @property
    def handle(self) -> int:
        """llama.cpp's vocabulary object, for the sampler."""
        return int(self._vocab)

    def tokenize(self, text: str, *, special: bool, ends: bool = True) -> list[int]:
        """Return the tokens of `text`.

        `special` (llama.cpp's parse_special): control tokens written in the text are recognised.
        `ends` (add_special): the vocabulary's own rules for BOS and EOS are applied.
        """
        raw = text.encode("utf-8", "replace")
        most = len(raw) + 8  # a token is at least one byte; BOS, EOS
        tokens = (llama.llama_token * most)()
        count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, most, ends, special)
        if count < 0:  # more tokens than bytes (prefix spaces)
            tokens = (llama.llama_token * -count)()
            count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, -count, ends, special)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """Return the bytes that this token adds to the text; control tokens add none."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def _read_piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        size = llama.llama_token_to_piece(self._vocab, token, buffer, _PIECE_BYTES, 0, False)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama.llama_token_to_piece(self._vocab, token, buffer, -size, 0, False)
        return buffer.raw[: max(size, 0)]

    def written(self, token: int) -> bytes:
        """Return the bytes of a token as a person writes it: control tokens by their names."""
        return self.piece(token) or self.token_text(token).encode()

    def token_text(self, token: int) -> str:
        """Return a token's text as the vocabulary writes it ("<s>"); "" for a negative one."""
        if token < 0:
            return ""
        return (llama.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Return True for a token that ends an answer (EOS, EOT, ...)."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    @functools.cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends an answer. Reads the whole vocabulary the first time."""
        return frozenset(filter(self.is_end, range(self.size)))

    @functools.cached_property
    def control_words(self) -> frozenset[str]:
        """The texts of the tokens that `tokenize` recognises with `special` only. Reads the whole
        vocabulary the first time."""
        return self._words_of(llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN)

    @functools.cached_property
    def user_words(self) -> frozenset[str]:
        """The texts of further tokens that `tokenize` looks for before it cuts a text into pieces.
        Reads the whole vocabulary the first time."""
        return self._words_of(llama.LLAMA_TOKEN_ATTR_USER_DEFINED)

    @functools.cached_property
    def strip_words(self) -> tuple[frozenset[str], frozenset[str]]:
        """The texts of tokens before which `tokenize` takes blanks away, and of those after which
        it does."""
        return (
            self._words_of(llama.LLAMA_TOKEN_ATTR_LSTRIP),
            self._words_of(llama.LLAMA_TOKEN_ATTR_RSTRIP),
        )

    def _words_of(self, kinds: int) -> frozenset[str]:
        attributes = llama.llama_vocab_get_attr
        return frozenset(
            self.token_text(token)
            for token in range(self.size)
            if attributes(self._vocab, token) & kinds
        )

    @property
    def bos_token(self) -> int:
        """The token that begins a text; negative for none."""
        return int(llama.llama_vocab_bos(self._vocab))

    @property
    def bos(self) -> str:
        return self.token_text(self.bos_token)

    @property
    def eos(self) -> str:
        return self.token_text(llama.llama_vocab_eos(self._vocab))

    @property
    def pad(self) -> str:
        return self.token_text(llama.llama_vocab_pad(self._vocab))

    @functools.cached_property
    def infill_tokens(self) -> InfillTokens | None:
        """The tokens that fill in the middle; None for a model that was not trained for it."""
        needed = (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid)
        further = (llama.llama_vocab_fim_rep, llama.llama_vocab_fim_sep, llama.llama_vocab_fim_pad)
        found = [token if token >= 0 else None for token in (f(self._vocab) for f in needed)]
        if None in found:
            return None
        return InfillTokens(
            *(token for token in found if token is not None),
            *(token if token >= 0 else None for token in (f(self._vocab) for f in further)),
        )

    @property
    def adds_bos(self) -> bool:
        """True when `tokenize` puts BOS before a text."""
        return bool(llama.llama_vocab_get_add_bos(self._vocab))
