"""The app in plain lines, for a screen reader: this machine, its models, downloads, conversations.

Everything is asked in words and answered with a number or a word, on stdin and stdout, so it also
works through a pipe. It leads from nothing to a conversation, also without a network.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm import __version__
from localllm.chat.commands.table import path_argument
from localllm.chat.conversation import Conversation
from localllm.chat.presets import PresetStore
from localllm.cli.accessible.download import ModelDownloads
from localllm.cli.accessible.keeping import KeptConversations
from localllm.cli.accessible.progress import load_spoken
from localllm.cli.chat.client import ChatClient
from localllm.cli.chat.line_terminal import LineTerminal
from localllm.cli.chat.plain_chat import PlainChat, open_history
from localllm.cli.chat.session import ChatSession
from localllm.core.hardware import HardwareInfo
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.engine.messages import Thinking
from localllm.errors import DoesNotFit, LocalLLMError
from localllm.library.files import paths
from localllm.library.files.names import printable
from localllm.library.scan.places import places
from localllm.library.scan.sweep import ScanStatus, sweep
from localllm.library.store import starter
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.load_policy import CHAT, LoadChoice, NotGenerative
from localllm.runtime.runtime import Fit, ResidentModel, Runtime
from localllm.translation import N_, _

_CHOICES = (
    ("list", N_("the models of this disk, and these words")),
    ("suggest", N_("models that fit this machine and can be downloaded")),
    ("download", N_("download a model by its name")),
    ("import", N_("use a GGUF file of this disk or of a stick, where it is")),
    ("scan", N_("use the models of other programs on this disk")),
    ("chats", N_("go on with an earlier conversation")),
    ("machine", N_("what this machine has")),
    ("quit", N_("leave")),
)


@dataclass(slots=True, kw_only=True)
class AccessibleApp:
    """Everything of the app that can be done in words. `runner` runs what the runtime does."""

    runner: asyncio.Runner
    runtime: Runtime
    store: Store
    terminal: LineTerminal
    kept: KeptConversations
    sessions: dict[str, ChatSession] = field(default_factory=dict)

    def run(self, because: str) -> None:
        """Greet, and do what is chosen until the person leaves."""
        show = self.terminal.show
        show(f"localllm {__version__}. {because}")
        show(_("Everything stays on this machine: nothing was sent."))
        for line in machine_lines(self._hardware()):
            show(line)
        self._list()
        while self._choose():
            pass

    def _hardware(self) -> HardwareInfo:
        return self.runner.run(self.runtime.hardware())

    def _choose(self) -> bool:
        """Ask what to do, and do it; False: the person leaves."""
        answer = self.terminal.ask_line(_("Number of a model, or a word:"))
        if answer is None:
            return False
        try:
            return self._do(answer.strip().rstrip(".").casefold(), self._models())
        except LocalLLMError as error:
            self.terminal.show_error(str(error))
            return True

    def _models(self) -> tuple[InstalledModel, ...]:
        try:
            return self.runtime.installed()
        except LocalLLMError as error:
            self.terminal.show_error(str(error))
            return ()

    def _list(self) -> None:
        """Show the models and what can be done."""
        show, models = self.terminal.show, self._models()
        if models:
            show(_("Models on this disk:"))
            for number, model in enumerate(models, 1):
                show(f"{number}. {self._status(model)}")
            show(_("Type the number of a model to chat with it, or one of these words:"))
        else:
            show(
                _(
                    "There is no model on this disk yet. Press Enter for models that can be"
                    " downloaded, or type one of these words:"
                )
            )
        for word, meaning in _CHOICES:
            show(f"{word}: {_(meaning)}")

    def _status(self, model: InstalledModel) -> str:
        """Describe a model in one line, with whether it fits."""
        parts = [single_line(model.name), model.quant or "", format_bytes(model.size_bytes)]
        title = ", ".join(filter(None, parts))
        if (problem := model.problem) is not None:
            return f"{title}. {problem}."
        try:
            fit = self.runner.run(self._fit(model))
        except NotGenerative as error:
            return f"{title}. " + _("It is {kind}: it does not chat.").format(kind=error.reason)
        except LocalLLMError as error:
            return f"{title}. {error}"
        verdict = _("fits") if fit.fits else _("does not fit")
        text = _("{title}: {verdict}, needs {need}, {free} is free.").format(
            title=title,
            verdict=verdict,
            need=format_bytes(fit.total_bytes),
            free=format_bytes(fit.free_bytes),
        )
        if model.name == starter.NAME:
            text += " " + _("It is a very small model to try the program; it is often wrong.")
        return text

    async def _fit(self, model: InstalledModel) -> Fit:
        return await self.runtime.fit(await self.runtime.plan(model, CHAT))

    def _do(self, word: str, models: tuple[InstalledModel, ...]) -> bool:
        """Do what a number or a word stands for; False: leave."""
        if word.isdecimal() and 1 <= int(word[:9]) <= len(models):
            self._chat(models[int(word) - 1])
            return True
        if not word:
            word = "list" if models else "suggest"
        found = [each for each, _meaning in _CHOICES if each.startswith(word)]
        match found:
            case ["list"]:
                self._list()
            case ["suggest"]:
                downloads = ModelDownloads(terminal=self.terminal, store=self.store)
                self._offer_chat(downloads.choose(self._hardware(), models))
            case ["download"]:
                downloads = ModelDownloads(terminal=self.terminal, store=self.store)
                self._offer_chat(downloads.named())
            case ["import"]:
                self._offer_chat(self._import())
            case ["scan"]:
                self._scan()
            case ["chats"]:
                self._open_chat(models)
            case ["machine"]:
                hardware = self.runner.run(self.runtime.hardware(fresh=True))
                for line in machine_lines(hardware):
                    self.terminal.show(line)
            case ["quit"]:
                return False
            case _:
                named = [each for each in models if each.name.casefold() == word]
                if named:
                    self._chat(named[0])
                else:
                    words = ", ".join(each for each, _meaning in _CHOICES)
                    self.terminal.show_error(
                        _("Type the number of a model, or one of: {words}.").format(words=words)
                    )
        return True

    # --- adding models ---

    def _import(self) -> InstalledModel | None:
        """Ask for a path until it is a model's; None: the person goes back."""
        self.terminal.show(_("The file stays where it is; nothing is copied."))
        prompt = _("Path of the GGUF file, or Enter to go back:")
        while path := path_argument(self.terminal.ask_line(prompt) or ""):
            try:
                wanted = paths.absolute(Path(path))
                model = self.runner.run(self.runtime.adopt(wanted))
                reason = self.runner.run(self.runtime.unsupported(model))
            except LocalLLMError as error:
                self.terminal.show_error(str(error))
                continue
            name = single_line(model.name)
            self.terminal.show(_("{name} is in the library.").format(name=name))
            if reason is not None:
                self.terminal.show_error(
                    _("{name} cannot run here: {reason}").format(name=name, reason=reason)
                )
            return model
        return None

    def _scan(self) -> None:
        """Adopt what other programs have, each a line."""
        show = self.terminal.show
        found = places(os.environ, Path.home())
        if not found:
            show(_("No folder of the Hugging Face cache, LM Studio, Ollama or llama.cpp is here."))
            return
        for place in found:
            show(_("Looking in {path}.").format(path=printable(place.path)))
        adopted = 0
        for result in sweep(self.store, found):
            name = single_line(result.model.name) if result.model else printable(result.path.name)
            if result.status is ScanStatus.ADOPTED:
                adopted += 1
                show(
                    _("{name} of {runner} is in the library.").format(
                        name=name, runner=result.place.runner
                    )
                )
            elif result.status is ScanStatus.SKIPPED:
                show(_("{name} was skipped: {reason}.").format(name=name, reason=result.reason))
        show(_("{count} models are new; none was copied.").format(count=adopted))
        if adopted:
            self._list()

    def _offer_chat(self, model: InstalledModel | None) -> None:
        if model is not None and self.terminal.confirm(_("Chat with it now?")):
            self._chat(model)
        elif model is not None:
            self._list()

    # --- conversations ---

    def _open_chat(self, models: tuple[InstalledModel, ...]) -> None:
        """Let the person choose an earlier conversation, and go on with it."""
        conversation = self.kept.choose()
        if conversation is None:
            return
        model = next((each for each in models if each.name == conversation.model), None)
        if model is None and models:
            chosen = self.terminal.choose(
                _("Its model is not here any more. With which one?"),
                [single_line(each.name) for each in models],
                _("Number, or Enter to go back:"),
            )
            model = None if chosen is None else models[chosen]
        if model is not None:
            self.sessions[model.name] = ChatSession(conversation, store=self.kept.history)
            self._chat(model)

    def _chat(self, model: InstalledModel) -> None:
        """Load a model, or take the one that is in memory, and converse."""
        resident = self._resident(model)
        if resident is None:
            return
        session = self.sessions.get(model.name)
        if session is None:
            settings = PresetStore().default(model.name).settings
            if settings.thinking == Thinking():
                settings = replace(settings, thinking=self.runtime.default_thinking)
            session = ChatSession(
                Conversation(model=model.name, settings=settings), store=self.kept.history
            )
            self.sessions[model.name] = session
        show = self.terminal.show
        show(
            _(
                "Type a question and press Enter. Ctrl+C stops an answer, /help lists the commands,"
                ' /quit goes back. """ alone on a line begins and ends a question of several lines.'
            )
        )
        if count := len(session.conversation.path()):
            show(_("Going on with {count} messages; /new begins anew.").format(count=count))
        client = ChatClient(self.runner, self.runtime, resident, session, notify=show)
        PlainChat(
            client, self.terminal, history=self.kept.history, choice=CHAT, load=self._load
        ).converse()
        self.kept.ask_how_to_keep()
        show(
            _("Back to the models; list shows them. {name} stays in memory.").format(
                name=single_line(model.name)
            )
        )

    def _resident(self, model: InstalledModel) -> ResidentModel | None:
        """Return the model in memory, loaded if it is not yet; None: it was not loaded."""
        for each in self.runtime.resident():
            if each.model.name == model.name:
                return each
        try:
            return self._loaded(model)
        except DoesNotFit as error:
            self.terminal.show_error(str(error))
        if others := [each.model.name for each in self.runtime.resident()]:
            names = ", ".join(map(single_line, others))
            if not self.terminal.confirm(_("Free the memory of {names}?").format(names=names)):
                return None
            for name in others:
                self.runner.run(self.runtime.unload(name))
            return self._loaded(model)
        if not self.terminal.confirm(
            _("Load it all the same? The computer may become slow, or end programs.")
        ):
            return None
        return self._loaded(model, force=True)

    def _loaded(self, model: InstalledModel, *, force: bool = False) -> ResidentModel:
        resident = self.runner.run(self._load(model, CHAT, force=force))
        for warning in resident.warnings:
            self.terminal.show(warning)
        return resident

    async def _load(
        self, model: InstalledModel, choice: LoadChoice, *, force: bool = False
    ) -> ResidentModel:
        plan = await self.runtime.plan(model, choice)
        return await load_spoken(self.runtime, plan, show=self.terminal.show, force=force)


