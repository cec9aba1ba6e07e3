"""The palettes of our own, and which one an app starts with.

Every rule of app.tcss works in Textual's other themes as well.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from textual.theme import Theme

from localllm.library.files import paths

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

HIGH_CONTRAST: Final = Theme(
    name="localllm-high-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#ffff00",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#000000",
    success="#00ff00",
    warning="#ffff00",
    error="#ff8080",
    dark=True,
    variables={
        # No shade of grey: what is quiet elsewhere is as plain as everything else here.
        "text-muted": "#ffffff",
        "text-disabled": "#c0c0c0",
        "text-primary": "#ffff00",
        "text-success": "#00ff00",
        "text-warning": "#ffff00",
        "text-error": "#ff8080",
        "block-cursor-background": "#ffff00",
        "block-cursor-foreground": "#000000",
        "footer-key-foreground": "#ffff00",
        "input-selection-background": "#0000ff",
        "border": "#ffffff",
    },
)

THEMES: Final = (DARK, LIGHT, HIGH_CONTRAST)

SETTING: Final = "theme"
"""The key in settings.toml."""


def saved_theme(settings_file: Path | None = None) -> str:
    """Read the theme of the user's settings, "" for none."""
    return paths.saved_text(SETTING, settings_file)


def first_theme(
    saved: str, *, is_light: bool | None, environment: Mapping[str, str] = os.environ
) -> str:
    """Choose the theme of the start: of TEXTUAL_THEME, the settings, or by the terminal's
    background (`is_light`; None: not known)."""
    if named := environment.get("TEXTUAL_THEME", ""):
        return named
    if saved:
        return saved
    return LIGHT.name if is_light else DARK.name
