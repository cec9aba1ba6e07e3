"""The rules of `.gitignore` files, so that a folder of a project is indexed without what its
people leave out themselves (gitignore(5)).

Only files in the tree are read: neither git nor its configuration is asked. A pattern is matched
folder by folder, because one expression for all of a path takes for ever on a hostile one.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_RULES = 2000
"""Of one file; the rest is ignored."""
_MAX_PATTERN = 500
_ANY_FOLDERS = None


@dataclass(frozen=True, slots=True)
class _Rule:
    """`parts` match the folders and the name of a path, one each; None any number of folders."""

    parts: tuple[re.Pattern[str] | None, ...]
    negated: bool
    folders_only: bool

    def matches(self, names: list[str]) -> bool:
        places = {0}
        last = len(self.parts) - 1
        for number, part in enumerate(self.parts):
            if part is _ANY_FOLDERS:
                first = min(places) + (number == last)  # "a/**" is what is in a, not a itself
                places = set(range(first, len(names) + 1))
            else:
                places = {at + 1 for at in places if at < len(names) and part.match(names[at])}
            if not places:
                return False
        return len(names) in places


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRules:
    """The rules of one file; `base` is its folder below the root, with a slash at the end, or
    ""."""

    base: str
    rules: tuple[_Rule, ...]

    @classmethod
    def parse(cls, text: str, base: str = "") -> "IgnoreRules":
        """Read the lines of a .gitignore file; those that mean nothing are left out."""
        lines = text.splitlines()[:MAX_RULES]
        rules = (_rule(line) for line in lines)
        return cls(base=base, rules=tuple(rule for rule in rules if rule is not None))

    def verdict(self, path: str, *, is_folder: bool) -> bool | None:
        """Tell whether a path below the root is ignored (True) or wanted after all (False); None:
        no rule is about it. The last rule that matches decides."""
        if not path.startswith(self.base):
            return None
        names = path[len(self.base) :].split("/")
        for rule in reversed(self.rules):
            if (is_folder or not rule.folders_only) and rule.matches(names):
                return not rule.negated
        return None


def is_ignored(path: str, files: Iterable[IgnoreRules], *, is_folder: bool) -> bool:
    """Tell whether a path is ignored by the files of its folders, the innermost first."""
    for each in files:
        verdict = each.verdict(path, is_folder=is_folder)
        if verdict is not None:
            return verdict
    return False


def _rule(line: str) -> _Rule | None:
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#") or len(line) > _MAX_PATTERN:
        return None
    negated = line.startswith("!")
    pattern = line[1:] if negated else line
    folders_only = pattern.endswith("/")
    pattern = pattern.rstrip("/")
    anchored = "/" in pattern
    names = [each for each in pattern.split("/") if each]
    if not names:
        return None
    parts = tuple(_ANY_FOLDERS if each == "**" else _name_pattern(each) for each in names)
    if not anchored:
        parts = (_ANY_FOLDERS, *parts)
    return _Rule(parts, negated, folders_only)


def _name_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the pattern of one name. fnmatch has no backslash, and inverts a class with ! only;
    its expressions do not backtrack."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            out.append(f"[{pattern[at]}]")
        elif pattern.startswith("[^", at):
            at += 1
            out.append("[!")
        else:
            out.append(char)
        at += 1
    return re.compile(fnmatch.translate("".join(out)))
