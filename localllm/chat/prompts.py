"""The prompt library: texts with variables. A few are built in; the user's own are files,
`prompts/NAME.md` beside settings.toml, to be written with any editor.

A variable is `{{name}}`, or `{{name=value}}` with what is offered for it; it is asked for when the
prompt is used. What is filled in is never read for variables again.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.core.text import single_line, strip_controls
from localllm.errors import StoreError, UsageError
from localllm.library.files import paths
from localllm.library.files.atomic_write import write_atomically
from localllm.library.files.names import plain_path, printable
from localllm.translation import N_, _

MAX_PROMPT_BYTES = 2**20
MAX_PROMPTS = 1000
SUFFIXES = (".md", ".txt")

_VARIABLE = re.compile(r"\{\{[ \t]*([^\W\d][\w -]{0,40}?)[ \t]*(?:=([^{}\n]*))?\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A place to fill in; `default` is offered for it."""

    name: str
    default: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPrompt:
    """A prompt of the library. `path` None: it is built in."""

    name: str
    text: str
    path: Path | None = None

    @property
    def summary(self) -> str:
        """Return the beginning of its text on one line."""
        line = single_line(self.text[:400])
        return line if len(line) <= 72 else f"{line[:71]}…"


BUILT_IN = (
    ("summarize", N_("Summarize the following text in {{sentences=5}} sentences. Keep names, "
                     "numbers and dates.\n\n{{text}}")),
    ("translate", N_("Translate the following text into {{language=English}}. Keep its tone and "
                     "its formatting, and write nothing but the translation.\n\n{{text}}")),
    ("improve", N_("Improve the wording of the following text without changing what it says. "
                   "Then list what you changed and why.\n\n{{text}}")),
    ("explain", N_("Explain {{topic}} to {{reader=a curious beginner}}, with one example.")),
    ("review", N_("Review the following code. Name bugs first, then what is unclear; quote the "
                  "line for each.\n\n{{code}}")),
)  # fmt: skip


def variables(text: str) -> tuple[Variable, ...]:
    """Return the variables of a text in the order in which they come first. A default that stands
    at any place of a variable holds for it."""
    found: dict[str, str] = {}
    for match in _VARIABLE.finditer(text):
        name = match[1]
        found[name] = found.get(name) or (match[2] or "").strip()
    return tuple(Variable(name=name, default=default) for name, default in found.items())


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put the values into a text; a variable without one gets its default."""
    defaults = {each.name: each.default for each in variables(text)}
    return _VARIABLE.sub(lambda match: values.get(match[1], defaults[match[1]]), text)


class PromptLibrary:
    """The built-in prompts and those of one directory, which is read anew each time."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or paths.prompts_dir()

    def names(self) -> tuple[str, ...]:
        """Return the names, sorted; a file of the name of a built-in prompt is in its place."""
        return tuple(sorted({name for name, _text in BUILT_IN} | self._files().keys()))

    def prompts(self) -> tuple[SavedPrompt, ...]:
        """Return every prompt that can be read, sorted by name."""
        found = []
        for name in self.names():
            try:
                found.append(self.find(name))
            except StoreError:
                continue  # it is named when it is used
        return tuple(found)

    def find(self, name: str) -> SavedPrompt:
        """Return the prompt of this name. Raises UsageError, which names the nearest, and
        StoreError for a file that cannot be read."""
        wanted = name.strip().lower()
        for each, path in self._files().items():
            if each.lower() == wanted:
                return SavedPrompt(name=each, text=_read(path), path=path)
        for each, text in BUILT_IN:
            if each == wanted:
                return SavedPrompt(name=each, text=_(text))
        names = self.names()
        near = difflib.get_close_matches(wanted, names, n=2) or names[:10]
        raise UsageError(
            _("There is no prompt {name}. There are: {names}.").format(
                name=single_line(name)[:60], names=", ".join(near)
            )
        )

    def save(self, name: str, text: str) -> SavedPrompt:
        """Write a prompt of the user's own, in place of one of this name. Raises UsageError,
        StoreError."""
        data = text.encode("utf-8", "replace")
        if not text.strip() or len(data) > MAX_PROMPT_BYTES:
            raise UsageError(_("A prompt has at least a word and at most 1 MiB."))
        path = plain_path(self.directory, f"{name.strip()}.md")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, data, private=True)
        except OSError as error:
            raise StoreError(
                _("{file} cannot be written: {reason}.").format(
                    file=printable(path), reason=error.strerror
                )
            ) from error
        return SavedPrompt(name=path.stem, text=text, path=path)

    def delete(self, name: str) -> None:
        """Delete a prompt of the user's own. Raises UsageError for a built-in one, StoreError."""
        prompt = self.find(name)
        if prompt.path is None:
            raise UsageError(_("{name} is built in and stays.").format(name=prompt.name))
        try:
            prompt.path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                _("{file} cannot be deleted: {reason}.").format(
                    file=printable(prompt.path), reason=error.strerror
                )
            ) from error

    def _files(self) -> dict[str, Path]:
        try:
            entries = sorted(self.directory.iterdir())
        except OSError:
            return {}
        files = [
            path
            for path in entries
            if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != "."
        ]
        return {path.stem: path for path in files[:MAX_PROMPTS]}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PROMPT_BYTES + 1)
    except OSError as error:
        raise StoreError(
            _("{file} cannot be read: {reason}.").format(
                file=printable(path), reason=error.strerror
            )
        ) from error
    if len(data) > MAX_PROMPT_BYTES:
        raise StoreError(
            _("{file} is no prompt: it is larger than 1 MiB.").format(file=printable(path))
        )
    return strip_controls(data.decode("utf-8-sig", "replace")).strip("\n")
