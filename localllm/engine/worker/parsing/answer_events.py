"""What one answer says: its tokens' text becomes the events of text, reasoning and calls."""

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from localllm.engine.messages import (
    Event,
    FinishReason,
    Reasoning,
    Token,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.engine.worker.parsing.call_section import (
    CallArguments,
    CallBegan,
    CallEnded,
    Part,
    Text,
    Thought,
)
from localllm.engine.worker.parsing.parser import Reader

if TYPE_CHECKING:
    from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer
    from localllm.engine.worker.sampling.grammar import Constraint


class Speech:
    """One answer's. Without a reader every text is said as it is."""

    def __init__(
        self,
        reader: Reader | None = None,
        *,
        markers: Mapping[int, bytes] | None = None,
        one_call: bool = False,
        tokenize: Callable[[str], list[int]] | None = None,
    ) -> None:
        """`markers`: tokens that write nothing, but must be seen. `one_call`: the first one ends
        the answer. `tokenize` reads markers as tokens; without it no call is ever bound."""
        self._reader = reader
        self._markers = markers or {}
        self._one_call = one_call
        self._tokenize = tokenize
        self._begun = 0
        self.calls: Constraint | None = None
        """What a section of calls must look like, from its beginning on; None: it is not bound."""
        self._refused = False
        self._following = False

    def piece(self, token: int) -> bytes:
        """What the reader has to see of a token that writes nothing."""
        return self._markers.get(token, b"")

    @property
    def ended(self) -> bool:
        """Whether the answer has said all that it may."""
        return self._one_call and self._reader is not None and self._reader.calls > 0

    def say(self, token: Token) -> list[Event]:
        """The events of a token: exactly one of them is a Token, with its log probabilities."""
        if self._reader is None:
            return [token]
        return self._events(self._reader.push(token.text), token)

    def say_rest(self, rest: Token) -> list[Event]:
        """The events of what is left when the answer has ended; `rest` is text that was held."""
        if self._reader is None:
            return [rest] if rest.text else []
        parts = [] if self.ended else [*self._reader.push(rest.text), *self._reader.finish()]
        events = self._events(parts, rest)
        return [each for each in events if not (isinstance(each, Token) and not each.text)]

    def reason(self, reason: FinishReason) -> FinishReason:
        """Why the answer has ended, said in the words of tools."""
        called = self._begun and reason is FinishReason.STOP
        return FinishReason.TOOL_CALLS if called else reason

    # --- grammar ---

    def next_constraint(
        self, constraint: "Constraint | None", *, complete: bool, text: "IncrementalDetokenizer"
    ) -> "Constraint | None":
        """What the next token must follow, after one was said; `complete`: what it followed is.

        A model that is free to write text is bound as soon as it has begun to call. A constraint
        of the whole answer is not touched.
        """
        grammar, reader = self.calls, self._reader
        if grammar is None or reader is None or self._tokenize is None:
            return constraint
        if self._following:
            if not complete:
                return constraint
            self._following = False
            reader.distrust()
            return None
        said = reader.calling
        if said is None:
            self._refused = False
        elif not self._refused and not text.has_pending:
            self._following = grammar.begin_after(self._tokenize(said))
            self._refused = not self._following
            if self._following:
                reader.trust()
                return grammar
        return constraint

    @property
    def bound(self) -> bool:
        """Whether the constraint is that of a section, not of the whole answer."""
        return self._following

    # --- events ---

    def _events(self, parts: list[Part], token: Token) -> list[Event]:
        events: list[Event] = []
        said = False
        for part in parts:
            match part:
                case Text(text):
                    events.append(_with_text(token, text, first=not said))
                    said = True
                case _ if self._one_call and self._begun and isinstance(part, CallBegan):
                    break
                case _:
                    events += self._event(part, token)
        if not said:
            events.insert(0, _with_text(token, "", first=True))
        return events

    def _event(self, part: Part, token: Token) -> list[Event]:
        request_id, index, call = token.request_id, token.index, self._begun - 1
        match part:
            case Thought(text):
                return [Reasoning(request_id=request_id, text=text, index=index)]
            case CallBegan(name):
                self._begun += 1
                return [
                    ToolCallBegan(
                        request_id=request_id,
                        call=call + 1,
                        id=secrets.token_hex(5)[:9],  # nine, as Mistral's templates insist
                        name=name,
                        index=index,
                    )
                ]
            case CallArguments(text):
                return [ToolCallArguments(request_id=request_id, call=call, text=text, index=index)]
            case CallEnded() | Text():
                return []


def _with_text(token: Token, text: str, *, first: bool) -> Token:
    """This text in the name of `token`; only its first event has its log probabilities."""
    return Token(
        request_id=token.request_id,
        text=text,
        logprob=token.logprob if first else None,
        top_logprobs=token.top_logprobs if first else (),
        index=token.index,
    )
