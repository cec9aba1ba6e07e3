"""Write the pictures of README and docs/tui.md from the real app with the starter model.

    python packaging/screenshot.py

Needs the `starter` extra. What is shown is what the model said and what was measured on this
machine; run it again for another answer. docs/tui/cast.svg is a short film of such a run, which any
browser plays. The app gets directories of its own, so that nothing of yours is in the pictures.
"""

import asyncio
import html
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.segment import Segment
from textual.pilot import Pilot

from localllm.tui.app import LocalLLMApp
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.tokens.tokens import TokensScreen
from localllm.tui.services import AppServices
from localllm.tui.widgets.models import ModelRow
from localllm.tui.widgets.prompt import Prompt

TARGET = Path(__file__).parent.parent / "docs" / "tui"
QUESTION = "What is photosynthesis? Answer with a short list."
SIZE = (110, 32)
FILM_SIZE = (100, 28)
WIDTH, HEIGHT = 8.4, 17.0
"""A cell of the film, in pixels."""


@dataclass(kw_only=True)
class Film:
    """Pictures in turn, each for so many seconds; lines that come again are kept once."""

    columns: int
    rows: int
    lines: dict[str, int] = field(default_factory=dict)
    frames: list[tuple[float, list[int]]] = field(default_factory=list)

    def add(self, app: LocalLLMApp, seconds: float) -> None:
        """Take a picture."""
        strips = app.screen._compositor.render_strips()
        numbers = [self.lines.setdefault(line_svg(strip), len(self.lines)) for strip in strips]
        self.frames.append((seconds, numbers))

    def svg(self) -> str:
        """Write the film."""
        whole_s = sum(seconds for seconds, _numbers in self.frames)
        width, height = self.columns * WIDTH, self.rows * HEIGHT
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#111418"/><style>',
            "text{font-family:monospace;font-size:14px;white-space:pre}.b{font-weight:bold}",
            f".f{{visibility:hidden;animation-duration:{whole_s:.2f}s;"
            "animation-iteration-count:infinite;animation-timing-function:step-end}",
        ]
        at_s = 0.0
        for number, (seconds, _numbers) in enumerate(self.frames):
            begin, end = 100 * at_s / whole_s, 100 * (at_s + seconds) / whole_s
            hidden = "" if number == 0 else "0%{visibility:hidden}"
            parts.append(
                f"@keyframes k{number}{{{hidden}{begin:.3f}%{{visibility:visible}}"
                f"{end:.3f}%,100%{{visibility:{'visible' if end > 99.99 else 'hidden'}}}}}"
                f".f{number}{{animation-name:k{number}}}"
            )
            at_s += seconds
        parts.append("</style><defs>")
        parts += [f'<g id="l{number}">{line}</g>' for line, number in self.lines.items()]
        parts.append("</defs>")
        for number, (_seconds, numbers) in enumerate(self.frames):
            parts.append(f'<g class="f f{number}">')
            parts += [
                f'<use href="#l{line}" y="{row * HEIGHT:.0f}"/>' for row, line in enumerate(numbers)
            ]
            parts.append("</g>")
        return "\n".join([*parts, "</svg>\n"])


def line_svg(segments: Iterable[Segment]) -> str:
    """Write one line of the screen."""
    boxes, texts, column = [], [], 0
    for segment in segments:
        style, cells = segment.style, segment.cell_length
        x, length = column * WIDTH, cells * WIDTH
        column += cells
        colour, background = "#d8dee6", None
        if style is not None:
            if style.color is not None:
                colour = style.color.get_truecolor().hex
            if style.bgcolor is not None:
                background = style.bgcolor.get_truecolor().hex
            if style.reverse:
                colour, background = background or "#111418", colour
        if background is not None:
            box = f'<rect x="{x:.1f}" width="{length:.1f}" height="{HEIGHT:.0f}"'
            boxes.append(f'{box} fill="{background}"/>')
        if segment.text.strip():
            bold = ' class="b"' if style is not None and style.bold else ""
            text = html.escape(segment.text)
            texts.append(
                f'<text x="{x:.1f}" y="13" textLength="{length:.1f}" fill="{colour}"{bold}>'
                f"{text}</text>"
            )
    return "".join([*boxes, *texts])


