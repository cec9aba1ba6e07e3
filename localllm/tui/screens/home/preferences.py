"""The line above the suggestions: the goal, the context, and how many people at once."""

from typing import ClassVar, Final

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.style import Style
from textual.widget import Widget

from localllm.translation import N_, _

GOALS: Final = ("balanced", "quality", "speed")
GOAL_NAMES: Final = {
    "balanced": N_("balanced"),
    "quality": N_("quality"),
    "speed": N_("speed"),
}
CONTEXTS: Final = tuple(1024 << step for step in range(9))
"""From 1k to 256k tokens."""
MOST_PEOPLE: Final = 64
WITH_LABEL: Final = 60
"""Columns from which there is room for the word before the goals."""


def next_context(context: int, *, up: bool) -> int:
    """Return the next context of the row above or below one."""
    if up:
        return next((each for each in CONTEXTS if each > context), context)
    return next((each for each in reversed(CONTEXTS) if each < context), context)


def context_text(context: int) -> str:
    """Write a context as 8k, or as it is where it is no round number."""
    return f"{context // 1024}k" if context % 1024 == 0 else str(context)


class PreferenceLine(Widget):
    """The line; a click chooses. Posts Changed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "preference--label",
        "preference--choice",
        "preference--chosen",
    }

    class Changed(Message):
        """Something else is wanted."""

        def __init__(self, *, goal: str, context: int, people: int) -> None:
            super().__init__()
            self.goal = goal
            self.context = context
            self.people = people

    def __init__(self) -> None:
        super().__init__()
        self._goal, self._tokens, self._people = GOALS[0], 4096, 1

    def show_context(self, context: int) -> None:
        """Show the context that was used where none was chosen."""
        if context != self._tokens:
            self._tokens = context
            self.refresh()

    def choose_goal(self, goal: str = "") -> None:
        """Choose a goal; "" is the next one."""
        self._goal = goal or GOALS[(GOALS.index(self._goal) + 1) % len(GOALS)]
        self._announce()

    def change_context(self, *, up: bool) -> None:
        """Take the next larger or smaller context."""
        self._tokens = next_context(self._tokens, up=up)
        self._announce()

    def change_people(self, *, up: bool) -> None:
        """Take one more or less at once."""
        self._people = min(max(self._people + (1 if up else -1), 1), MOST_PEOPLE)
        self._announce()

    def _announce(self) -> None:
        self.refresh()
        changed = self.Changed(goal=self._goal, context=self._tokens, people=self._people)
        self.post_message(changed)

    async def on_click(self, event: events.Click) -> None:
        if isinstance(action := event.style.meta.get("choice"), str):
            await self.app.run_action(f"screen.{action}")

    def render(self) -> Content:
        label = self.get_visual_style("preference--label")
        parts: list[tuple[str, Style]] = []
        if self.size.width >= WITH_LABEL:
            parts.append((_("goal") + " ", label))
        for goal in GOALS:
            chosen = goal == self._goal
            name = _(GOAL_NAMES[goal])
            style = self.get_visual_style("preference--chosen" if chosen else "preference--choice")
            parts.append(
                (f"‹{name}›" if chosen else f" {name} ", style + _click(f"goal('{goal}')"))
            )
        parts += self._pair(_("context"), context_text(self._tokens), "context")
        parts += self._pair(_("at once"), str(self._people), "people")
        return Content.assemble(*parts)

    def _pair(self, name: str, value: str, action: str) -> list[tuple[str, Style]]:
        chosen = self.get_visual_style("preference--chosen")
        return [
            (f"  {name} ", self.get_visual_style("preference--label")),
            ("‹", chosen + _click(f"{action}(False)")),
            (value, chosen),
            ("›", chosen + _click(f"{action}(True)")),
        ]


def _click(action: str) -> Style:
    return Style.from_meta({"choice": action})


PREFERENCE_BINDINGS: Final[list[BindingType]] = [
    Binding("g", "goal", N_("Goal"), id="home.goal", tooltip=N_("Balanced, quality or speed")),
    Binding(
        "right_square_bracket",
        "context(True)",
        N_("More context"),
        id="home.more_context",
        show=False,
        tooltip=N_("Suggest for longer conversations"),
    ),
    Binding(
        "left_square_bracket",
        "context(False)",
        N_("Less context"),
        id="home.less_context",
        show=False,
        tooltip=N_("Suggest for shorter conversations"),
    ),
    Binding(
        "right_curly_bracket",
        "people(True)",
        N_("More people at once"),
        id="home.more_people",
        show=False,
        tooltip=N_("Suggest for more conversations at the same time"),
    ),
    Binding(
        "left_curly_bracket",
        "people(False)",
        N_("Fewer people at once"),
        id="home.fewer_people",
        show=False,
        tooltip=N_("Suggest for fewer conversations at the same time"),
    ),
]
"""The keys of the line, for the screen that has it."""
