"""The terminal app: it owns the services and the places, and ends everything with itself. What can
be seen and done is in `screens/`."""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import events, work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.theme import Theme

from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError, UsageError
from localllm.translation import N_, _, ngettext
from localllm.tui.frame_state import FrameState
from localllm.tui.places import CHAT, HOME, PLACES
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.dialog import QUIT, QuitDialog, bug_dialog
from localllm.tui.theme import DARK, SETTING, THEMES, first_theme, saved_theme
from localllm.tui.widgets.key_hints import KeyHints, shown_bindings
from localllm.tui.widgets.key_names import key_name
from localllm.tui.widgets.status_line import is_small

if TYPE_CHECKING:  # what the first picture does not need is imported after it
    from localllm.chat.conversation import Conversation
    from localllm.library.store.installed import InstalledModel
    from localllm.tui.screens.chat.chat import ChatScreen
    from localllm.tui.services import AppServices

_CLIENT_S = 60.0
"""Who has asked within this time counts as a client."""
_DOWNLOADS_S = 0.5
_LOADED_S = 1.0
"""How often the models in memory are looked at."""


class LocalLLMApp(App[None]):
    """The app. `make_services` makes what its screens work with, after the first picture: it
    imports much. A test passes its own. `is_light`: whether the terminal is, None: not
    known."""

    TITLE = "localllm"
    CSS_PATH = "app.tcss"
    # Textual declares these without ClassVar, so they cannot be one here.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    MODES: ClassVar[dict[str, str | Callable[[], Screen[None]]]] = {
        place.id: place.open for place in PLACES
    }
    DEFAULT_MODE = HOME
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+q",
            "quit",
            N_("Quit"),
            id="app.quit",
            tooltip=N_("End every engine and leave; asks first if something would be lost"),
            show=False,
            priority=True,
        ),
        Binding(
            "f1",
            "keys",
            N_("Keys"),
            id="app.keys",
            tooltip=N_("Every key of this screen, and what it does"),
            show=False,
            priority=True,
        ),
        Binding(
            "ctrl+p",
            "command_palette",
            N_("All commands"),
            id="app.palette",
            tooltip=N_("Search everything that can be done here"),
            show=False,
            priority=True,
        ),
        Binding(
            "ctrl+l",
            "chats",
            N_("Chats"),
            id="app.chats",
            tooltip=N_("Every chat that is kept: find, open, name, export, erase"),
            show=False,
            priority=True,
        ),
        Binding("question_mark", "keys", N_("Keys"), id="app.keys_too", show=False),
        *(
            Binding(
                place.key,
                f"go_to('{place.id}')",
                place.name,
                id=f"app.{place.id}",
                tooltip=place.help,
                show=False,
                priority=True,
            )
            for place in PLACES
        ),
    ]

    def __init__(
        self,
        make_services: "Callable[[FrameState], AppServices]",
        *,
        is_light: bool | None = None,
    ) -> None:
        super().__init__()
        self.frame_state = FrameState()
        self._make_services = make_services
        self._services: AppServices | None = None
        self.refusal: LocalLLMError | None = None
        self._making_services = threading.Lock()
        for each in THEMES:
            self.register_theme(each)
        saved = saved_theme()
        name = first_theme(saved, is_light=is_light)
        self._kept_theme = name if name in self.available_themes else DARK.name
        self.theme = self._kept_theme

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(is_small(event.size), "-small")

    def on_mount(self) -> None:
        self.set_interval(_LOADED_S, self.show_loaded)
        self.call_after_refresh(self.prepare)
        self.theme_changed_signal.subscribe(self, self.keep_theme)
        self.app_resume_signal.subscribe(self, self._draw_all)
        self.screen_change_signal.subscribe(self, self._give_hints)
        # Without a terminal (a test) SIGTERM is left to who runs it.
        for name in ("SIGHUP",) if self.is_headless else ("SIGHUP", "SIGTERM"):
            if (number := getattr(signal, name, None)) is not None:
                with suppress(NotImplementedError, RuntimeError):  # Windows; not the main thread
                    asyncio.get_running_loop().add_signal_handler(number, self._end_by_signal)

    def _draw_all(self, _app: App[object]) -> None:
        """Draw everything again, after the shell had the terminal."""
        self.refresh(layout=True)

    @work(group="prepare", exit_on_error=False)
    async def prepare(self) -> None:
        """Make the services behind the first picture; without them there is no app."""
        try:
            await asyncio.to_thread(lambda: self.services)
        except LocalLLMError as error:
            self.refusal = error
            self.exit()
            return
        self.watch_downloads()
        self.services.ledger.listen(self._network_changed)
        self.show_network()  # somebody may have asked before
        await self._open_history()

    async def _open_history(self) -> None:
        """Open the conversations of this user, as they chose to keep them."""
        from localllm.tui.screens.history.opening import open_history, watch_history

        watch_history(self, self.services.conversations, self.frame_state)
        home = self.screen_stack[0]
        if isinstance(home, WorkScreen):
            await open_history(home, self.frame_state)

    def _give_hints(self, screen: Screen[object]) -> None:
        """Give a window its own line of keys, over that of the place below."""
        if isinstance(screen, ModalScreen) and not screen.query(KeyHints):
            screen.mount(KeyHints())

    async def on_unmount(self) -> None:
        if self._services is not None:
            self._services.ledger.unlisten(self._network_changed)
            await self._services.close()

    @property
    def services(self) -> "AppServices":
        """The services; the first use makes them, in whichever thread it is."""
        with self._making_services:
            if self._services is None:
                self._services = self._make_services(self.frame_state)
            return self._services

    # --- places ---

    def go_to(self, place: str) -> None:
        """Show a place; the one that is left goes on with what it does."""
        self.switch_mode(place)
        for screen in self._background_screens:  # Textual lays out only the window over them
            if screen.size != self.size:
                screen._screen_resized(self.size)

    def action_go_to(self, place: str) -> None:
        self.go_to(place)

    def open_chat(
        self, model: "InstalledModel", conversation: "Conversation | None" = None
    ) -> None:
        """Go to the chat with this model, which is loaded if need be: to `conversation`, or to the
        one that was last had with it."""
        before = self.current_mode
        self.chat_screen().open_model(model, conversation, came_from=before)

    def chat_screen(self) -> "ChatScreen":
        """Go to the chat."""
        from localllm.tui.screens.chat.chat import ChatScreen  # nobody needs it before

        self.go_to(CHAT)
        chat = self.screen_stack[0]
        assert isinstance(chat, ChatScreen)
        return chat

    def open_kept(self, conversation_id: str) -> None:
        """Go to the chat, to a conversation that is kept."""
        from localllm.tui.screens.history.opening import open_kept

        self.run_worker(
            open_kept(self, self.chat_screen, conversation_id), group="kept", exit_on_error=False
        )

    def action_chats(self) -> None:
        from localllm.tui.screens.history.opening import open_chats

        open_chats(self, self.chat_screen)

    def show_loaded(self) -> None:
        """Say in the status line which models are in memory."""
        if self._services is None:
            return
        loaded = (
            _("{model} loaded, {size}").format(
                model=each.model.name, size=format_bytes(each.fit.with_draft_bytes)
            )
            for each in self._services.runtime.resident()
        )
        self.frame_state.set_activity("loaded", " · ".join(loaded))
        self.show_serving(self._services)

    def show_serving(self, services: "AppServices") -> None:
        """Say in the status line that the server runs, and before the end that clients are cut
        off."""
        server, frame = services.server, self.frame_state
        if (address := server.address) is None or (activity := server.activity) is None:
            frame.set_activity("serve", "")
            frame.set_loss("serve", "")
            return
        names, running = activity.clients(_CLIENT_S), len(activity.running)
        clients = ngettext("{count} client", "{count} clients", len(names))
        where = _("serving on {where}").format(where=address.url.partition("://")[2])
        count = f", {clients.format(count=len(names))}" if names else ""
        frame.set_activity("serve", f"{where}{count}")
        cut = ngettext(
            "{count} answer that a client waits for is cut off.",
            "{count} answers that clients wait for are cut off.",
            running,
        )
        frame.set_loss("serve", cut.format(count=running) if running else "")

    # --- downloads ---

    def _network_changed(self) -> None:
        """Show it from the app's thread; the ledger calls in the thread that makes a request."""
        self.call_later(self.show_network)

    def show_network(self) -> None:
        """Show who is asked now, in the frame of every place."""
        from localllm.tui.downloads.activity import network_truth

        ledger, items = self.services.ledger, self.services.downloads.items
        truth = network_truth(
            self.frame_state.truth, items, ledger.activity(), ledger.connections()
        )
        self.frame_state.set_truth(truth)

    def watch_downloads(self) -> None:
        """Show in the frame of every place what downloads, and find what was stopped before."""
        downloads = self.services.downloads
        downloads.report = self._show_bug
        downloads.listen(self.show_downloads)
        self._downloads_timer = self.set_interval(_DOWNLOADS_S, self.show_downloads, pause=True)
        self.run_worker(downloads.find_stopped(), group="downloads", exit_on_error=False)

    def show_downloads(self) -> None:
        """Say in the status line how far the downloads are, again and again while one runs."""
        from localllm.tui.downloads.activity import activity_text

        downloads = self.services.downloads
        self.frame_state.set_activity("download", activity_text(downloads.items))
        self.show_network()
        if downloads.active:
            self._downloads_timer.resume()
        else:
            self._downloads_timer.pause()

    def _show_bug(self, error: BaseException) -> None:
        self.push_screen(bug_dialog(error))

    # --- keys ---

    def action_keys(self) -> None:
        from localllm.tui.screens.keys import KeysScreen, keys_of

        if isinstance(self.screen, KeysScreen):
            self.screen.action_close()
            return
        self.push_screen(KeysScreen(keys_of(self.screen)))

    async def action_quit(self) -> None:
        """End the app; ask once when something would be lost."""
        if self._services is not None:
            from localllm.tui.screens.history import opening

            chats = opening.loss(self._services.conversations)
            self.frame_state.set_loss(opening.SUBJECT, chats)
            self.frame_state.set_loss("typed", opening.loss_of_typed(self))
        losses = tuple(self.frame_state.losses.values())
        if not losses or isinstance(self.screen, QuitDialog):
            self.exit()
            return

        def answered(choice: str | None) -> None:
            if choice == QUIT.id:
                self.exit()

        self.push_screen(QuitDialog(losses), answered)

    def get_key_display(self, binding: Binding) -> str:
        """Write a key as short as people do: ^p, f5, ⏎."""
        return binding.key_display or key_name(binding.key)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Make every key of the screen a command of the palette."""
        for binding, node, enabled in shown_bindings(screen):
            if binding.id not in {None, "app.palette"} and enabled:
                title = _(binding.description)
                if binding.action.startswith("go_to("):  # a chat has settings too
                    title = _("Go to {place}").format(place=title)
                yield SystemCommand(
                    title,
                    _(binding.tooltip),
                    partial(self.run_action, binding.action, node),
                )
        yield SystemCommand(
            _("Theme"),
            _("Light, dark, high contrast, the terminal's own colours and others; kept"),
            self.search_themes,
        )
        if sys.platform != "win32":
            yield SystemCommand(
                _("Suspend"),
                _("Go to the shell for a while; fg brings the app back"),
                self.action_suspend_process,
            )

    # --- the theme ---

    def keep_theme(self, theme: Theme) -> None:
        """Write a theme that was chosen into the settings."""
        if theme.name == self._kept_theme:
            return
        self._kept_theme = theme.name
        from localllm.library.files import edit_settings

        try:
            edit_settings.change(SETTING, theme.name)
        except UsageError as error:
            self.notify(str(error), severity="warning", markup=False)

    # --- the end ---

    def _handle_exception(self, error: Exception) -> None:
        """End the app after an error that nothing expected. Textual would print a traceback with
        the values of variables, which can be what somebody typed."""
        self._return_code = 1
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
        self._close_messages_no_wait()

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the app, if one did."""
        return self._exception

    def _end_by_signal(self) -> None:
        """End, and ask nobody: the terminal is gone, or the system stops."""
        self.exit(return_code=1)