async def take_pictures() -> None:
    app = LocalLLMApp(AppServices.of_this_machine)
    app.animation_level = "none"
    async with app.run_test(size=SIZE) as pilot:
        await home(pilot)
        await take(pilot, "home")
        await ask(pilot)
        await until(pilot, lambda: written(app) > 200 or answered(app))
        await take(pilot, "chat")
        await until(pilot, lambda: answered(app))
        await show_tokens(pilot)
        await take(pilot, "tokens")
        await pilot.press("escape", "f6")
        await pilot.pause(6)  # every file is sized
        await pilot.press("down", "right", "right_square_bracket")
        await pilot.pause(6)
        await take(pilot, "models")
        await pilot.press("f9", "p")
        await pilot.pause(1)
        await take(pilot, "privacy")


async def make_film() -> None:
    app = LocalLLMApp(AppServices.of_this_machine)
    app.animation_level = "none"
    film = Film(columns=FILM_SIZE[0], rows=FILM_SIZE[1])
    async with app.run_test(size=FILM_SIZE) as pilot:
        await home(pilot)
        film.add(app, 2.5)
        await pilot.press("f6")
        await pilot.pause(6)
        film.add(app, 1.5)
        for _ in range(3):
            await pilot.press("right_square_bracket")
            await pilot.pause(2)
            film.add(app, 0.8)
        for _ in range(3):
            await pilot.press("left_square_bracket")
        await pilot.press("f3")
        await ask(pilot)
        for _ in range(24):
            await pilot.pause(0.25)
            film.add(app, 0.25)
            if answered(app):
                break
        await until(pilot, lambda: answered(app))
        film.add(app, 2.0)
        await show_tokens(pilot)
        film.add(app, 1.5)
        for key in ("n", "down"):
            await pilot.press(key)
            await pilot.pause(0.5)
            film.add(app, 1.5)
        await pilot.press("escape", "f9", "p")
        await pilot.pause(1)
        film.add(app, 3.0)
    (TARGET / "cast.svg").write_text(film.svg(), encoding="utf-8")


# --- what both do ---


async def home(pilot: Pilot[None]) -> None:
    """Wait for the home place, and for what is computed behind it."""
    await until(pilot, lambda: bool(pilot.app.screen.query(ModelRow)))
    await pilot.pause(4)


async def ask(pilot: Pilot[None]) -> None:
    """Open the chat, and ask."""
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
    pilot.app.screen.query_one(Prompt).insert(QUESTION)
    await pilot.press("enter")


async def show_tokens(pilot: Pilot[None]) -> None:
    """Open the tokens of the last answer, at the first unlikely one."""
    await pilot.press("tab", "t")
    await until(pilot, lambda: isinstance(pilot.app.screen, TokensScreen))
    await pilot.pause(4)
    await pilot.press("n")
    await pilot.pause(0.5)


async def take(pilot: Pilot[None], name: str) -> None:
    """Write one picture."""
    await pilot.pause()
    svg = without_web_fonts(pilot.app.export_screenshot())
    (TARGET / f"{name}.svg").write_text(svg, encoding="utf-8")


def chat(app: LocalLLMApp) -> ChatScreen:
    for screen in app.screen_stack:
        if isinstance(screen, ChatScreen):
            return screen
    raise SystemExit("The chat is gone; nothing more was written.")


def written(app: LocalLLMApp) -> int:
    screen = chat(app)
    growing = screen.answers.growing
    path = (screen.conversation if growing is None else growing()).path()
    return len(path[-1].text) if len(path) > 1 else 0


def answered(app: LocalLLMApp) -> bool:
    return written(app) > 0 and not chat(app).answering


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not holds():
            await pilot.pause(0.05)


def without_web_fonts(svg: str) -> str:
    """A picture that loads nothing from anywhere; the reader's own monospace font will do."""
    return re.sub(r"@font-face\s*\{[^}]*\}\s*", "", svg)


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="localllm-") as directory:
        for each in ("DATA", "CONFIG", "CACHE"):
            os.environ[f"LOCALLLM_{each}_DIR"] = str(Path(directory, each.lower()))
            Path(directory, each.lower()).mkdir()
        Path(directory, "config", "settings.toml").write_text('history = "memory"\n')
        asyncio.run(take_pictures())
        asyncio.run(make_film())
