"""Whether the terminal is light or dark, where it can be known.

COLORFGBG is set by some terminals; most others answer a question (OSC 11). A terminal that knows
not what that is still answers the second question (DA1), so nobody waits for long. To be called
before Textual reads from the terminal.
"""

import os
import re
import sys
import time
from collections.abc import Mapping

LIMIT_S = 0.2
_QUESTIONS = b"\x1b]11;?\x1b\\\x1b[c"
_ANSWER = re.compile(rb"\x1b\]11;rgba?:([0-9a-f]+)/([0-9a-f]+)/([0-9a-f]+)", re.IGNORECASE)
_END = re.compile(rb"\x1b\[\?[0-9;]*c")
_LIGHT_COLORS = {"7", "15"}


def is_light_background(environment: Mapping[str, str] = os.environ) -> bool | None:
    """Tell whether dark text is readable on this terminal; None: not known."""
    by_variable = light_by_variable(environment.get("COLORFGBG", ""))
    if by_variable is not None:
        return by_variable
    if sys.platform == "win32" or environment.get("TERM", "") in {"", "dumb", "linux"}:
        return None
    return light_by_answer(_ask())


def light_by_variable(value: str) -> bool | None:
    """Read COLORFGBG: numbers of colours, the last is that of the background."""
    background = value.rpartition(";")[2]
    return background in _LIGHT_COLORS if background.isdigit() else None


def light_by_answer(answer: bytes) -> bool | None:
    """Read the answer to OSC 11: red, green and blue, in one to four hexadecimal digits each."""
    found = _ANSWER.search(answer)
    if found is None:
        return None
    red, green, blue = (int(each, 16) / float((1 << 4 * len(each)) - 1) for each in found.groups())
    # Luma of ITU-R BT.601: close enough to choose between two palettes.
    return 0.299 * red + 0.587 * green + 0.114 * blue > 0.5


def answer_is_whole(answer: bytes) -> bool:
    """Tell whether the terminal has answered the last question."""
    return _END.search(answer) is not None


if sys.platform == "win32":

    def _ask() -> bytes:
        return b""

else:
    import select
    import termios
    import tty

    def _ask() -> bytes:
        """Ask the terminal, without echo, and read until it has answered both or is silent."""
        try:
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        except OSError:
            return b""
        try:
            before = termios.tcgetattr(terminal)
            try:
                tty.setcbreak(terminal, termios.TCSANOW)
                os.write(terminal, _QUESTIONS)
                return _read(terminal)
            finally:
                termios.tcsetattr(terminal, termios.TCSANOW, before)
        except (OSError, termios.error):
            return b""
        finally:
            os.close(terminal)

    def _read(terminal: int) -> bytes:
        answer = b""
        until = time.monotonic() + LIMIT_S
        while not answer_is_whole(answer) and (left_s := until - time.monotonic()) > 0:
            if not select.select([terminal], [], [], left_s)[0]:
                break
            answer += os.read(terminal, 1024)
        return answer
