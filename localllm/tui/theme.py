"""The two palettes of our own; every rule of app.tcss works in Textual's other themes as well."""

from typing import Final

from textual.theme import Theme

DARK: Final = Theme(
    name="localllm-dark",
    primary="#7fc8b2",
    secondary="#8fb4e0",
    accent="#e6b673",
    foreground="#d5dbe1",
    background="#11151a",
    surface="#171c22",
    panel="#1f262e",
    success="#8ccf8a",
    warning="#e6c06b",
    error="#ee7f7f",
    dark=True,
    variables={"footer-key-foreground": "#7fc8b2", "input-selection-background": "#7fc8b2 30%"},
)

LIGHT: Final = Theme(
    name="localllm-light",
    primary="#0c7463",
    secondary="#2d5f9a",
    accent="#a8590a",
    foreground="#28313a",
    background="#fbfaf7",
    surface="#f4f2ed",
    panel="#e9e6de",
    success="#2f7d32",
    warning="#96690a",
    error="#b3352f",
    dark=False,
    variables={"footer-key-foreground": "#0c7463", "input-selection-background": "#0c7463 25%"},
)

THEMES: Final = (DARK, LIGHT)
