"""The place of the settings: every one with its value and origin, changed in place; the privacy
page; and what this program is."""

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import ContentSwitcher, Static

from localllm.chat.history.history import HistoryChoice
from localllm.core.hardware import NetworkAccess
from localllm.core.policy.keys import POLICY_SWITCH
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError, UsageError
from localllm.library.files import edit_settings
from localllm.library.files.edit_settings import SettingValue
from localllm.library.files.settings import Setting, offline_switch
from localllm.library.files.settings import load as load_settings
from localllm.library.http.connection_file import Connection
from localllm.policy.active import active_policy
from localllm.runtime.effective_settings import EffectiveSetting, effective_settings
from localllm.translation import N_, _, set_language
from localllm.tui import literal
from localllm.tui.places import SETTINGS
from localllm.tui.screens.ask_text import AskText
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.dialog import Dialog, DialogButton, failure_dialog
from localllm.tui.screens.settings.about import about_lines
from localllm.tui.screens.settings.privacy import (
    engine_lines,
    hanging,
    history_line,
    network_lines,
    policy_line,
)
from localllm.tui.screens.settings.stored import (
    Kind,
    Stored,
    erase_files,
    kinds,
    measured,
    stored_lines,
)
from localllm.tui.screens.settings.values import (
    SectionHead,
    SettingsRow,
    choices_of,
    details,
    editable_text,
    lock_of,
    next_choice,
    parse_value,
    row_key,
    row_lines,
    settings_rows,
)
from localllm.tui.widgets.tables.row_list import RowChosen, RowList, RowMoved

VALUES, PRIVACY, ABOUT = "settings-values", "settings-privacy", "settings-about"
_PANES = ((VALUES, N_("Settings")), (PRIVACY, N_("Privacy")), (ABOUT, N_("About")))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyFacts:
    """What the privacy page is made of, but for what changes every moment."""

    history: tuple[Connection, ...]
    endpoints: tuple[str, ...]
    offline: str | None
    network: NetworkAccess | None
    chats: int
    stored: tuple[Stored, ...]


