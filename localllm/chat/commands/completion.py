"""What can follow what was typed of a command: its name, then what stands behind it.

Names are completed from the table, values from `CompletionSources`, which a front end fills with
what it knows. Pure but for paths, for which one directory is listed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.chat.attachments.path_completion import complete_path
from localllm.chat.attachments.references import reference_at, spelled
from localllm.chat.commands.setting_values import HELP, SETTING_NAMES
from localllm.chat.commands.table import ArgumentKind, Command
from localllm.core.sizing.load import KvType
from localllm.core.units import format_bytes
from localllm.translation import _

MAX_COMPLETIONS = 200
_VERBS_OF_PRESETS = ("save", "save-for-model", "default", "delete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """`text` replaces the line from `start`, an offset in characters, to the cursor."""

    text: str
    start: int
    help: str = ""


def _nothing() -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionSources:
    """The names that arguments are completed from, read when they are needed."""

    models: Callable[[], Sequence[str]] = _nothing
    presets: Callable[[], Sequence[str]] = _nothing
    prompts: Callable[[], Sequence[str]] = _nothing
    tools: Callable[[], Sequence[str]] = _nothing


def complete(
    line: str, commands: Sequence[Command], sources: CompletionSources
) -> tuple[Completion, ...]:
    """Return what can follow `line`, the text before the cursor; nothing where it is no command.

    `commands` are those that the front end supports.
    """
    if not line.startswith("/") or line.startswith("//") or "\n" in line:
        return ()
    name, blank, argument = line[1:].partition(" ")
    if not blank:
        return tuple(_names(name.lower(), commands))
    command = next((each for each in commands if name.lower() in (each.name, *each.aliases)), None)
    if command is None:
        return ()
    start = len(line) - len(argument.lstrip())
    found = _arguments(command, line[start:], start, commands, sources)
    return tuple(found)[:MAX_COMPLETIONS]


def _names(typed: str, commands: Sequence[Command]) -> Iterator[Completion]:
    """Yield the commands whose name begins so, then those of which an alias does."""
    first = [each for each in commands if each.name.startswith(typed)]
    by_alias = [
        each
        for each in commands
        if typed and each not in first and any(alias.startswith(typed) for alias in each.aliases)
    ]
    for command in (*first, *by_alias):
        yield Completion(text=f"/{command.name}", start=0, help=_(command.help))


def _arguments(
    command: Command,
    typed: str,
    start: int,
    commands: Sequence[Command],
    sources: CompletionSources,
) -> Iterable[Completion]:
    match command.kind:
        case ArgumentKind.COMMAND:
            return _matching(typed, [each.name for each in commands], start)
        case ArgumentKind.SETTING:
            return _settings(typed, start)
        case ArgumentKind.MODEL:
            return _matching(typed, sources.models(), start)
        case ArgumentKind.PROMPT:
            return _matching(typed, sources.prompts(), start)
        case ArgumentKind.PRESET:
            verb, blank, rest = typed.partition(" ")
            if blank and verb in _VERBS_OF_PRESETS:
                return _matching(rest, sources.presets(), start + len(verb) + 1)
            return _matching(typed, (*sources.presets(), *_VERBS_OF_PRESETS), start)
        case ArgumentKind.TOOL:
            before, _blank, last = typed.rpartition(" ")
            at = start + len(typed) - len(last)
            names = [each for each in sources.tools() if each not in before.split()]
            return _matching(last, (*(() if before else ("on", "off")), *names), at)
        case ArgumentKind.FILE:
            return (*_matching(typed, command.words, start), *path_completions(typed, start))
        case ArgumentKind.WORD:
            return _matching(typed, command.words, start)
    return ()


def _settings(typed: str, start: int) -> Iterator[Completion]:
    name, blank, value = typed.partition(" ")
    if not blank:
        for each in SETTING_NAMES:
            if each.startswith(typed.lower()):
                yield Completion(text=each, start=start, help=_(HELP[each]))
    elif name == "kv_type":
        yield from _matching(value, (*KvType, "default"), start + len(name) + 1)
    elif name in SETTING_NAMES:
        yield from _matching(value, ("default",), start + len(name) + 1)


def _matching(typed: str, names: Iterable[str], start: int) -> Iterator[Completion]:
    """Yield the names that begin so, then those that have it in them."""
    typed, names = typed.lower(), tuple(dict.fromkeys(names))
    first = [each for each in names if each.lower().startswith(typed)]
    inside = [each for each in names if typed in each.lower() and each not in first]
    for each in (*first, *inside):
        if each.lower() != typed:
            yield Completion(text=each, start=start)


def path_completions(typed: str, start: int) -> Iterator[Completion]:
    """Yield the files and folders that the path goes on with; hidden ones only behind a dot."""
    for each in complete_path(typed, base=Path()).completions:
        yield Completion(text=each.text, start=start)


def reference_completions(line: str, base: Path) -> Iterator[Completion]:
    """Yield the files and folders that a name behind @ at the end of `line` can become (the text
    before the cursor); `base` is the folder that names are relative to."""
    reference = reference_at(line, len(line))
    if reference is None:
        return
    for each in complete_path(reference.path, base=base).completions:
        size = "" if each.size_bytes is None else format_bytes(each.size_bytes)
        text = spelled(each.text, unfinished=each.is_folder)
        yield Completion(text=text, start=reference.start, help=size)
