"""What a person saves: presets and prompts; and the commands that use them."""

import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.commands.library_actions import LibraryActions
from localllm.chat.commands.table import parse_line
from localllm.chat.presets import NEUTRAL, PresetStore, is_changed
from localllm.chat.prompts import BUILT_IN, PromptLibrary, Variable, fill, variables
from localllm.chat.settings import ChatSettings
from localllm.engine.messages import Effort, Sampling, Thinking
from localllm.errors import LocalLLMError, StoreError, UsageError

TERSE = ChatSettings(
    system="Be terse.",
    sampling=Sampling(temperature=0.2, logit_bias=((7, -5.0),)),
    stop=("###",),
    thinking=Thinking(effort=Effort.LOW),
    tools=("calculator",),
    context=8192,
)


class Actions(LibraryActions):
    """A front end whose person answers every question with the next of `answers`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            presets=PresetStore(directory / "presets.json"),
            library=PromptLibrary(directory / "prompts"),
        )
        self.now = TERSE
        self.shown: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.answers: list[str | None] = []
        self.composed = ""

    model_name = "starter"

    @property
    def settings(self) -> ChatSettings:
        return self.now

    async def change_settings(self, settings: ChatSettings) -> None:
        self.now = settings

    async def show(self, text: str) -> None:
        self.shown.append(text)

    async def ask(self, label: str, default: str) -> str | None:
        self.asked.append((label, default))
        return self.answers.pop(0)

    async def compose(self, text: str) -> None:
        self.composed = text

    async def type(self, text: str) -> str:
        line = parse_line(text)
        assert line is not None
        try:
            await self.run(line)
        except LocalLLMError as error:
            return str(error)
        return self.shown[-1] if self.shown else ""


def test_presets_are_saved_privately_and_a_model_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "config" / "presets.json"
    store = PresetStore(file)
    assert [each.name for each in store.presets("starter")] == [NEUTRAL]
    assert store.default("starter").settings.neutral() == ChatSettings()

    store.save("code", ChatSettings(system="general"))
    saved = store.save("Code", TERSE, "starter")
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PresetStore(file).find("code", "starter") == saved
    assert PresetStore(file).find("CODE", "other").settings.system == "general"
    assert not is_changed(saved.settings, saved)
    assert is_changed(ChatSettings(preset="Code"), saved)

    store.set_default("code", "starter")
    assert store.default("starter") == saved
    assert store.default("other").name == NEUTRAL
    store.set_default("code")
    assert store.default("other").settings.system == "general"
    assert store.delete("code", "starter") == saved
    assert store.default("starter").settings.system == "general"

    for name in (NEUTRAL, " \n", "x" * 61):
        with pytest.raises(UsageError):
            store.save(name, TERSE)
    with pytest.raises(UsageError):
        store.delete(NEUTRAL)
    with pytest.raises(UsageError, match="code"):
        store.find("cod")


@pytest.mark.parametrize(
    "damage",
    [b"", b"[]", b"{" * 100_000, b"\xff", b'{"presets": [{}]}'],
    ids=["empty", "a list", "deep", "no text", "no name"],
)
def test_a_damaged_file_of_presets_is_reported_and_stays(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "presets.json"
    file.write_bytes(damage)
    with pytest.raises(StoreError, match="stays as it is"):
        PresetStore(file).presets()
    with pytest.raises(StoreError, match="stays as it is"):
        PresetStore(file).save("a", TERSE)
    assert file.read_bytes() == damage


def test_the_built_in_prompts_have_variables() -> None:
    assert all(variables(text) for _name, text in BUILT_IN)


@given(st.dictionaries(st.sampled_from(["a", "b c", "größe"]), st.text()), st.text())
def test_what_is_filled_in_is_not_read_for_variables(values: dict[str, str], text: str) -> None:
    template = "{{a}}|{{ b c = x }}|{{größe=}}|{{a}}"
    filled = fill(template, values)
    assert filled == "|".join(
        (values.get("a", ""), values.get("b c", "x"), values.get("größe", ""), values.get("a", ""))
    )
    fill(text, values)  # whatever else stands in a text


def test_variables_come_once_and_braces_of_code_are_none() -> None:
    text = "{{b=1}} {{a}} {{b}} {{}} {{1x}} {x} {{{a}}} ${{ secrets.TOKEN }}"
    assert variables(text) == (Variable(name="b", default="1"), Variable(name="a"))
    assert "{{1x}}" in fill(text, {})


def test_prompts_are_files_of_the_user_and_hide_built_in_ones(tmp_path: Path) -> None:
    library = PromptLibrary(tmp_path / "prompts")
    assert "summarize" in library.names()
    built_in = library.find("Summarize")
    own = library.save("summarize", "In one word: {{text}}")
    assert library.find("summarize") == own != built_in
    library.delete("summarize")
    assert library.find("summarize") == built_in
    (library.directory / "binary.md").write_bytes(b"\xff\xfe\0\x1b[2J")
    assert "\x1b" not in library.find("binary").text
    (library.directory / ".hidden.md").write_text("x")
    (library.directory / "folder.md").mkdir()
    assert {"binary"} == set(library.names()) - {name for name, _text in BUILT_IN}
    for wrong in ("../escape", "a/b", "", "con", "x" * 300):
        with pytest.raises(LocalLLMError):
            library.save(wrong, "text")
    with pytest.raises(UsageError):
        library.delete("translate")
    with pytest.raises(UsageError, match="translate"):
        library.find("tranlate")


async def test_the_commands_use_presets_prompts_and_tools(tmp_path: Path) -> None:
    actions = Actions(tmp_path)
    assert {"preset", "prompt", "tools"} <= {each.name for each in actions.supported()}
    await actions.type("/preset save-for-model code")
    assert actions.now.preset == "code"
    await actions.type("/set temperature 1")
    assert "used, but changed" in await actions.type("/preset")
    await actions.type("/preset code")
    assert actions.now.neutral() == TERSE
    assert "begin with code" in await actions.type("/preset default code")
    await actions.type("/preset neutral")
    assert actions.now.neutral() == ChatSettings()
    assert "There is no preset" in await actions.type("/preset nothing")
    assert "deleted" in await actions.type("/preset delete code")

    actions.answers = ["German"]
    await actions.type("/prompt translate Good morning")
    assert actions.asked == [("language", "English")]
    assert "into German" in actions.composed
    assert actions.composed.endswith("Good morning")
    actions.answers = ["2", None]
    actions.composed = ""
    await actions.type("/prompt summarize")
    assert actions.composed == ""  # gave up at the second variable

    assert "on   calculator" in await actions.type("/tools calculator, date_time")
    assert actions.now.tools == ("calculator", "date_time")
    await actions.type("/tools off")
    assert list(actions.now.tools) == []
    assert "no tool browser" in await actions.type("/tools browser")
