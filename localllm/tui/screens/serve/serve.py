"""The place of the server: who uses it now, where it is, and what keeps others out.

What clients ask is shown only while it runs, and kept nowhere. The screen looks once a second, and
only while it is seen.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from localllm.core.text import single_line
from localllm.errors import LocalLLMError, StoreError
from localllm.library.files.server_file import RunningServer, find_server
from localllm.policy.active import active_policy
from localllm.runtime.model_pool.listing import ModelListing
from localllm.server.local.app_server import (
    AppServer,
    Exposed,
    PortTaken,
    ServerState,
)
from localllm.server.local.client import ModelStatus, connected
from localllm.server.local.place import RunsAlready, server_file
from localllm.server.monitoring.activity import ServedRequest
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.app_words import app_words
from localllm.tui.places import SERVE
from localllm.tui.screens.ask_text import AskText
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.dialog import Dialog, DialogButton, failure_dialog
from localllm.tui.screens.serve.models import ModelsInMemory
from localllm.tui.screens.serve.request import RequestScreen
from localllm.tui.screens.serve.texts import (
    address_lines,
    model_lines,
    rate_lines,
    request_head,
    request_lines,
    shell_lines,
)
from localllm.tui.widgets.tables.row_list import RowChosen, RowList

LOOK_S = 1.0
_OTHER_S = 3
"""Looks between two questions to another program's server."""
MAX_SLOTS = 32


