"""The settings of a chat, as a column beside the conversation or in a window over it.

Every change is handed to `on_change` at once and holds from the next question on. What a change of
the context costs in memory, and how many tokens the system prompt has, is worked out in the
background: the panel is handed functions for both.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from localllm.chat.commands.setting_steps import step
from localllm.chat.commands.setting_values import (
    HELP,
    SAMPLING_NAMES,
    parse_thinking,
    setting_range,
    with_setting,
)
from localllm.chat.presets import Preset, PresetStore
from localllm.chat.schemas import ANY_OBJECT, read_schema
from localllm.chat.settings import ChatSettings
from localllm.errors import LocalLLMError
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.app_words import app_words
from localllm.tui.screens.chat_settings.choice_window import ChoiceWindow, Chosen, Row
from localllm.tui.screens.chat_settings.row_states import (
    Known,
    SettingsSubject,
    needs_reload,
    row_state,
)
from localllm.tui.screens.chat_settings.rows import SettingRow
from localllm.tui.screens.chat_settings.text_window import TextWindow
from localllm.tui.screens.dialog import delete_dialog

DAILY = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed")
MORE = tuple(each for each in SAMPLING_NAMES if each not in DAILY)

LABELS = {
    "repeat_penalty": "repeat_penalty",
    "preset": N_("preset"),
    "system": N_("system prompt"),
    "max_tokens": N_("length"),
    "stop": N_("stop texts"),
    "json_schema": N_("format"),
    "thinking": N_("thinking"),
    "tools": N_("tools"),
    "context": N_("context"),
    "kv_type": N_("KV cache"),
}
EXPLAINED = {
    "preset": N_("named settings; ← → changes it, ⏎ lists them, s saves these as one"),
    "system": N_("what the model is told before the conversation; ⏎ writes it"),
    "json_schema": N_("answers as text, or as JSON that follows a schema; ⏎ writes the schema"),
    "thinking": N_("how long the model thinks before it answers; a number is a budget in tokens"),
    "tools": N_("what the model may call, on this machine; ← → all or none, ⏎ chooses"),
}


class ChatSettingsPanel(Vertical):
    """The rows of the settings. `show` sets what they show; `on_change` gets what was changed."""

    DEFAULT_CSS = """
    ChatSettingsPanel { height: 1fr; }
    ChatSettingsPanel #setting-rows { height: 1fr; }
    ChatSettingsPanel .settings-heading { color: $text-muted; text-style: bold; height: 1; }
    ChatSettingsPanel #setting-hint { height: 2; color: $text-muted; padding: 0 1; }
    ChatSettingsPanel #setting-hint.-error { color: $text-error; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", N_("Up"), id="settings.up", show=False),
        Binding("down,j", "move(1)", N_("Down"), id="settings.down", show=False),
        Binding(
            "s",
            "save",
            N_("save"),
            id="settings.save",
            tooltip=N_("Save these settings as a preset"),
        ),
        Binding(
            "p",
            "presets",
            N_("presets"),
            id="settings.presets",
            tooltip=N_("List, use and delete presets"),
        ),
        Binding(
            "d",
            "defaults",
            N_("defaults"),
            id="settings.defaults",
            tooltip=N_("Use what new chats begin with"),
        ),
        Binding(
            "m",
            "more",
            N_("more"),
            id="settings.all",
            tooltip=N_("Show every sampling parameter, or the daily ones"),
        ),
    ]

    def __init__(
        self,
        settings: ChatSettings,
        subject: SettingsSubject,
        presets: PresetStore,
        on_change: Callable[[ChatSettings], None],
        *,
        id: str | None = None,  # noqa: A002  # Textual's own name
    ) -> None:
        super().__init__(id=id)
        self.settings = settings
        self.subject = subject
        self._presets = presets
        self._on_change = on_change
        self._base = ChatSettings()
        self._known = Known()

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="setting-rows", can_focus=False):
            yield SettingRow("preset", LABELS["preset"], window=True)
            yield SettingRow("system", LABELS["system"], window=True)
            yield Static(_("Sampling"), classes="settings-heading")
            for name in (*DAILY, *MORE):
                texts = name in ("dry_sequence_breakers", "logit_bias")
                row = SettingRow(name, name, typed=not texts)
                row.display = name in DAILY
                yield row
            yield Static(_("Answer"), classes="settings-heading")
            yield SettingRow("max_tokens", LABELS["max_tokens"], typed=True)
            yield SettingRow("stop", LABELS["stop"])
            yield SettingRow("json_schema", LABELS["json_schema"], window=True)
            yield SettingRow("thinking", LABELS["thinking"], typed=True)
            yield SettingRow("tools", LABELS["tools"], window=True)
            yield Static(_("Model"), classes="settings-heading")
            yield SettingRow("context", LABELS["context"], typed=True)
            yield SettingRow("kv_type", LABELS["kv_type"])
        yield Static("", id="setting-hint", markup=False)

    def on_mount(self) -> None:
        self.show(self.settings, self.subject)

    def focus_row(self, name: str = "preset") -> None:
        """Put the cursor on a row."""
        self._row(name).focus()

    def action_move(self, rows: int) -> None:
        shown = [each for each in self.query(SettingRow) if each.display]
        at = next((index for index, each in enumerate(shown) if each.has_focus), -rows)
        self.screen.set_focus(shown[(at + rows) % len(shown)])  # at once: keys come fast

    # --- what is shown ---

    def show(self, settings: ChatSettings, subject: SettingsSubject | None = None) -> None:
        """Show these settings, of another chat or changed elsewhere."""
        self.settings = settings
        if subject is not None and subject != self.subject:
            self.subject, self._known = subject, Known()
        self._base = self._preset_in_use().settings
        for row in self.query(SettingRow):
            self._redraw(row.setting)
        self._look_up()

    def _preset_in_use(self) -> Preset:
        try:
            if self.settings.preset:
                return self._presets.find(self.settings.preset, self.subject.model)
            return self._presets.default(self.subject.model)
        except LocalLLMError:  # it was deleted, or the file is damaged: the window says so
            return Preset(name="")

    @work(exclusive=True, group="settings-look-up", exit_on_error=False)
    async def _look_up(self) -> None:
        """Count the system prompt, and size the load; whoever cannot be asked is left out."""
        settings, subject = self.settings, self.subject
        try:
            if (
                subject.count_tokens is not None
                and settings.system
                and self._known.system_tokens(settings) is None
            ):
                tokens = await subject.count_tokens(settings.system)
                self._known = replace(self._known, system=(settings.system, tokens))
                self._redraw("system")
            if (
                subject.memory_need is not None
                and needs_reload(settings, subject)
                and self._known.memory_need(settings) is None
            ):
                need = await subject.memory_need(settings)
                self._known = replace(self._known, need=(settings.context, settings.kv_type, need))
                self._redraw("context")
        except LocalLLMError as error:
            self._hint(str(error), error=True)

    def _redraw(self, name: str) -> None:
        if self.is_attached:
            self._row(name).state = row_state(
                name, self.settings, self._base, self.subject, self._known
            )

    def _row(self, name: str) -> SettingRow:
        return self.query_one(f"#setting-{name.replace('_', '-')}", SettingRow)

    def _hint(self, text: str, *, error: bool = False) -> None:
        hint = self.query_one("#setting-hint", Static)
        hint.set_class(error, "-error")
        hint.update(literal.line(app_words(text)))

    def on_descendant_focus(self) -> None:
        row = self.screen.focused
        if isinstance(row, SettingRow):
            text = EXPLAINED.get(row.setting) or HELP.get(row.setting, "")
            values = "" if row.setting in EXPLAINED else setting_range(row.setting)
            self._hint(f"{_(text)} ({values})" if values else _(text))

    # --- what is changed ---

    def _change(self, settings: ChatSettings) -> None:
        self.show(settings)
        self._on_change(settings)

    def _try(self, change: Callable[[], ChatSettings]) -> bool:
        """Make a change; an error is shown below the rows. Returns True when it was made."""
        try:
            settings = change()
        except LocalLLMError as error:
            self._hint(str(error), error=True)
            return False
        self._change(settings)
        return True

    @on(SettingRow.Stepped)
    def _stepped(self, event: SettingRow.Stepped) -> None:
        settings = self.settings
        match event.setting:
            case "preset":
                self._try(lambda: self._next_preset(up=event.up))
            case "json_schema":
                text = "" if settings.json_schema else ANY_OBJECT
                self._change(replace(settings, json_schema=text))
            case "tools":
                names = tuple(each.name for each in self.subject.tools)
                self._change(replace(settings, tools=() if settings.tools else names))
            case name:
                if name == "context" and settings.context is None:
                    settings = replace(settings, context=self.subject.loaded_context)
                self._change(step(settings, name, event.up, self.subject.trained_context))

    def _next_preset(self, *, up: bool) -> ChatSettings:
        presets = self._presets.presets(self.subject.model)
        names = [each.name for each in presets]
        at = names.index(self.settings.preset) if self.settings.preset in names else -1
        return presets[(at + (1 if up else -1)) % len(presets)].settings

    @on(SettingRow.Edited)
    def _edited(self, event: SettingRow.Edited) -> None:
        def change() -> ChatSettings:
            if event.setting == "thinking":
                return replace(self.settings, thinking=parse_thinking(event.text))
            return with_setting(self.settings, event.setting, event.text)

        if self._try(change):
            event.row.editing = None

    @on(SettingRow.Reset)
    def _reset(self, event: SettingRow.Reset) -> None:
        match event.setting:
            case "preset":
                self.action_defaults()
            case "system" | "json_schema" | "thinking" | "tools" as name:
                value = getattr(ChatSettings(), name)
                self._change(replace(self.settings, **{name: value}))
            case name:
                self._try(lambda: with_setting(self.settings, name, "default"))

    @on(SettingRow.Opened)
    def _opened(self, event: SettingRow.Opened) -> None:
        match event.setting:
            case "preset":
                self.action_presets()
            case "system":
                self._write_system()
            case "json_schema":
                self._write_schema()
            case "tools":
                self._choose_tools()

    def _write_system(self) -> None:
        def written(text: str | None) -> None:
            if text is not None:
                self._change(replace(self.settings, system=text.strip()))

        window = TextWindow(
            _("System prompt"), self.settings.system, _("What the model is told first.")
        )
        self.app.push_screen(window, written)

    def _write_schema(self) -> None:
        def check(text: str) -> None:
            if text.strip():
                read_schema(text)

        def written(text: str | None) -> None:
            if text is not None:
                schema = read_schema(text).text if text.strip() else ""
                self._change(replace(self.settings, json_schema=schema))

        remark = _(
            "A JSON Schema, the path of a file with one, or json for any object. Empty: text."
        )
        window = TextWindow(_("Format of the answers"), self.settings.json_schema, remark, check)
        self.app.push_screen(window, written)

    def _choose_tools(self, selected: str = "") -> None:
        def chosen(choice: Chosen | None) -> None:
            if choice is None:
                return
            names = set(self.settings.tools) ^ {choice.id}
            tools = tuple(each.name for each in self.subject.tools if each.name in names)
            self._change(replace(self.settings, tools=tools))
            self._choose_tools(choice.id)

        rows = [
            Row(
                id=each.name,
                name=f"{'●' if each.name in self.settings.tools else '○'} {each.name}",
                remark=_(each.summary),
            )
            for each in self.subject.tools
        ]
        window = ChoiceWindow(
            _("Tools that the model may call"),
            rows,
            keys={},
            enter=_("on or off"),
            selected=selected,
        )
        self.app.push_screen(window, chosen)

    # --- presets ---

    def action_save(self) -> None:
        def named(name: str | None) -> None:
            if name is not None and name.strip():
                self._try(lambda: self._presets.save(name, self.settings).settings)

        self.app.push_screen(
            TextWindow(_("Save these settings as a preset"), self.settings.preset, _("Its name:")),
            named,
        )

    def action_presets(self) -> None:
        model = self.subject.model
        try:
            presets = self._presets.presets(model)
            default = self._presets.default(model).name
        except LocalLLMError as error:
            self._hint(str(error), error=True)
            return
        rows = [
            Row(id=each.name, name=each.name, remark=_preset_remark(each, default))
            for each in presets
        ]
        keys = {
            "n": _("new chats begin with it"),
            "o": _("only for this model"),
            "x": _("delete"),
        }
        window = ChoiceWindow(
            _("Presets"), rows, keys=keys, enter=_("use"), selected=self.settings.preset
        )
        self.app.push_screen(window, self._preset_chosen)

    def _preset_chosen(self, choice: Chosen | None) -> None:
        if choice is None:
            return
        model, store = self.subject.model, self._presets
        try:
            match choice.key:
                case "enter":
                    self._change(store.find(choice.id, model).settings)
                    return
                case "n":
                    store.set_default(choice.id, model)
                case "o":
                    store.save(choice.id, store.find(choice.id, model).settings, model)
                case "x":
                    self.app.push_screen(
                        delete_dialog(choice.id), partial(self._deletion_answered, choice.id)
                    )
                    return
        except LocalLLMError as error:
            self._hint(str(error), error=True)
            return
        self.show(self.settings)
        self.action_presets()

    def _deletion_answered(self, name: str, answer: str | None) -> None:
        if answer == "delete":
            try:
                self._presets.delete(name, self.subject.model)
            except LocalLLMError as error:
                self._hint(str(error), error=True)
                return
            self.show(self.settings)
        self.action_presets()

    def action_defaults(self) -> None:
        self._try(lambda: self._presets.default(self.subject.model).settings)

    def action_more(self) -> None:
        for name in MORE:
            row = self._row(name)
            row.display = not row.display or row.has_focus


def _preset_remark(preset: Preset, default: str) -> str:
    remarks = []
    if preset.model:
        remarks.append(_("of this model"))
    if preset.name == default:
        remarks.append(_("new chats begin with it"))
    if preset.built_in:
        remarks.append(_("built in"))
    if preset.settings.system:
        remarks.append(preset.settings.system[:40])
    return " · ".join(remarks)
