"""DeepSeek's markers, with a bar and blanks of their own, and how calls are written with them."""

from localllm.engine.worker.tools.json_text import beyond_space, nested, until, word
from localllm.engine.worker.tools.section import Characters, Malformed, Section

_BAR, _BLANK = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"


def _marker(*words: str) -> str:
    return f"<{_BAR}{_BLANK.join(words)}{_BAR}>"


CALLS_BEGIN = _marker("tool", "calls", "begin")
CALL_BEGIN = _marker("tool", "call", "begin")
SEPARATOR = _marker("tool", "sep")
CALL_END = _marker("tool", "call", "end")
CALLS_END = _marker("tool", "calls", "end")
MARKERS = (CALLS_BEGIN, CALL_BEGIN, SEPARATOR, CALL_END, CALLS_END)

_COMMON = len(f"<{_BAR}tool{_BLANK}call")
"""Characters that CALL_BEGIN and CALLS_END begin with."""


def deepseek(section: Section) -> Characters:
    """Behind CALLS_BEGIN: for each call CALL_BEGIN, the word `function`, SEPARATOR, the name, and
    the arguments as a fenced block (V3, R1), or the name, SEPARATOR and the arguments (V3.1);
    then CALL_END. After the last one CALLS_END."""
    while True:
        if (yield from beyond_space()) != "<":
            raise Malformed
        yield from word(CALL_BEGIN[1:_COMMON])
        character = yield
        if character == CALLS_END[_COMMON]:
            yield from word(CALLS_END[_COMMON + 1 :])
            return
        if character != CALL_BEGIN[_COMMON]:
            raise Malformed
        yield from word(CALL_BEGIN[_COMMON + 1 :])
        section.another()
        name = yield from until(SEPARATOR)
        character = yield
        if character != "{":
            name = character + (yield from until("\n"))
            yield from word("```json")
            character = yield from beyond_space()
        section.began(name.strip())
        yield from nested(character, section.argue)
        section.ended()
        yield from until(CALL_END)
