"""Make a GGUF file of this disk part of the library: a path that completes itself while it is
typed, or a list of files to choose from."""

import asyncio
import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from localllm.chat.attachments.path_completion import PathCompletion, complete_path
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.app_words import app_words
from localllm.tui.screens.base import WorkScreen

_SUFFIX = ".gguf"
_MAX_SHOWN = 50


class ImportScreen(WorkScreen[InstalledModel | None], ModalScreen[InstalledModel | None]):
    """Ask for a path until it is a model's; the result is the installed model, None after
    escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape",
            "close",
            N_("Close"),
            id="import.close",
            tooltip=N_("Close without importing"),
        ),
        Binding(
            "tab",
            "complete",
            N_("Complete"),
            id="import.complete",
            priority=True,
            tooltip=N_("Complete the path as far as it is clear"),
        ),
    ]

    AUTO_FOCUS = "#import-path"

    def __init__(self) -> None:
        super().__init__()
        self._offered: tuple[PathCompletion, ...] = ()

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(Content(_("Import a GGUF file")), id="dialog-title")
            yield Static(
                Content(
                    _(
                        "The file stays where it is; nothing is copied. Of a model in several"
                        " parts, any one will do."
                    )
                ),
                id="dialog-message",
            )
            yield Input(
                placeholder=_("path of the file, for example {example}").format(
                    example=example_path()
                ),
                id="import-path",
                compact=True,
            )
            yield Static(Content(), id="import-remark")
            yield OptionList(id="import-files", compact=True)
            keys = _("enter imports or opens a folder · ↓ chooses · tab completes · esc closes")
            yield Static(Content(keys), id="import-keys")

    def on_mount(self) -> None:
        self.call_after_refresh(self.complete, "")

    # --- the path and what it can become ---

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        self._show_remark("")
        self.complete(event.value)

    @work(exclusive=True, group="complete", exit_on_error=False)
    async def complete(self, typed: str) -> None:
        """List the folders and models that the path can become."""
        text = unquoted(typed.strip())
        found = await asyncio.to_thread(complete_path, text, base=Path.home())
        self._offered = models_among(found.completions)[:_MAX_SHOWN]
        files = self.query_one(OptionList)
        files.clear_options()
        files.add_options([Option(literal.line(_option(each))) for each in self._offered])
        files.display = bool(self._offered)

    def action_complete(self) -> None:
        """Complete the path to what all that is offered has in common."""
        typed = self.query_one(Input)
        texts = [each.text for each in self._offered]
        if not texts:
            return
        common = common_beginning(texts)
        if len(common) >= len(unquoted(typed.value.strip())):
            typed.value = common
            typed.cursor_position = len(common)

    def on_key(self, event: events.Key) -> None:
        files = self.query_one(OptionList)
        if event.key == "down" and self.focused is self.query_one(Input) and self._offered:
            files.focus()
            files.highlighted = 0
            event.stop()
        elif event.key == "up" and self.focused is files and files.highlighted in (None, 0):
            self.query_one(Input).focus()
            event.stop()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_index < len(self._offered):
            self._take(self._offered[event.option_index])

    def _take(self, chosen: PathCompletion) -> None:
        typed = self.query_one(Input)
        typed.value = chosen.text
        typed.cursor_position = len(chosen.text)
        typed.focus()
        if not chosen.is_folder:
            self._import(chosen.text)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        if text := unquoted(event.value.strip()):
            self._import(text)
        else:
            self._show_remark(_("Write the path of a GGUF file first."), failed=True)

    def _import(self, text: str) -> None:
        path = path_of(text)
        if os.path.isdir(path):  # noqa: PTH112  # never raises
            typed = self.query_one(Input)
            with typed.prevent(Input.Changed):
                typed.value = text if text.endswith(("/", os.sep)) else f"{text}/"
            typed.cursor_position = len(typed.value)
            self.complete(typed.value)
            self._show_remark(_("This is a folder: choose a file in it."), failed=True)
            return
        self._show_remark(_("reading the file…"))
        self.adopt(path)

    @work(exclusive=True, group="adopt", exit_on_error=False)
    async def adopt(self, path: Path) -> None:
        try:
            model = await self.runtime.adopt(path)
            reason = await self.runtime.unsupported(model)
        except LocalLLMError as error:
            self._show_remark(str(error), failed=True)
        else:
            if reason is not None:
                self.app.notify(
                    literal.line(
                        _("{model} cannot run here: {why}").format(model=model.name, why=reason)
                    ).plain,
                    severity="warning",
                    timeout=30,
                    markup=False,
                )
            self.leave(model)

    def _show_remark(self, remark: str, *, failed: bool = False) -> None:
        line = self.query_one("#import-remark", Static)
        line.update(literal.line(app_words(remark)))
        line.display = bool(remark)
        line.set_class(failed, "-failed")

    def action_close(self) -> None:
        self.leave(None)


def example_path(platform: str = sys.platform) -> str:
    """Return a path as this system writes it."""
    return "D:\\models\\model.gguf" if platform == "win32" else "~/Downloads/model.gguf"


def models_among(completions: tuple[PathCompletion, ...]) -> tuple[PathCompletion, ...]:
    """Keep the folders and the files that are called as models are."""
    return tuple(
        each for each in completions if each.is_folder or each.name.lower().endswith(_SUFFIX)
    )


def common_beginning(texts: Sequence[str]) -> str:
    """Return the characters that all of these texts begin with."""
    first, last = min(texts), max(texts)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(character for character, _other in same)


def _option(completion: PathCompletion) -> str:
    if completion.is_folder:
        return f"{completion.name}/"
    size = completion.size_bytes
    return completion.name if size is None else f"{completion.name}   {format_bytes(size)}"


def path_of(text: str) -> Path:
    """Return the path that was typed: ~ is the home folder, and what is relative begins there, as
    the offered paths do; a file beside the program is found too."""
    expanded = os.path.expanduser(text)  # noqa: PTH111  # Path's raises for an unknown user
    if os.path.isabs(expanded) or os.path.exists(expanded):  # noqa: PTH110, PTH117  # never raise
        return Path(expanded)
    return Path.home() / expanded


def unquoted(text: str) -> str:
    """Remove the quotes in which a terminal writes the path of a file that is dropped on it, or the
    backslashes before its spaces."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text.replace("\\ ", " ") if os.sep == "/" else text
