"""Where control words, and what may become one, are in a text. Pure."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

_PREFIX_CHARS = 2
_MAX_ROUNDS = 4

Rewrite = tuple[str, str]
"""What a template replaces in texts, and by what."""


class WordFinder:
    """Finds words in a text: first their beginnings, which are few, then the longest of each."""

    def __init__(self, words: frozenset[str]) -> None:
        self._words = words
        self._lengths: dict[str, list[int]] = {}
        for word in words:
            lengths = self._lengths.setdefault(word[:_PREFIX_CHARS], [])
            if len(word) not in lengths:
                lengths.append(len(word))
        for lengths in self._lengths.values():
            lengths.sort(reverse=True)
        prefixes = "|".join(map(re.escape, self._lengths))
        self._prefix = re.compile(prefixes) if prefixes else None

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where words begin and end; of those that begin at one place the longest."""
        if self._prefix is None:
            return
        at = 0
        while (hit := self._prefix.search(text, at)) is not None:
            start = hit.start()
            for length in self._lengths[hit[0]]:
                if text[start : start + length] in self._words:
                    yield start, start + length
                    break
            at = start + 1


class WordParts:
    """The places in a text at which a character keeps it from being, or becoming, a control word.

    They are chosen so that a template that looks for a text of its own (`</think>`) finds it, and
    blanks at the ends are still there to be trimmed.
    """

    def __init__(self, words: frozenset[str], rewrites: Sequence[Rewrite] = ()) -> None:
        """`words` are in small letters. `rewrites`: what the template does to texts."""
        self._finder = WordFinder(words)
        self._rewrites = rewrites
        self._heads = frozenset(word[:i] for word in words for i in range(1, len(word)))
        self._tails = frozenset(word[i:] for word in words for i in range(1, len(word)))
        self._inners = frozenset(inner for word in words for inner in _inners(word))
        self._longest = max(map(len, words), default=0)

    def places(self, text: str, *, inner: bool = True) -> list[int]:
        """Return the places, in order. `inner`: also of a text that is all of a word but for
        brackets, which a template may write around it."""
        small = text.lower()
        if len(small) != len(text):  # a letter that has no small form of its length
            small = text
        places = {start + 1 for start, _ in self._finder.find(small)}
        places.update(self._at_the_ends(small, inner=inner))
        if self._is_hidden(small):
            places.update(self._between_all(small))
        return sorted(places)

    def _at_the_ends(self, text: str, *, inner: bool) -> Iterator[int]:
        """Find the beginning of a word at the end of a text, the end of one at its beginning."""
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        if inner and text[start:end] in self._inners:
            yield start + min(1, end - start - 1)
        most = min(self._longest, end - start)
        for length in range(most, 0, -1):
            if text[end - length : end] in self._heads:
                yield end - length + 1
                break
        for length in range(most, 0, -1):
            if text[start : start + length] in self._tails:
                yield start + length - 1
                break

    def _is_hidden(self, text: str) -> bool:
        """Tell whether there are more words in a text once the template has rewritten it."""
        if not any(old in text for old, _ in self._rewrites):
            return False
        words = self._words_in(text)
        for _ in range(_MAX_ROUNDS):
            before = text
            for old, new in self._rewrites:
                text = text.replace(old, new)
                if self._words_in(text) - words:
                    return True
            if text == before:
                break
        return False

    def _between_all(self, text: str) -> Iterator[int]:
        """Find the places between any two characters, but for blanks, outside what is rewritten."""
        inside = {
            place
            for old, _ in self._rewrites
            for match in re.finditer(re.escape(old), text)
            for place in range(match.start() + 1, match.end())
        }
        for place in range(1, len(text)):
            if place not in inside and not (text[place - 1].isspace() or text[place].isspace()):
                yield place

    def _words_in(self, text: str) -> Counter[str]:
        return Counter(text[start:end] for start, end in self._finder.find(text))


def _inners(word: str) -> Iterator[str]:
    """Yield what remains of a word without brackets and the like at both ends."""
    for start in range(1, len(word)):
        if word[start - 1].isalnum():
            break
        for end in range(len(word) - 1, start, -1):
            if word[end].isalnum():
                break
            yield word[start:end]
