"""From token bytes to text that can be shown: whole characters, and no part of a stop string.

Pure; `sampling.py` gives it bytes, `scheduler.py` sends what it lets through.
"""

import codecs


class TextStream:
    """The text of one answer as it grows.

    A token may end inside a UTF-8 character, and the start of a stop string may turn out to be
    ordinary text: both are held back until it is certain. Bytes that can never become a
    character come out as U+FFFD.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = tuple(text for text in stop if text)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        return bool(self._held or self._decoder.getstate()[0])

    def push(self, piece: bytes) -> str:
        """Add one token's bytes; return the text that is certain now. Sets `stopped`."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what is still held back: the answer has ended without a stop string."""
        text = self._release(self._decoder.decode(b"", final=True))
        if self.stopped:
            return text
        text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        ends = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            out, self._held = self._held[: min(ends)], ""
            return out
        keep = max((overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
