"""A prompt that is said again before its answer (`GenerateRequest.echo`), token by token."""

from localllm.engine.worker.model import Model
from localllm.engine.worker.text import TextStream


class Echo:
    """How far a prompt has been said.

    All texts together are the prompt's own: a BOS that the tokenizer added is none of it, nor is
    the space that SentencePiece puts before the first word.
    """

    def __init__(self, model: Model, prompt: str | None) -> None:
        """`prompt` None: only its tokens are known."""
        self._model = model
        self._prompt = None if prompt is None else prompt.encode("utf-8", "replace")
        self._text = TextStream()
        self._begun = False
        self.said = 0
        """Tokens, from the first on."""

    def say(self, token: int) -> str:
        """The text of the next token, as far as it is certain."""
        piece = self._model.piece(token) or self._model.token_text(token).encode()
        if not self._begun:
            piece = self._first(token, piece)
            self._begun = bool(piece)
        self.said += 1
        return self._text.push(piece)

    def _first(self, token: int, piece: bytes) -> bytes:
        if self._prompt is not None and self._prompt.startswith(piece):
            return piece
        if token == self._model.bos_token:
            return b""
        return piece.removeprefix(b" ") if self._prompt is not None else piece

    def finish(self) -> str:
        """What is left when the prompt ends inside a character; nothing when asked again."""
        return self._text.finish()
