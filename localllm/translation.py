"""The language of the interface: GNU gettext's catalogues, English where there is none.

Mark every text for people with `_`, and fill in values afterwards, so that the catalogue has the
sentence with its placeholders: `_("{count} models").format(count=3)`. A text that is made when a
module is imported (a key's label in a class) is marked with `N_` and translated with `_` where it
is shown. Names, units and what a model writes are not translated.

`packaging/translations.py` keeps the catalogues; CONTRIBUTING.md has the recipe for a language.
"""

import gettext
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

DOMAIN = "localllm"
LOCALE_DIR = Path(__file__).parent / "locale"

_translations: gettext.NullTranslations = gettext.NullTranslations()


def set_language(language: str | None) -> str:
    """Choose the language of all texts from now on, and return the one that is used.

    `language` is a code such as "de" or "de_AT"; None or "": the one of the environment, as
    `languages_wanted` finds it. One without a catalogue is English, "en".
    """
    global _translations  # noqa: PLW0603  # one language for the process, as gettext has it
    wanted = (language,) if language else languages_wanted()
    _translations = gettext.NullTranslations()
    for code in wanted:
        if code.split("_")[0].split(".")[0] in {"en", "C", "POSIX"}:
            break
        found = gettext.translation(DOMAIN, LOCALE_DIR, languages=[code], fallback=True)
        if isinstance(found, gettext.GNUTranslations):
            _translations = found
            return code.split(".")[0]
    return "en"


def languages_wanted(
    environment: Mapping[str, str] = os.environ,
    *,
    windows_language: Callable[[], int] | None = None,
) -> tuple[str, ...]:
    """List the languages of this user, the preferred one first.

    `LANGUAGE`, `LC_ALL`, `LC_MESSAGES` and `LANG`, as gettext has it. Windows has none of them:
    its display language is asked there (`windows_language` returns its LANGID). A terminal of
    macOS sets `LANG`, unless its settings forbid that.
    """
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(name):
            return tuple(value.split(":"))
    if windows_language is None and sys.platform == "win32":
        windows_language = _display_language
    if windows_language is None:
        return ()
    import locale  # its table of LANGIDs; only Windows needs it

    code = locale.windows_locale.get(windows_language())
    return (code,) if code else ()


def _display_language() -> int:
    """Return the LANGID of Windows' display language."""
    if sys.platform != "win32":
        raise NotImplementedError
    import ctypes

    return int(ctypes.windll.kernel32.GetUserDefaultUILanguage())


def _(message: str) -> str:
    """Return the text in the language of the interface."""
    return _translations.gettext(message) if message else ""


def N_(message: str) -> str:  # noqa: N802  # gettext's own name
    """Mark a text for the catalogue, and return it as it is."""
    return message


def ngettext(singular: str, plural: str, count: int) -> str:
    """Return the form of the text for this count."""
    return _translations.ngettext(singular, plural, count)
