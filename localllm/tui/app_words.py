"""Messages that were written for the command line, as people read them in the app.

Errors of the lower rooms end with what to try: an option, or a verb of the command line. Nobody in
the app can give either, and its windows offer the same with keys.
"""

import re

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(`])")
_COMMAND = re.compile(
    r"(?<![\w-])--[a-z][a-z-]+"
    r"|\blocalllm (?:bench|catalogue|chat|config|doctor|engine|import|key|launch|list|measure|pull"
    r"|rm|run|search|serve|size|stop|suggest|update|verify)\b"
    r"|\bpip install\b"
)


def app_words(message: str) -> str:
    """Return a message without the sentences that name options or verbs of the command line; all of
    it where nothing else would be left."""
    sentences = _SENTENCE_END.split(message)
    kept = [each for each in sentences if not _COMMAND.search(each)]
    return " ".join(kept) if kept and len(kept) < len(sentences) else message