def machine_lines(hardware: HardwareInfo) -> Iterator[str]:
    """Describe a machine, one fact a line."""
    cpu, ram = hardware.cpu, hardware.ram
    yield _("Processor: {name}, {count} cores can be used.").format(
        name=single_line(cpu.name), count=cpu.cores_usable
    )
    yield _("Memory: {total}, {free} free.").format(
        total=format_bytes(ram.total_bytes), free=format_bytes(ram.available_bytes)
    )
    for device in hardware.devices:
        if device.total_bytes is None or device.free_bytes is None:
            yield _("GPU: {name}.").format(name=single_line(device.name))
        else:
            yield _("GPU: {name}, {total}, {free} free.").format(
                name=single_line(device.name),
                total=format_bytes(device.total_bytes),
                free=format_bytes(device.free_bytes),
            )
    if not hardware.devices:
        yield _("GPU: none found.")
    engine = hardware.engine
    if engine is None:
        yield _("Engine: llama.cpp is not usable here. `localllm doctor` says why.")
    else:
        yield _("Engine: {name} {version}.").format(name=engine.name, version=engine.version)
    for warning in hardware.warnings:
        yield _("Warning: {warning}").format(warning=single_line(warning))


def run_accessible(because: str) -> None:
    """Open the accessible app on this process's stdin and stdout."""
    with asyncio.Runner() as runner:
        runtime = Runtime.of_this_machine()
        terminal = LineTerminal()
        try:
            store = Store(paths.data_dir(), warn=terminal.show)
            with open_history(terminal) as history:
                app = AccessibleApp(
                    runner=runner,
                    runtime=runtime,
                    store=store,
                    terminal=terminal,
                    kept=KeptConversations(history=history, terminal=terminal),
                )
                app.run(because)
        finally:
            runner.run(runtime.close())
