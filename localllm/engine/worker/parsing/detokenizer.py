"""From the bytes of tokens to text that can be shown: whole characters, no part of a stop string.

Pure; sequences/output.py pushes the bytes of each token and emits the text that comes back.
"""

import codecs


class IncrementalDetokenizer:
    """The text of one answer as it grows.

    A token may end inside a UTF-8 character, and the beginning of a stop string may turn out to be
    ordinary text: both are pending until that is certain. Bytes that can never become a character
    come out as U+FFFD.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = tuple(text for text in stop if text)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self.stop: str | None = None
        """The stop string that has come: nothing follows."""

    @property
    def stopped(self) -> bool:
        """True when a stop string has come."""
        return self.stop is not None

    @property
    def has_pending(self) -> bool:
        """True when bytes or text have been pushed that did not come out yet."""
        return bool(self._pending or self._decoder.getstate()[0])

    @property
    def in_character(self) -> bool:
        """True when the last token has ended inside a character."""
        return bool(self._decoder.getstate()[0])

    def push(self, piece: bytes) -> str:
        """Add one token's bytes; return the text that is certain now. May set `stop`."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return the pending text: the answer has ended without a stop string."""
        text = self._release(self._decoder.decode(b"", final=True))
        if self.stopped:
            return text
        text, self._pending = text + self._pending, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._pending += text
        found = [(at, stop) for stop in self._stop if (at := self._pending.find(stop)) >= 0]
        if found:
            at, self.stop = min(found, key=lambda each: each[0])
            out, self._pending = self._pending[:at], ""
            return out
        keep = max((overlap(self._pending, stop) for stop in self._stop), default=0)
        cut = len(self._pending) - keep
        out, self._pending = self._pending[:cut], self._pending[cut:]
        return out


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
