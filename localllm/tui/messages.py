"""What the widgets tell their screens, in the past tense."""

from textual.message import Message

from localllm.core.recommend import FitPlan
from localllm.library.store.installed import InstalledModel


class ModelChosen(Message):
    """A model of the list was chosen."""

    def __init__(self, model: InstalledModel) -> None:
        super().__init__()
        self.model = model


class QuestionSent(Message):
    """The prompt was sent; it is empty again."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class PageTurned(Message):
    """Page up or page down was pressed in the prompt: the conversation is meant."""

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up


class SuggestionChosen(Message):
    """A model that is not installed was chosen."""

    def __init__(self, plan: FitPlan) -> None:
        super().__init__()
        self.plan = plan


class ListEndPassed(Message):
    """The cursor was moved on at the first or the last row of a list."""

    def __init__(self, *, down: bool) -> None:
        super().__init__()
        self.down = down