class SettingsScreen(PlaceScreen):
    """Three pages: the settings, privacy, about."""

    place = SETTINGS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "change",
            N_("Change"),
            id="settings.change",
            tooltip=N_("Change the setting under the cursor; it is written to settings.toml"),
        ),
        Binding(
            "d",
            "reset",
            N_("Default"),
            id="settings.default",
            tooltip=N_("Take the setting under the cursor out of settings.toml"),
        ),
        Binding(
            "left",
            "page(-1)",
            N_("Page before"),
            id="settings.before",
            show=False,
            tooltip=N_("Go to the page before this one"),
        ),
        Binding(
            "right,p",
            "page(1)",
            N_("Privacy"),
            id="settings.next",
            tooltip=N_("Go to the next page: settings, privacy, about"),
        ),
        Binding(
            "o",
            "offline",
            N_("Offline"),
            id="settings.offline",
            tooltip=N_("Switch the network off or on, at once and in settings.toml"),
        ),
        Binding(
            "e,delete",
            "erase",
            N_("Erase"),
            id="settings.erase",
            tooltip=N_("On the privacy page: erase what is under the cursor, after a question"),
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._facts: PrivacyFacts | None = None

    def compose_place(self) -> ComposeResult:
        with Vertical(id="settings"):
            yield Static(id="settings-pages")
            with ContentSwitcher(initial=VALUES, id="settings-switch"):
                with Vertical(id=VALUES):
                    with VerticalScroll(id="settings-scroll", can_focus=False):
                        yield RowList(
                            row_lines,
                            key=row_key,
                            is_selectable=lambda row: not isinstance(row, SectionHead),
                            id="settings-rows",
                        )
                    yield Static(id="settings-details")
                with VerticalScroll(id=PRIVACY, can_focus=False):
                    yield Static(id="privacy-text")
                    yield RowList(stored_lines, key=lambda stored: stored.kind, id="stored-rows")
                with VerticalScroll(id=ABOUT):
                    yield Static(id="about-text")

    @property
    def page(self) -> str:
        """The page that is seen."""
        return self.query_one(ContentSwitcher).current or VALUES

    @property
    def rows(self) -> RowList[SettingsRow]:
        return self.query_one("#settings-rows", RowList)

    @property
    def stored(self) -> RowList[Stored]:
        return self.query_one("#stored-rows", RowList)

    def on_mount(self) -> None:
        self.show_page(VALUES)
        self.query_one("#about-text", Static).update(Content("\n").join(about_lines()))

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.read()
        self.services.ledger.listen(self._network_changed)

    def on_screen_suspend(self) -> None:
        self.services.ledger.unlisten(self._network_changed)

    def _network_changed(self) -> None:
        self.app.call_later(self.read_privacy)  # from the thread that makes the request

    # --- pages ---

    def show_page(self, page: str) -> None:
        """Show one of the pages."""
        self.query_one(ContentSwitcher).current = page
        names = (
            Content.styled(f"▌{_(name)}▐", "bold $primary")
            if each == page
            else Content.styled(f" {_(name)} ", "$text-muted")
            for each, name in _PANES
        )
        self.query_one("#settings-pages", Static).update(Content("  ").join(names))
        about = self.query_one(f"#{ABOUT}", VerticalScroll)
        focused: dict[str, Widget] = {VALUES: self.rows, PRIVACY: self.stored, ABOUT: about}
        focused[page].focus()
        self.refresh_bindings()
        if page == PRIVACY:
            self.read_privacy()

    def action_page(self, step: int) -> None:
        ids = [each for each, _name in _PANES]
        self.show_page(ids[(ids.index(self.page) + step) % len(ids)])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the keys of the page that is seen."""
        if action in ("change", "reset"):
            return self.page == VALUES
        if action == "erase":
            return self.page == PRIVACY
        return True

    # --- the settings ---

    @work(exclusive=True, group="settings", exit_on_error=False)
    async def read(self) -> None:
        """Read the settings as they are now, and what the privacy page shows."""
        try:
            settings = await asyncio.to_thread(effective_settings)
        except UsageError as error:
            self.query_one("#settings-details", Static).update(literal.line(str(error)))
            self.query_one("#settings-details").add_class("-failed")
            return
        self.query_one("#settings-details").remove_class("-failed")
        self.rows.show(settings_rows(settings))
        self._show_details()
        if self.page == PRIVACY:
            self.read_privacy()

    @on(RowMoved, "#settings-rows")
    def _show_details(self) -> None:
        row = self.rows.current
        text = details(row) if isinstance(row, EffectiveSetting) else ""
        self.query_one("#settings-details", Static).update(literal.line(text))

    @on(RowChosen, "#settings-rows")
    @work(group="change", exit_on_error=False)
    async def action_change(self) -> None:
        row = self.rows.current
        if not isinstance(row, EffectiveSetting):
            return
        if (lock := lock_of(row)) is not None:
            self.show_status(f"{row.setting.key}: {lock}")
            return
        if row.setting.key == "theme":
            self.app.search_themes()
            return
        if choices_of(row.setting):
            await self.write(row.setting, next_choice(row))
            return
        text = await self.ask(
            AskText(
                title=row.setting.key,
                message=f"{row.setting.description}\n"
                + _("Allowed: {allowed}. An empty line is the default.").format(
                    allowed=row.setting.allowed
                ),
                value=editable_text(row),
                check=partial(_problem, row.setting),
            )
        )
        if text is not None:
            await self.write(row.setting, parse_value(row.setting, text))

    @work(group="change", exit_on_error=False)
    async def action_reset(self) -> None:
        row = self.rows.current
        if not isinstance(row, EffectiveSetting):
            return
        if (lock := lock_of(row)) is not None:
            self.show_status(f"{row.setting.key}: {lock}")
        else:
            await self.write(row.setting, None)

    async def write(self, setting: Setting, value: SettingValue | None) -> None:
        """Write a setting, and make of it what can be made at once."""
        try:
            if setting.key == "history" and value is not None:
                choice = HistoryChoice(str(value))
                await asyncio.to_thread(self.services.conversations.choose, choice)
            await asyncio.to_thread(edit_settings.change, setting.key, value)
            self.services.settings = await asyncio.to_thread(load_settings)
        except LocalLLMError as error:
            self.open(failure_dialog(_("It was not changed"), error))
            return
        self.show_status(_("{key} is written.").format(key=setting.key))
        if setting.key == "offline":
            self._apply_offline()
        elif setting.key == "language":
            set_language(self.services.settings.language)
            self.show_status(_("Places that are open change their language at the next start."))
        self.read()

    # --- the network ---

    @work(group="change", exit_on_error=False)
    async def action_offline(self) -> None:
        user = await asyncio.to_thread(load_settings)
        switch = offline_switch(user)
        if switch == POLICY_SWITCH:
            self.show_status(_("managed by your organization"))
            return
        if switch is not None and switch != "offline in settings":
            self.show_status(_("{name} switches it off.").format(name=switch))
            return
        (row,) = (each for each in await asyncio.to_thread(effective_settings)
                  if each.setting.key == "offline")  # fmt: skip
        if (lock := lock_of(row)) is not None:
            self.show_status(lock)
            return
        # At once, and before the disk is written: transfers that run end at their next piece.
        _switch_network(off=switch is None)
        await self.write(row.setting, True if switch is None else None)

    def _apply_offline(self) -> None:
        off = offline_switch(self.services.settings) is not None
        _switch_network(off=off)
        self.services.frame.set_offline(offline=off)

    # --- privacy ---

    @work(exclusive=True, group="privacy", exit_on_error=False)
    async def read_privacy(self) -> None:
        """Read what is known, and draw the page."""
        hardware = await self.runtime.hardware()
        network = None if hardware.engine is None else hardware.engine.network
        try:
            self._facts = await asyncio.to_thread(self._gather, network)
        except (LocalLLMError, OSError) as error:
            self.show_status(str(error))
            return
        self._draw_privacy(self._facts)

    def _gather(self, network: NetworkAccess | None) -> PrivacyFacts:
        services, user = self.services, load_settings()
        chosen = os.environ.get("HF_ENDPOINT", "").strip()
        default = ("https://huggingface.co",)
        endpoints = (chosen,) if chosen else user.endpoints or default
        return PrivacyFacts(
            history=services.ledger.history(),
            endpoints=tuple(each.partition("://")[2] or each for each in endpoints),
            offline=offline_switch(user),
            network=network,
            chats=len(services.conversations.list()),
            stored=tuple(measured(each) for each in kinds()),
        )

    def on_resize(self) -> None:
        if self._facts is not None:
            self.call_after_refresh(self._draw_privacy, self._facts)

    def _draw_privacy(self, facts: PrivacyFacts) -> None:
        services = self.services
        conversations = services.conversations
        ledger = services.ledger
        choice = None if conversations.choice is None else conversations.choice.value
        total = format_bytes(sum(each.size_bytes for each in facts.stored))
        lines = [
            *network_lines(
                ledger.activity(),
                facts.history,
                offline=facts.offline,
                endpoints=facts.endpoints,
                problem=ledger.problem,
            ),
            policy_line(active_policy().enforced_keys),
            Content(),
            *engine_lines(facts.network),
            history_line(choice, is_locked=conversations.is_locked, count=facts.chats),
            Content(),
            Content.styled(
                _("Everything localllm has on this disk, {total}").format(total=total), "bold"
            ),
        ]
        text = self.query_one("#privacy-text", Static)
        width = text.content_size.width - 2  # the scroll bar comes later
        broken = [part for line in lines for part in hanging(line, width)]
        text.update(Content("\n").join(broken))
        self.stored.show(facts.stored)

    @work(group="erase", exit_on_error=False)
    async def action_erase(self) -> None:
        row = self.stored.current
        if row is None:
            return
        if not row.erasable:
            self.show_status(_(row.holds))
            return
        erase = DialogButton(id="erase", label=_("Erase for good"))
        keep = DialogButton(id="keep", label=_("Keep"))
        answer = await self.ask(
            Dialog(
                title=_("Erase {name}?").format(name=_(row.name)),
                message=_("{size}: {holds}. It cannot be undone.").format(
                    size=format_bytes(row.size_bytes), holds=_(row.holds)
                ),
                facts=tuple((_("lies in"), str(place)) for place in row.places),
                buttons=(keep, erase),
            )
        )
        if answer == erase.id:
            await self._erase(row)

    async def _erase(self, row: Stored) -> None:
        if row.kind is Kind.BATCHES and self.services.server.address is not None:
            self.show_status(_("Stop serving first (f7): clients use these files."))
            return
        try:
            match row.kind:
                case Kind.CHATS:
                    await asyncio.to_thread(self.services.conversations.erase_all)
                case Kind.COLLECTIONS:
                    await self.services.documents.erase_all()
                case Kind.CONNECTIONS:
                    await asyncio.to_thread(self.services.ledger.erase)
                case _:
                    await asyncio.to_thread(erase_files, row)
        except (LocalLLMError, OSError) as error:
            self.show_status(_("It was not erased: {reason}").format(reason=error))
        else:
            self.show_status(_("{name}: erased").format(name=_(row.name)))
        self.read_privacy()


def _problem(setting: Setting, text: str) -> str | None:
    try:
        parse_value(setting, text)
    except UsageError as error:
        return str(error)
    return None


def _switch_network(*, off: bool) -> None:
    """Turn the switch of this process, which also ends what runs."""
    from localllm.library.http.client import PROCESS_SWITCH

    PROCESS_SWITCH.reason = _("switched off in the app") if off else None
