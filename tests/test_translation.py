"""The languages of the interface: which one is used, and that no text is left out of them."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import localllm
from localllm import translation

PACKAGE = Path(localllm.__file__).parent
FOR_PEOPLE = ("tui", "chat", "cli/chat", "cli/accessible")
"""Rooms whose texts are read in the terminal app and in conversations."""

FOR_MODELS = (
    "chat/tools",  # what tools are, and what they return
    "chat/documents/embedding.py",  # what models want before a text
    "chat/documents/keyword_index.py",  # SQL and stop words
    "chat/history/importing/llm_logs.py",  # SQL
    "chat/request.py",  # instructions
    "tui/markdown/latex.py",  # names of signs
    "tui/screens/bench/card.py",  # SVG; its words are marked
)
"""Files whose sentences nobody reads on a screen."""

NOT_READ = {
    "\n[the rest of this file is left out: it does not fit]",  # the model reads it
    "There are no collections of documents.",  # the same, of a tool
    "Nothing was found.",  # the same
    "A download ended",  # of asyncio's exception handler
    # Parts of an engine's own words, which are looked for.
    "crashed again", "out of memory", "stopped answering", "computed without",
    "Hugging Face, LM Studio, Ollama, llama.cpp",
    "offline in settings",  # what settings.offline_switch calls it
    # Commands are typed as they are, in every language.
    "[SETTING [VALUE]]", "[NAME|save NAME|default NAME|delete NAME]",
    "[NAME|add FOLDER|update NAME|erase NAME|off]",
    "localllm conversation", "index of conversations",  # in files
}  # fmt: skip
"""Sentences in the other files that are no texts of the interface."""


@pytest.fixture(autouse=True)
def _english_again() -> Iterator[None]:
    yield
    translation.set_language("en")


@pytest.mark.parametrize("code", ["C", "en_GB.UTF-8", "xx", "POSIX"])
def test_a_language_without_a_catalogue_is_english(code: str) -> None:
    assert translation.set_language(code) == "en"
    assert translation._("Quit") == "Quit"
    assert translation._("") == ""  # gettext's header would come for it
    assert translation.ngettext("{n} model", "{n} models", 2) == "{n} models"


@pytest.mark.parametrize("code", ["de", "de_AT.UTF-8"])
def test_german_is_german(code: str) -> None:
    assert translation.set_language(code).startswith("de")
    assert translation._("Quit") == "Beenden"
    assert translation.ngettext("{count} client", "{count} clients", 2) == "{count} Clients"
    assert translation._("") == ""


@pytest.mark.parametrize(
    ("environment", "windows", "wanted"),
    [
        ({"LANG": "de_DE.UTF-8"}, None, ("de_DE.UTF-8",)),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, None, ("C",)),
        ({"LANGUAGE": "fr:de", "LANG": "C"}, None, ("fr", "de")),
        ({}, None, ()),
        ({}, 0x0407, ("de_DE",)),  # Windows in German
        ({}, 0x0C07, ("de_AT",)),
        ({}, 0xFFFF, ()),
        ({"LANG": "C"}, 0x0407, ("C",)),  # a shell of Windows that sets one means it
    ],
)
def test_the_language_comes_from_the_environment_or_from_windows(
    environment: dict[str, str], windows: int | None, wanted: tuple[str, ...]
) -> None:
    asked = None if windows is None else lambda: windows
    if sys.platform == "win32" and asked is None:
        asked = lambda: 0  # noqa: E731
    assert translation.languages_wanted(environment, windows_language=asked) == wanted


def test_every_text_is_translated_and_what_is_compiled_is_what_is_written() -> None:
    pytest.importorskip("babel")
    script = PACKAGE.parent / "packaging" / "translations.py"
    if not script.exists():
        pytest.skip("no repository")
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_every_sentence_for_people_is_marked() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text!r}"
        for path in _files()
        for line, text in _unmarked(_tree(path))
    ]
    assert found == []


def test_no_text_is_translated_before_the_language_is_known() -> None:
    """`_` while a module is imported would be English for ever: there it has to be `N_`."""
    found = [
        f"{path.relative_to(PACKAGE)}:{call.lineno}"
        for path in PACKAGE.rglob("*.py")
        for call in _calls_at_import(_tree(path))
        if isinstance(call.func, ast.Name) and call.func.id in {"_", "ngettext"}
    ]
    assert found == []


def test_a_mark_is_around_a_literal_or_what_another_mark_was_around() -> None:
    """`_("one" if it else "two")` and `_(f"{count}")` would be in no catalogue."""
    wrong = ast.IfExp | ast.JoinedStr | ast.BinOp | ast.BoolOp
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in _MARKS and any(isinstance(each, wrong) for each in node.args)
    ]
    assert found == []


def test_a_sentence_that_is_not_marked_is_found() -> None:
    source = """
class Window(Screen):
    BINDINGS = [Binding("q", "quit", "Leave it", tooltip=N_("Leave the window"))]
    def compose(self):
        yield Static(f"{name} is gone", classes="one two")
        yield Static(_("It is there"))
"""
    assert [text for _line, text in _unmarked(ast.parse(source))] == ["Leave it", " is gone"]
    assert len([*_calls_at_import(ast.parse("A = _('x')\ndef f(y=_('z')):\n    _('w')"))]) == 2


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _files() -> Iterator[Path]:
    for room in FOR_PEOPLE:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            if not path.relative_to(PACKAGE).as_posix().startswith(FOR_MODELS):
                yield path


_MARKS = {"_", "N_", "ngettext"}
_NO_TEXT_FOR = {"query", "query_one", "query_exactly_one", "cast", "TypeVar"}
_NEVER_SHOWN = {"ValueError", "TypeError", "AssertionError", "NotImplementedError", "RuntimeError"}
_MARKUP = re.compile(r"[<>{}]|\b(?:bold|PRAGMA|CREATE|SELECT|INSERT|export) ")


def _unmarked(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find the literals with two words or more that no mark is around."""
    passed_over = {id(node) for each in ast.walk(tree) for node in _not_for_people(each)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            is_sentence = " " in text and len(re.findall(r"[^\W\d_]{2,}", text)) >= 2
            is_shown = id(node) not in passed_over and text not in NOT_READ
            if is_sentence and is_shown and not _MARKUP.search(text):
                yield node.lineno, text


def _not_for_people(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is inside of a node and is marked, or is no text that is shown."""
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in _MARKS | _NO_TEXT_FOR | _NEVER_SHOWN:
            yield from ast.walk(node)
        case ast.Call(func=ast.Attribute(attr=name)) if name in _NO_TEXT_FOR:
            yield from ast.walk(node)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re"))):
            yield from ast.walk(node)
        case ast.Expr(value=ast.Constant()):  # a docstring
            yield node.value
        case ast.keyword(arg="classes" | "class"):
            yield from ast.walk(node.value)
        case ast.Assert(msg=ast.AST() as message):
            yield from ast.walk(message)
        case ast.arg(annotation=ast.AST() as annotation) | ast.AnnAssign(annotation=annotation):
            yield from ast.walk(annotation)
        case ast.FunctionDef(returns=ast.AST() as returns):
            yield from ast.walk(returns)
        case ast.AsyncFunctionDef(returns=ast.AST() as returns):
            yield from ast.walk(returns)


def _calls_at_import(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that run when a module is imported: outside of functions, in their defaults
    and decorators."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    yield from _calls_at_import(ast.Expression(default))
            continue
        if isinstance(node, ast.Call):
            yield node
        yield from _calls_at_import(node)
