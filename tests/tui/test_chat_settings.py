"""The settings of a chat: every row by key, presets, the windows, and what is worked out."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App
from textual.widgets import TextArea

import localllm.tui
from localllm.chat.presets import PresetStore
from localllm.chat.schemas import ANY_OBJECT
from localllm.chat.settings import ChatSettings
from localllm.chat.tools.toolbox import local_tools
from localllm.engine.messages import Effort, Sampling, Thinking
from localllm.tui.screens.chat_settings.choice_window import ChoiceWindow
from localllm.tui.screens.chat_settings.panel import ChatSettingsPanel
from localllm.tui.screens.chat_settings.row_states import MemoryNeed, SettingsSubject
from localllm.tui.screens.chat_settings.rows import SettingRow
from localllm.tui.screens.chat_settings.text_window import TextWindow
from localllm.tui.screens.chat_settings.window import ChatSettingsWindow
from localllm.tui.screens.tokens.token_layout import lay_out, level, visible
from tests.tui.actions import screen_text, wait_for_screen, wait_for_text, wait_until

GIB = 2**30
HOSTILE = "[/INST] [Q4_K_M] [bold] \x1b[2J"


async def count(text: str) -> int:
    return len(text.split())


async def need(settings: ChatSettings) -> MemoryNeed:
    return MemoryNeed(need_bytes=(settings.context or 0) * 1_000_000, free_bytes=20 * GIB)


class WindowApp(App[None]):
    """The window alone; `settings` are those that it has handed over last."""

    CSS_PATH = Path(localllm.tui.__file__).with_name("app.tcss")

    def __init__(self, store: PresetStore) -> None:
        super().__init__()
        self.settings = ChatSettings()
        self.store = store

    def on_mount(self) -> None:
        subject = SettingsSubject(
            model="starter",
            trained_context=131_072,
            loaded_context=4096,
            count_tokens=count,
            memory_need=need,
            tools=local_tools(),
        )
        self.push_screen(ChatSettingsWindow(self.settings, subject, self.store, self._changed))

    def _changed(self, settings: ChatSettings) -> None:
        self.settings = settings

    def row(self, name: str) -> SettingRow:
        found = self.screen.query_one(ChatSettingsPanel)
        found.focus_row(name)
        return found.query_one(f"#setting-{name.replace('_', '-')}", SettingRow)


async def test_every_row_is_changed_by_keys(tmp_path: Path) -> None:
    app = WindowApp(PresetStore(tmp_path / "presets.json"))
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_for_text(pilot, "temperature")
        await pilot.press("down", "down", "right")  # temperature
        assert app.settings.sampling.temperature == 0.9
        await pilot.press("1", ".", "5", "enter")
        assert app.settings.sampling.temperature == 1.5
        await pilot.press("9", "9", "enter")
        await wait_for_text(pilot, "0 to 5")
        assert app.settings.sampling.temperature == 1.5
        await pilot.press("escape", "backspace")
        assert app.settings.sampling == Sampling()

        app.row("stop")
        await pilot.press("enter", "backspace", "backspace", "backspace", *"###", "enter")
        assert app.settings.stop == ("###",)
        app.row("thinking")
        await pilot.press("left", "left")
        assert app.settings.thinking == Thinking(effort=Effort.XHIGH)
        app.row("json_schema")
        await pilot.press("right")
        assert app.settings.json_schema == ANY_OBJECT
        await pilot.press("enter")
        app.screen.query_one(TextArea).text = "[1]"
        await pilot.press("enter")
        await wait_for_text(pilot, "There is no file")
        app.screen.query_one(TextArea).text = '{"type":\n"string"}'
        await pilot.press("enter")
        await wait_for_screen(pilot, ChatSettingsWindow)
        assert app.settings.json_schema == '{"type":\n"string"}'
        app.row("tools")
        await pilot.press("right")
        assert "calculator" in app.settings.tools
        await pilot.press("enter", "enter", "escape")  # the first one off again
        assert "calculator" not in app.settings.tools


async def test_what_a_change_costs_is_worked_out(tmp_path: Path) -> None:
    app = WindowApp(PresetStore(tmp_path / "presets.json"))
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_for_text(pilot, "temperature")
        app.row("system")
        await pilot.press("enter", *"Be", "ctrl+j", *"terse", "enter")
        await wait_for_text(pilot, "2 tokens")
        assert app.settings.system == "Be\nterse"

        app.row("context")
        await pilot.press("right")
        assert app.settings.context == 8192
        await wait_for_text(pilot, "● fits: 7.6 GiB of 20.0 GiB")
        await pilot.press(*"131072", "enter")
        await wait_for_text(pilot, "○ no room: 122 GiB of 20.0 GiB")
        app.row("kv_type")
        await pilot.press("right", "right")
        assert app.settings.kv_type == "q8_0"


async def test_presets_are_saved_used_and_deleted(tmp_path: Path) -> None:
    store = PresetStore(tmp_path / "presets.json")
    store.save(HOSTILE, ChatSettings(system=HOSTILE))
    app = WindowApp(store)
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_for_text(pilot, "temperature")
        app.row("temperature")
        await pilot.press("right", "s")
        await wait_for_screen(pilot, TextWindow)
        await pilot.press(*"warm", "enter")
        assert store.find("warm").settings.sampling.temperature == 0.9
        assert app.settings.preset == "warm"
        await pilot.press("right")
        await wait_for_text(pilot, "changed")
        app.row("preset")
        await pilot.press("p")
        await wait_for_text(pilot, "[/INST] [Q4_K_M] [bold]")
        await pilot.press("n")  # new chats begin with it
        await wait_for_text(pilot, "new chats begin with it")
        assert store.default("starter").name == "warm"
        await pilot.press("escape", "backspace")
        assert app.settings == store.find("warm").settings
        await pilot.press("p", "x")
        await wait_for_text(pilot, "Delete warm?")
        await pilot.press("right", "enter")
        await wait_until(pilot, lambda: "warm" not in [each.name for each in store.presets()])
        await wait_for_screen(pilot, ChoiceWindow)
        await pilot.press("escape")
        await pilot.press("m")
        await wait_for_text(pilot, "typical_p")
        (tmp_path / "presets.json").write_text("{")
        await pilot.press("p")
        await wait_for_text(pilot, "stays as it is")
        assert "[/INST]" not in screen_text(app)


@given(st.lists(st.text(max_size=12), max_size=40), st.integers(1, 40))
def test_tokens_stand_once_in_order_and_within_the_width(texts: list[str], width: int) -> None:
    lines = lay_out(texts, width)
    pieces = [piece for line in lines for piece in line]
    assert [piece.token for piece in pieces] == sorted(piece.token for piece in pieces)
    assert {piece.token for piece in pieces} == set(range(len(texts)))
    joined = "".join(piece.text for piece in pieces)
    assert joined == "".join(map(visible, texts))
    for line in lines:
        assert sum(piece.width for piece in line) <= max(width, 2)
        assert all(piece.width == cell_len(piece.text) for piece in line)


def test_a_bar_is_as_high_as_its_probability() -> None:
    assert [level(each) for each in (None, 0.0, 0.5, 0.99, 1.0)] == [" ", "▁", "▅", "█", "█"]
