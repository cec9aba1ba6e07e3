"""The names of keys as people write them."""

from typing import Final

_NAMES: Final = {
    "enter": "⏎",
    "escape": "esc",
    "question_mark": "?",
    "left": "←",
    "right": "→",
    "up": "↑",
    "down": "↓",
    "pageup": "pgup",
    "pagedown": "pgdn",
    "backspace": "⌫",
    "delete": "del",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "left_curly_bracket": "{",
    "right_curly_bracket": "}",
    "slash": "/",
    "at": "@",
    "plus": "+",
    "minus": "-",
}


def key_name(key: str) -> str:
    """Write one key of Textual: ctrl+p is ^p, shift+enter is shift+⏎."""
    *modifiers, last = key.split("+")
    name = _NAMES.get(last, last)
    control = "^" if "ctrl" in modifiers else ""
    others = "".join(f"{each}+" for each in modifiers if each != "ctrl")
    return f"{others}{control}{name}"
