"""The slash commands of a conversation: names, aliases, arguments, help, and how a line is read.

Both front ends, the app and `run` on a terminal, read this one table, so that a command is called
the same and explained by the same sentence in both. What a command does is in `actions.py`.
"""

import difflib
import os
import re
from dataclasses import dataclass
from enum import StrEnum

from localllm.errors import UsageError
from localllm.translation import N_, _


class ArgumentKind(StrEnum):
    """The kind of argument that a command takes, for its completion."""

    NONE = "none"
    TEXT = "text"
    COMMAND = "command"
    SETTING = "setting"
    PRESET = "preset"
    PROMPT = "prompt"
    FILE = "file"
    MODEL = "model"
    TOOL = "tool"
    WORD = "word"  # one of `Command.words`


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. `method` is the method of `ChatActions` that runs it.

    `argument` is what help shows behind the name, in brackets where it may be left out. `words` are
    completed for it.
    """

    name: str
    help: str
    method: str
    aliases: tuple[str, ...] = ()
    argument: str = ""
    kind: ArgumentKind = ArgumentKind.NONE
    words: tuple[str, ...] = ()
    needs_argument: bool = False

    @property
    def usage(self) -> str:
        """Return the command as it is typed: "/model [NAME]"."""
        return f"/{self.name} {self.argument}".rstrip()


EFFORT_WORDS = ("on", "off", "auto", "minimal", "low", "medium", "high", "xhigh")

COMMANDS = (
    Command(name="help", method="help", aliases=("?", "commands"), argument="[COMMAND]",
            kind=ArgumentKind.COMMAND, help=N_("list the commands, or explain one")),
    Command(name="new", method="new", aliases=("clear", "reset"),
            help=N_("begin a new conversation; this one is not lost")),
    Command(name="again", method="again", aliases=("retry", "regenerate"),
            help=N_("answer the last question once more, as a version beside the first")),
    Command(name="edit", method="edit", argument="[TEXT]", kind=ArgumentKind.TEXT,
            help=N_("change the last question and ask it, as a version beside the first")),
    Command(name="version", method="version", aliases=("versions",), argument="[NUMBER]",
            kind=ArgumentKind.TEXT, help=N_("show another version of the last answer")),
    Command(name="system", method="system", argument="[TEXT|off]", kind=ArgumentKind.WORD,
            words=("off",), help=N_("show or set the system prompt of this conversation")),
    Command(name="set", method="set", argument="[SETTING [VALUE]]", kind=ArgumentKind.SETTING,
            help=N_("show the settings of this conversation, or change one")),
    Command(name="preset", method="preset", aliases=("presets",),
            argument="[NAME|save NAME|default NAME|delete NAME]",
            kind=ArgumentKind.PRESET, help=N_("list the presets, use one, or save one")),
    Command(name="prompt", method="prompt", aliases=("prompts",), argument="[NAME]",
            kind=ArgumentKind.PROMPT, help=N_("list the prompts of your library, or use one")),
    Command(name="file", method="file", aliases=("attach",), argument="PATH",
            kind=ArgumentKind.FILE, needs_argument=True,
            help=N_("attach a file to the next question")),
    Command(name="image", method="image", argument="PATH", kind=ArgumentKind.FILE,
            needs_argument=True, help=N_("attach an image to the next question")),
    Command(name="docs", method="docs", aliases=("documents", "collections"),
            argument="[NAME|add FOLDER|update NAME|erase NAME|off]", kind=ArgumentKind.WORD,
            words=("add", "update", "erase", "off"),
            help=N_("answer from folders of documents: list them, add one, use one")),
    Command(name="model", method="model", aliases=("models", "load"), argument="[NAME]",
            kind=ArgumentKind.MODEL, help=N_("list the models, or go on with another one")),
    Command(name="context", method="context", aliases=("ctx",), argument="[TOKENS|default]",
            kind=ArgumentKind.WORD, words=("default",),
            help=N_("show the context and what is used of it, or change its length")),
    Command(name="think", method="think", aliases=("thinking", "reasoning"),
            argument="[on|off|auto|EFFORT|TOKENS]", kind=ArgumentKind.WORD, words=EFFORT_WORDS,
            help=N_("show or set how long the model thinks before it answers")),
    Command(name="tools", method="tools", aliases=("tool",), argument="[on|off|NAME...]",
            kind=ArgumentKind.TOOL, help=N_("show or choose the tools that the model may call")),
    Command(name="schema", method="schema", aliases=("format",),
            argument="[FILE|json|off|{...}]", kind=ArgumentKind.FILE, words=("json", "off"),
            help=N_("show or set the JSON Schema that answers must follow")),
    Command(name="find", method="find", aliases=("search",), argument="TEXT",
            kind=ArgumentKind.TEXT, needs_argument=True,
            help=N_("find a text in this conversation")),
    Command(name="title", method="title", aliases=("rename",), argument="[TEXT]",
            kind=ArgumentKind.TEXT, help=N_("show or set the title of this conversation")),
    Command(name="chats", method="chats", aliases=("history", "open"), argument="[TEXT]",
            kind=ArgumentKind.TEXT, help=N_("list the conversations, or search and open one")),
    Command(name="save", method="save", argument="[FILE]", kind=ArgumentKind.FILE,
            help=N_("keep this conversation, so that it can go on later")),
    Command(name="export", method="export", argument="[FILE]", kind=ArgumentKind.FILE,
            help=N_("write this conversation as Markdown, JSON or HTML, by the file's ending")),
    Command(name="copy", method="copy", argument="[code]", kind=ArgumentKind.WORD,
            words=("code",), help=N_("copy the last answer, or the code in it")),
    Command(name="tokens", method="tokens", aliases=("logprobs",),
            help=N_("show how probable each token of the last answer was")),
    Command(name="duel", method="duel", argument="[MODEL]", kind=ArgumentKind.MODEL,
            help=N_("ask two models the same question, side by side")),
    Command(name="info", method="info", aliases=("show", "status"),
            help=N_("show the model, its memory and the settings")),
    Command(name="quit", method="quit", aliases=("exit", "bye", "q"), help=N_("leave")),
)  # fmt: skip

_BY_NAME = {name: each for each in COMMANDS for name in (each.name, *each.aliases)}
_LINE = re.compile(r"/(\?|[A-Za-z][A-Za-z_-]*)(?:\s+(.*))?", re.DOTALL)
_ESCAPED = "//"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A command and what was typed behind it, without the blanks around it."""

    command: Command
    argument: str


