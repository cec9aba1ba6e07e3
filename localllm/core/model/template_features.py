"""What a chat template shows of its model: whether it takes tools, whether it writes thoughts."""

import re

_TOOLS = re.compile(r"\btools\b")
_THINKING = re.compile(
    r"</?think(?:ing)?>|\b(?:enable_thinking|thinking|reasoning_content|reasoning_effort)\b"
)
"""What templates that show or steer a thought read or write."""


def takes_tools(template: str) -> bool:
    """Tell whether a chat template reads a list of tools."""
    return _TOOLS.search(template) is not None


def shows_thoughts(template: str) -> bool:
    """Tell whether a chat template shows or steers a thought before the answer."""
    return _THINKING.search(template) is not None
