"""The styles in which Markdown is drawn, as a theme has them."""

from dataclasses import dataclass, field

from rich.style import Style

from localllm.tui.markdown.blocks import Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkdownStyles:
    """The styles of the parts of a text; each is drawn over `text`.

    `keyword` to `comment` are of code.
    """

    text: Style = field(default_factory=Style)
    muted: Style = field(default_factory=Style)
    strong: Style = field(default_factory=lambda: Style(bold=True))
    emphasis: Style = field(default_factory=lambda: Style(italic=True))
    struck: Style = field(default_factory=lambda: Style(strike=True))
    link: Style = field(default_factory=lambda: Style(underline=True))
    heading: Style = field(default_factory=lambda: Style(bold=True))
    code: Style = field(default_factory=Style)
    border: Style = field(default_factory=Style)
    keyword: Style = field(default_factory=Style)
    string: Style = field(default_factory=Style)
    number: Style = field(default_factory=Style)
    name: Style = field(default_factory=Style)
    comment: Style = field(default_factory=Style)

    def of(self, marks: Mark) -> Style:
        """Return the style of a piece of text with these marks."""
        style = Style.null()
        for mark, each in (
            (Mark.CODE, self.code),
            (Mark.MATH, self.emphasis),
            (Mark.ADDRESS, self.muted),
            (Mark.LINK, self.link),
            (Mark.STRONG, self.strong),
            (Mark.EMPHASIS, self.emphasis),
            (Mark.STRUCK, self.struck),
        ):
            if marks & mark:
                style += each
        return style
