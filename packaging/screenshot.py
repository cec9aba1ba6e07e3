"""Write docs/screenshot.svg: the running app, the starter model, a real answer.

    python packaging/screenshot.py ["a question"]

Needs the `starter` extra. What is shown is what the model said and what was measured; run it again
for another answer.
"""

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from localllm.tui.app import LocalLLMApp
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.services import AppServices
from localllm.tui.widgets.models import ModelRow
from localllm.tui.widgets.prompt import Prompt

TARGET = Path(__file__).parent.parent / "docs" / "screenshot.svg"
QUESTION = "What is photosynthesis? Answer with a short list."
SIZE = (110, 34)
ENOUGH = 900
"""Characters of the answer: the picture is taken here at the latest, while more is written."""


async def main(question: str) -> None:
    app = LocalLLMApp(AppServices.of_this_machine)
    app.animation_level = "none"
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: bool(app.screen.query(ModelRow)))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        prompt = app.screen.query_one(Prompt)
        prompt.insert(question)
        await pilot.press("enter")
        await until(pilot, lambda: answered(app.screen))
        await pilot.pause()
        TARGET.write_text(without_web_fonts(app.export_screenshot()), encoding="utf-8")


def answered(screen: object) -> bool:
    if not isinstance(screen, ChatScreen):
        raise SystemExit("The engine stopped; nothing was written.")
    growing = screen.answers.growing
    path = (screen.conversation if growing is None else growing()).path()
    written = len(path[-1].text) if len(path) > 1 else 0
    return written > ENOUGH or (written > 0 and not screen.answering)


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not holds():
            await pilot.pause(0.05)


def without_web_fonts(svg: str) -> str:
    """A picture that loads nothing from anywhere; the reader's own monospace font will do."""
    return re.sub(r"@font-face\s*\{[^}]*\}\s*", "", svg)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or QUESTION))