class ServeScreen(PlaceScreen):
    """Starts and stops the server, and shows what it does."""

    place = SERVE
    # Textual declares it without ClassVar, so it cannot be one here.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide"), (140, "-broad")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "s",
            "serve",
            N_("Start or stop"),
            id="serve.toggle",
            tooltip=N_("Start serving, or stop: answers that are being written may end"),
        ),
        Binding(
            "enter",
            "look_at",
            N_("Look"),
            id="serve.look",
            tooltip=N_("Show what the request under the cursor asks, while it runs"),
        ),
        Binding(
            "k", "key", N_("Key"), id="serve.key", tooltip=N_("Show or hide the key of the server")
        ),
        Binding(
            "y",
            "copy('key')",
            N_("Copy key"),
            id="serve.copy_key",
            tooltip=N_("Copy the key to the terminal's clipboard (OSC 52)"),
        ),
        Binding(
            "u",
            "copy('url')",
            N_("Copy address"),
            id="serve.copy_url",
            tooltip=N_("Copy the address for clients"),
            show=False,
        ),
        Binding(
            "c",
            "copy('shell')",
            N_("Copy for a shell"),
            id="serve.copy_shell",
            tooltip=N_("Copy address and key as two lines for a shell"),
        ),
        Binding(
            "m",
            "models",
            N_("Models"),
            id="serve.models",
            tooltip=N_("Which models are in memory: load, unload, pin"),
        ),
        Binding(
            "n",
            "slots",
            N_("Slots"),
            id="serve.slots",
            tooltip=N_("How many answers a model writes at the same time; it is loaded anew"),
        ),
        Binding(
            "p",
            "port",
            N_("Port"),
            id="serve.port",
            tooltip=N_("Serve on another port, until the app ends"),
        ),
        Binding(
            "x",
            "end_request",
            N_("End one"),
            id="serve.end",
            tooltip=N_("End the request under the cursor; its client gets an error"),
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._shows_key = False
        self._other: RunningServer | None = None
        self._other_models: tuple[ModelStatus, ...] = ()
        self._looks = 0
        self._remark = ""

    @property
    def server(self) -> AppServer:
        return self.services.server

    def compose_place(self) -> ComposeResult:
        with Vertical(id="serve"):
            with VerticalScroll(id="serve-facts", can_focus=False):
                yield Static(id="serve-state")
                yield Static(id="serve-slots")
                yield Static(id="serve-rates")
            with Vertical(id="serve-log"):
                yield Static(id="serve-head")
                with VerticalScroll(id="serve-scroll", can_focus=False):
                    yield RowList(
                        request_lines,
                        key=lambda request: request.number,
                        empty=_("Nobody has asked anything yet."),
                        id="serve-requests",
                    )
        yield Static(id="serve-promise")

    def on_mount(self) -> None:
        self._timer = self.set_interval(LOOK_S, self.look, pause=True)
        self.requests.focus()

    @property
    def requests(self) -> RowList[ServedRequest]:
        return self.query_one("#serve-requests", RowList)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self._looks = 0
        self._timer.resume()
        self.look()

    def on_screen_suspend(self) -> None:
        self._timer.pause()
        self._shows_key = False

    # --- what is seen ---

    def look(self) -> None:
        """Draw what the server does now."""
        server = self.server
        if server.state is ServerState.STOPPED and self._looks % _OTHER_S == 0:
            self.find_other()
        self._looks += 1
        models = server.pool.listed() if server.address is not None else ()
        self._put("#serve-state", self._state_lines(models))
        activity, width = server.activity, max(self.query_one("#serve-facts").size.width - 2, 20)
        running = () if activity is None else activity.running
        slots = (line for each in models for line in model_lines(each, running, width))
        self._put("#serve-slots", slots)
        self._put("#serve-rates", () if activity is None else rate_lines(activity, width))
        self.requests.show(() if activity is None else activity.requests)
        self.query_one("#serve-head", Static).update(request_head(self.requests.size.width))
        self.query_one("#serve-log").display = activity is not None
        promise = _("what clients ask is shown here only while it runs, and never written")
        self._put("#serve-promise", (Content(promise),))

    def _put(self, selector: str, lines: Iterable[Content]) -> None:
        widget = self.query_one(selector, Static)
        content = Content("\n").join(lines)
        if widget.visual is None or str(content) != str(widget.content):
            widget.update(content)
        widget.display = bool(content.plain)

    def _state_lines(self, models: Sequence[ModelListing]) -> Iterable[Content]:
        server = self.server
        if server.address is not None:
            yield from address_lines(server.address, models=models, shows_key=self._shows_key)
            for warning in server.warnings:
                yield Content.styled(f"  ! {single_line(warning)}", "$text-warning")
            if server.state is ServerState.STOPPING:
                yield Content.styled(
                    _("  stopping: answers that are being written have a few seconds"),
                    "$text-warning",
                )
            return
        if server.state is ServerState.STARTING:
            yield Content(_("○ starting…"))
            return
        if self._other is not None:
            yield from self._other_lines(self._other)
            return
        yield Content(_("○ not serving"))
        yield Content(
            _("  s lets programs of this machine use the models, with a key: OpenAI's API,")
        )
        yield Content(_("  Anthropic's and Ollama's. The chat and they share what is loaded."))
        if keys := [each for each in active_policy().enforced_keys if each.startswith("serve.")]:
            text = _("  ⊘ managed by your organization: {keys}").format(keys=", ".join(keys))
            yield Content.styled(text, "$text-muted")
        for problem in (self._remark, server.problem):
            if problem:
                yield Content.styled("  ! ", "$text-error") + literal.line(problem)

    def _other_lines(self, other: RunningServer) -> Iterable[Content]:
        where = single_line(other.where)
        yield Content.styled("● ", "$warning") + Content(
            _("another program of yours serves already: {where}").format(where=where)
        )
        yield Content(
            _("  process {pid}, localllm {version}; s asks whether to stop it").format(
                pid=other.pid, version=single_line(other.version)
            )
        )
        for each in self._other_models:
            if each.state == "unloaded":
                continue
            asked = ngettext("{count} request", "{count} requests", each.requests)
            facts = f"{each.state}, {asked.format(count=each.requests)}"
            yield Content(f"  {single_line(each.name)}   {facts}")

    @work(exclusive=True, group="other", exit_on_error=False)
    async def find_other(self) -> None:
        """Look whether another process serves, and with which models."""
        try:
            found = await asyncio.to_thread(find_server, server_file(None))
        except StoreError as error:
            self._remark, found = app_words(str(error)), None
        models: tuple[ModelStatus, ...] = ()
        if found is not None and self.server.state is ServerState.STOPPED:
            try:
                async with connected(found) as link:
                    models = await link.models()
            except LocalLLMError:
                models = ()
        else:
            found = None
        if (found, models) != (self._other, self._other_models):
            self._other, self._other_models = found, models
            self.look()

    # --- what is done ---

    def action_serve(self) -> None:
        match self.server.state:
            case ServerState.STOPPED if self._other is not None:
                self.stop_other(self._other)
            case ServerState.STOPPED:
                self.start(None)
            case ServerState.RUNNING | ServerState.STARTING:
                self.stop()
            case ServerState.STOPPING:
                self.stop(at_once=True)

    @work(group="serve", exit_on_error=False)
    async def start(self, port: int | None) -> None:
        """Start serving; say in the place why not."""
        self._remark = ""
        starting = asyncio.ensure_future(self.server.start(port=port))
        await asyncio.sleep(0)
        self.look()
        try:
            await starting
        except RunsAlready as error:
            self._other = error.other
            self._remark = _("Another server of yours is starting or stopping. Try again.")
        except PortTaken:
            self._remark = _("Another program listens on that port. Press p for another one.")
        except Exposed:
            self._remark = _(
                "The address of the settings (serve.host) is reached from other machines, and there"
                " is no TLS: what is asked and the key could be read on the way. Set serve.host to"
                " localhost, or serve.tls_cert and serve.tls_key."
            )
        except LocalLLMError as error:
            self._remark = app_words(str(error))
        self.look()

    @work(group="serve", exit_on_error=False)
    async def stop(self, *, at_once: bool = False) -> None:
        """Stop serving; the second time at once."""
        stopping = asyncio.ensure_future(self.server.stop(at_once=at_once))
        await asyncio.sleep(0)
        self.look()
        await stopping
        self.look()

    @work(group="serve", exit_on_error=False)
    async def stop_other(self, other: RunningServer) -> None:
        """Stop another program's server, after a question."""
        stop = DialogButton(id="stop", label=_("Stop that server"))
        keep = DialogButton(id="keep", label=_("Leave it"))
        answer = await self.ask(
            Dialog(
                title=_("Another program serves"),
                message=_(
                    "Process {pid} serves at {where}. Its clients are cut off a few seconds after"
                    " it is stopped; then this app can serve."
                ).format(pid=other.pid, where=other.where),
                buttons=(keep, stop),
            )
        )
        if answer != stop.id:
            return
        try:
            async with connected(other) as link:
                await link.post("/admin/stop", {})
        except LocalLLMError as error:
            self.open(failure_dialog(_("It could not be stopped"), error))
        self._looks = 0

    def action_key(self) -> None:
        self._shows_key = not self._shows_key
        self.look()

    def action_copy(self, what: str) -> None:
        address = self.server.address
        if address is None:
            self.show_status(_("Nothing serves: there is nothing to copy."))
            return
        texts = {
            "key": (address.key, _("The key was copied.")),
            "url": (f"{address.url}/v1", _("The address was copied.")),
            "shell": (shell_lines(address), _("Two lines with address and key were copied.")),
        }
        text, done = texts[what]
        self.app.copy_to_clipboard(text)
        self.show_status(done)

    def action_models(self) -> None:
        self.open(ModelsInMemory())

    @work(group="serve", exit_on_error=False)
    async def action_port(self) -> None:
        text = await self.ask(
            AskText(
                title=_("Port"),
                message=_("The port to serve on until the app ends; 0 takes any free one."),
                value="11711",
                check=lambda text: _number_problem(text, 65535),
            )
        )
        if text is not None:
            await self.server.stop()
            self.start(int(text))

    @work(group="serve", exit_on_error=False)
    async def action_slots(self) -> None:
        if self.server.address is None:
            self.show_status(_("Nothing serves: press s first."))
            return
        text = await self.ask(
            AskText(
                title=_("Answers at the same time"),
                message=_(
                    "Each slot has a context of its own and takes memory for it. The models in"
                    " memory are loaded anew when their answers have ended."
                ),
                value="4",
                check=lambda text: _number_problem(text, MAX_SLOTS, least=1),
            )
        )
        if text is None:
            return
        self.show_status(_("Loading with {count} slots…").format(count=text))
        try:
            await self.server.set_slots(int(text))
        except LocalLLMError as error:
            self.open(failure_dialog(_("That did not work"), error))
        self.look()

    @work(group="serve", exit_on_error=False)
    async def action_end_request(self) -> None:
        row = self.requests.current
        if row is None or not row.is_running or not await self.server.end_request(row.number):
            self.show_status(_("The request under the cursor does not run."))
        self.look()

    @on(RowChosen, "#serve-requests")
    def action_look_at(self) -> None:
        if (row := self.requests.current) is not None:
            self.open(RequestScreen(row.number))


def _number_problem(text: str, most: int, *, least: int = 0) -> str | None:
    if text.isascii() and text.isdecimal() and least <= int(text[:9]) <= most:
        return None
    return _("Give a whole number from {least} to {most}.").format(least=least, most=most)
