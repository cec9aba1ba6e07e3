"""Search by words: BM25 over an SQLite FTS5 table that lies in memory alone.

FTS5 is part of every SQLite that Python comes with; extensions that would have to be loaded are
not, and macOS' Pythons refuse them. Nothing reaches a disk: the database has no file, and what
SQLite sorts stays in memory too.
"""

import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

MAX_QUERY_TERMS = 32
_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WEIGHTS = (1.5, 2.0, 1.0)
"""Of the path, the headings and the text. A question often has the words of a title; many paths
hold the same words, which BM25 counts little by itself."""

_COMMON = frozenset(
    """a an and are as at be but by can do does for from get has have how i if in is it its me my no
    not of on or our so that the their there they this to us was we were what when where which who
    why will with would you your
    als am auch auf aus bei das dass dem den der des die du ein eine einem einen einer eines er es
    hat ich ihr im in ist ja kann kein keine man mit nach nicht oder sich sie sind und von wann war
    warum was wenn wer wie wir wo wird zu zum zur""".split()  # noqa: SIM905
)
"""English and German words that every text has: they cost time and find nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedText:
    """What is searched of one passage; `id` is its number."""

    id: int
    path: str
    headings: str
    text: str


class KeywordIndex:
    """The words of many passages. One thread at a time uses it."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute("PRAGMA temp_store = MEMORY")
        self._database.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(path, headings, text, content='', "
            'tokenize="porter unicode61 remove_diacritics 2")'
        )

    def add(self, texts: Iterable[IndexedText]) -> None:
        """Add passages; a number is used once."""
        with self._database:
            self._database.executemany(
                "INSERT INTO passages(rowid, path, headings, text) VALUES (?, ?, ?, ?)",
                ((each.id, _split(each.path), _split(each.headings), _split(each.text))
                 for each in texts),
            )  # fmt: skip

    def search(self, question: str, limit: int) -> list[int]:
        """Return the numbers of the passages that have words of the question, the best first."""
        query = match_query(question)
        if not query:
            return []
        rows = self._database.execute(
            "SELECT rowid FROM passages WHERE passages MATCH ? "
            f"ORDER BY bm25(passages, {', '.join(map(str, _WEIGHTS))}) LIMIT ?",
            (query, limit),
        )
        return [number for (number,) in rows]

    def close(self) -> None:
        """Free the memory."""
        self._database.close()


def match_query(question: str) -> str:
    """Make an FTS5 query of a question: any of its words, common ones only if it has no others."""
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(_split(question))))
    terms = [word for word in words if word not in _COMMON] or words
    return " OR ".join(f'"{term}"' for term in terms[:MAX_QUERY_TERMS])


def _split(text: str) -> str:
    """Write names of programs as words: `maxTokens` as "max Tokens" (_ separates already)."""
    return _CAMEL.sub(" ", text)
