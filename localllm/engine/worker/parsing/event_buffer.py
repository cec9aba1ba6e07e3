"""The events that a piece of an answer leads to, built in place while it is parsed. Pure.

Parsers report small pieces, often single characters; neighbours of one kind leave as one event.
"""

import secrets

from localllm.engine.messages import Event, Reasoning, Token, ToolCallArguments, ToolCallBegan

_CALL_ID_CHARS = 9
"""Mistral's chat templates refuse ids of any other length."""

_TextEvent = type[Token] | type[Reasoning] | type[ToolCallArguments]


class EventBuffer:
    """Collects the events of one answer, a token at a time, and numbers its calls."""

    def __init__(self, *, one_call: bool = False) -> None:
        """`one_call`: drop whatever comes with a second call and after it."""
        self.calls_begun = 0
        self._one_call = one_call
        self._token: Token | None = None
        self._has_text = False
        self._dropping = False
        self._events: list[Event] = []
        self._kind: _TextEvent | None = None
        self._pieces: list[str] = []

    def begin(self, token: Token) -> None:
        """Collect for this token: its request and choice are those of the events to come."""
        self._token = token
        self._has_text = False

    def text(self, text: str) -> None:
        """Add a piece of the answer's text; as with reasoning and arguments, "" adds nothing."""
        self._add(Token, text)

    def reasoning(self, text: str) -> None:
        self._add(Reasoning, text)

    def call_arguments(self, text: str) -> None:
        self._add(ToolCallArguments, text)

    def call_began(self, name: str) -> None:
        """Add the beginning of a call; the arguments that follow are its own."""
        self.flush()
        if self._one_call and self.calls_begun:
            self._dropping = True
        if self._dropping:
            return
        token = self._current
        self._events.append(
            ToolCallBegan(
                request_id=token.request_id,
                call=self.calls_begun,
                id=secrets.token_hex(_CALL_ID_CHARS)[:_CALL_ID_CHARS],
                name=name,
                index=token.index,
            )
        )
        self.calls_begun += 1

    def flush(self) -> None:
        """End the event that is being built: the next piece begins another one."""
        if not self._pieces:
            return
        token, text = self._current, "".join(self._pieces)
        request_id, index = token.request_id, token.index
        if self._kind is Token:
            self._events.append(self._text_event(text))
        elif self._kind is Reasoning:
            self._events.append(Reasoning(request_id=request_id, text=text, index=index))
        else:
            call = self.calls_begun - 1
            self._events.append(
                ToolCallArguments(request_id=request_id, call=call, text=text, index=index)
            )
        self._pieces.clear()

    def take(self) -> list[Event]:
        """Return the events since `begin`: at least one Token, so that tokens can be counted."""
        self.flush()
        if not self._has_text:
            self._events.insert(0, self._text_event(""))
        return self.take_rest()

    def take_rest(self) -> list[Event]:
        """Return the events since `begin`, of which there may be none."""
        self.flush()
        self._dropping = False
        events, self._events = self._events, []
        return events

    @property
    def _current(self) -> Token:
        assert self._token is not None  # `begin` comes first
        return self._token

    def _add(self, kind: _TextEvent, text: str) -> None:
        if not text or self._dropping:
            return
        if kind is not self._kind:
            self.flush()
            self._kind = kind
        self._pieces.append(text)

    def _text_event(self, text: str) -> Token:
        """Make a piece of the text; only a token's first one has its log probabilities."""
        token, first = self._current, not self._has_text
        self._has_text = True
        return Token(
            request_id=token.request_id,
            text=text,
            logprob=token.logprob if first else None,
            top_logprobs=token.top_logprobs if first else (),
            index=token.index,
        )
