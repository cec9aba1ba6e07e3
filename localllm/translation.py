"""The language of the interface: GNU gettext's catalogues, English where there is none.

Mark every text for people with `_`, and fill in values afterwards, so that the catalogue has the
sentence with its placeholders: `_("{count} models").format(count=3)`. A text that is made when a
module is imported (a key's label in a class) is marked with `N_` and translated with `_` where it
is shown. Names, units and what a model writes are not translated.
"""

import gettext
import os
from pathlib import Path

DOMAIN = "localllm"
LOCALE_DIR = Path(__file__).parent / "locale"

_translations: gettext.NullTranslations = gettext.NullTranslations()


def set_language(language: str | None) -> str:
    """Choose the language of all texts from now on, and return the one that is used.

    `language` is a code such as "de" or "de_AT"; None: the one of the environment (`LANGUAGE`,
    `LC_ALL`, `LC_MESSAGES`, `LANG`). One without a catalogue is English, "en".
    """
    global _translations  # noqa: PLW0603  # one language for the process, as gettext has it
    wanted = [language] if language else _of_environment()
    _translations = gettext.NullTranslations()
    for code in wanted:
        if code.split("_")[0].split(".")[0] in {"en", "C", "POSIX"}:
            break
        found = gettext.translation(DOMAIN, LOCALE_DIR, languages=[code], fallback=True)
        if isinstance(found, gettext.GNUTranslations):
            _translations = found
            return code.split(".")[0]
    return "en"


def _of_environment() -> list[str]:
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return value.split(":")
    return []


def _(message: str) -> str:
    """Return the text in the language of the interface."""
    return _translations.gettext(message) if message else ""


def N_(message: str) -> str:  # noqa: N802  # gettext's own name
    """Mark a text for the catalogue, and return it as it is."""
    return message


def ngettext(singular: str, plural: str, count: int) -> str:
    """Return the form of the text for this count."""
    return _translations.ngettext(singular, plural, count)
