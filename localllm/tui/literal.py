"""Text from outside (a model, a file's name, an error) as content without markup.

Textual reads a plain str as markup: a model's `[/INST]` raises and `[Q4_K_M]` vanishes. Whatever
we did not type ourselves goes through one of these two.
"""

from textual.content import Content

from localllm.core.text import single_line, strip_controls


def lines(text: str) -> Content:
    """Make content of outside text with its line ends."""
    return Content(strip_controls(text))


def line(text: str) -> Content:
    """Make content of outside text on one line."""
    return Content(single_line(text))