def find_command(name: str) -> Command:
    """Return the command of this name or alias. Raises UsageError, which names the nearest."""
    found = _BY_NAME.get(name.removeprefix("/").lower())
    if found is not None:
        return found
    near = difflib.get_close_matches(name.lower(), _BY_NAME, n=2, cutoff=0.6)
    if near:
        raise UsageError(
            _("There is no command /{name}. Did you mean {near}?").format(
                name=name, near=_(" or ").join(f"/{each}" for each in near)
            )
        )
    raise UsageError(
        _("There is no command /{name}. /help lists them; //{name} sends it to the model.").format(
            name=name
        )
    )


def parse_line(text: str) -> CommandLine | None:
    """Read what was typed as a command; None: it is a question.

    A command is a slash and a word, so a path (`/etc/hosts`) is a question, and so is a line that
    begins with two slashes (`question_text` takes one away). Raises UsageError for a word that is
    no command and for a missing argument.
    """
    match = _LINE.fullmatch(text.strip())
    if match is None:
        return None
    command = find_command(match[1])
    argument = (match[2] or "").strip()
    if command.needs_argument and not argument:
        raise UsageError(
            _("{command} needs more behind it: {usage}").format(
                command=f"/{command.name}", usage=command.usage
            )
        )
    if argument and command.kind is ArgumentKind.NONE:
        raise UsageError(
            _("{command} stands alone; {text} behind it means nothing.").format(
                command=f"/{command.name}", text=repr(argument[:40])
            )
        )
    return CommandLine(command=command, argument=argument)


def question_text(text: str) -> str:
    """Return a question as it is sent: `//word` without the slash that kept it from being a
    command."""
    return text[1:] if text.startswith(_ESCAPED) and _LINE.match(text[1:]) else text


def path_argument(text: str) -> str:
    r"""Return the path that was typed, pasted or dropped: without the quotes around it, and without
    the backslashes that terminals of Linux and macOS put before blanks (Windows has paths of them).
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text if os.name == "nt" else _ESCAPED_BLANK.sub(r"\1", text)


_ESCAPED_BLANK = re.compile(r"\\([\s'\"()\[\]&;])")
