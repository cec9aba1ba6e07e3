"""Keep the languages of the interface: localllm/locale/LANGUAGE/LC_MESSAGES/localllm.po and .mo.

    python packaging/translations.py            # collect the texts of the sources, compile
    python packaging/translations.py --add fr   # begin another language
    python packaging/translations.py --check    # change nothing; 1 where something is left to do

The sources mark their texts with `_`, `N_` and `ngettext` (localllm/translation.py). A text that is
new in them gets an empty translation in each .po, one that is gone leaves it; nothing is guessed.
The .mo is what the program reads; both are committed. Needs babel, of the extra `dev`.
"""

import argparse
import ast
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "localllm"
LOCALE_DIR = PACKAGE / "locale"
DOMAIN = "localllm"
WIDTH = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--add", metavar="LANGUAGE", help="begin a catalogue of this language")
    parser.add_argument("--check", action="store_true", help="write nothing, list what is to do")
    given = parser.parse_args()
    template = collect(PACKAGE)
    if given.add:
        po_file(given.add).parent.mkdir(parents=True, exist_ok=True)
        po_file(given.add).write_bytes(po_bytes(LanguageCatalog(given.add)))
    problems = []
    for language in languages():
        if not given.check:
            catalogue = updated(read(language), template)
            po_file(language).write_bytes(po_bytes(catalogue))
            mo_file(language).write_bytes(mo_bytes(catalogue))
        name = po_file(language).relative_to(ROOT)
        problems += [f"{name}: {each}" for each in left(language, template)]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


def languages() -> tuple[str, ...]:
    """List the languages that have a catalogue."""
    return tuple(sorted(path.parent.parent.name for path in LOCALE_DIR.glob("*/LC_MESSAGES/*.po")))


def po_file(language: str) -> Path:
    return LOCALE_DIR / language / "LC_MESSAGES" / f"{DOMAIN}.po"


def mo_file(language: str) -> Path:
    return po_file(language).with_suffix(".mo")


def collect(package: Path) -> Catalog:
    """Collect the marked texts of a package, each with the files that have it."""
    template = Catalog()
    for path in sorted(package.rglob("*.py")):
        place = f"{package.name}/{path.relative_to(package).as_posix()}"
        for message in marked(ast.parse(path.read_text("utf-8"))):
            template.add(message, locations=[(place, 0)])
    return template


def marked(tree: ast.Module) -> Iterator[str | tuple[str, str]]:
    """List the marked texts of a module, in its order. babel's own reader of sources finds none
    inside of an f-string."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    for call in sorted(calls, key=lambda each: (each.lineno, each.col_offset)):
        match call:
            case ast.Call(func=ast.Name(id="_" | "N_"), args=[ast.Constant(value=str(text))]):
                if text:
                    yield text
            case ast.Call(
                func=ast.Name(id="ngettext"),
                args=[ast.Constant(value=str(one)), ast.Constant(value=str(many)), _count],
            ):
                yield one, many
            case ast.Call(func=ast.Name(id="Setting")):  # settings are texts by what they are
                for each in call.keywords:
                    if each.arg in {"description", "unset"}:
                        yield str(ast.literal_eval(each.value))


class LanguageCatalog(Catalog):
    """A catalogue whose files say nothing of dates and persons: they change with their texts
    alone."""

    def __init__(self, locale: str) -> None:
        super().__init__(locale=locale, fuzzy=False)
        self.header_comment = "# packaging/translations.py keeps this file; translate the msgid."

    def _get_mime_headers(self) -> list[tuple[str, str]]:
        return [
            ("Language", str(self.locale_identifier)),
            ("Plural-Forms", self.plural_forms),
            ("MIME-Version", "1.0"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Transfer-Encoding", "8bit"),
        ]

    mime_headers = property(_get_mime_headers, Catalog._set_mime_headers)  # as Catalog has it


def read(language: str) -> Catalog:
    with po_file(language).open("rb") as file:
        return read_po(file, locale=language, ignore_obsolete=True)


def updated(known: Catalog, template: Catalog) -> LanguageCatalog:
    """Give a catalogue the texts of the template, with the translations that are known."""
    new = LanguageCatalog(str(known.locale_identifier))
    for each in messages(template):
        before = known.get(key_of(each))
        translation = before.string if before is not None and before.id == each.id else None
        new.add(each.id, translation, locations=each.locations)
        # `{share} % of` is no place for a value of Python's % operator.
        new[key_of(each)].flags.difference_update({"python-format"})
    return new


def messages(catalogue: Catalog) -> Iterator[Message]:
    """Go through the texts, without the header that babel puts first."""
    return (each for each in catalogue if each.id)


def key_of(message: Message) -> str:
    return message.id if isinstance(message.id, str) else message.id[0]


def po_bytes(catalogue: Catalog) -> bytes:
    output = io.BytesIO()
    write_po(output, catalogue, width=WIDTH, include_lineno=False)
    return output.getvalue()


def mo_bytes(catalogue: Catalog) -> bytes:
    """Compile a catalogue. What has no translation is left out: it is shown in English."""
    output = io.BytesIO()
    write_mo(output, catalogue)
    return output.getvalue()


def left(language: str, template: Catalog) -> Iterator[str]:
    """List what is left to do for a language: texts without a translation, translations that lost a
    placeholder, files that are behind the sources."""
    known = read(language)
    catalogue = updated(known, template)
    for each in messages(catalogue):
        yield from problems_of(each)
    # Not compared as bytes: a text that only moved to another file needs no work.
    if {each.id for each in messages(known)} != {each.id for each in messages(catalogue)}:
        yield "it is behind the sources: run packaging/translations.py"
    elif not mo_file(language).exists() or mo_file(language).read_bytes() != mo_bytes(catalogue):
        yield "its .mo is behind it: run packaging/translations.py"


def problems_of(message: Message) -> Iterator[str]:
    """List what is wrong with the translation of one text."""
    texts = [message.id] if isinstance(message.id, str) else list(message.id)
    forms = [message.string] if isinstance(message.string, str) else list(message.string or ())
    if not all(forms) or not forms:
        yield f"no translation of {texts[0]!r}"
        return
    for form in forms:
        text = texts[0] if form is forms[0] else texts[-1]
        if placeholders(text) != placeholders(form):
            yield f"other placeholders than {text!r}: {form!r}"
        if edges(text) != edges(form):
            yield f"other blanks at the ends than {text!r}: {form!r}"


def placeholders(text: str) -> set[str]:
    """Find the places for values, with their formats; not `{{name}}`, which a person fills in."""
    return set(re.findall(r"(?<!\{)\{[^{}]*\}(?!\})", text))


def edges(text: str) -> tuple[str, str]:
    """Return the blanks before and after a text, which join it to others."""
    return text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]


if __name__ == "__main__":
    sys.exit(main())
