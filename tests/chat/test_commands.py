"""The slash commands: how a line is read, completed and run, on a front end of five methods."""

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.commands.actions import ChatActions
from localllm.chat.commands.completion import CompletionSources, complete
from localllm.chat.commands.setting_values import (
    HELP,
    SAMPLING_NAMES,
    SETTING_NAMES,
    format_setting,
    parse_thinking,
    split_setting,
    thinking_text,
    with_setting,
)
from localllm.chat.commands.table import COMMANDS, parse_line, path_argument, question_text
from localllm.chat.schemas import ANY_OBJECT, check_schema, read_schema
from localllm.chat.settings import ChatSettings
from localllm.core.sizing.load import KvType
from localllm.engine.messages import Effort, Sampling, Thinking
from localllm.engine.messages.limits import ranges_of
from localllm.errors import LocalLLMError, UsageError


class Actions(ChatActions):
    """A front end that can begin a new conversation, and no more."""

    def __init__(self) -> None:
        self.now = ChatSettings()
        self.shown: list[str] = []
        self.begun = 0

    @property
    def settings(self) -> ChatSettings:
        return self.now

    async def change_settings(self, settings: ChatSettings) -> None:
        self.now = settings

    async def show(self, text: str) -> None:
        self.shown.append(text)

    async def new(self, argument: str) -> None:
        self.begun += 1

    async def type(self, text: str) -> str:
        """Run a line; return what it showed, or the message of its error."""
        try:
            line = parse_line(text)
            assert line is not None, text
            await self.run(line)
        except LocalLLMError as error:
            return str(error)
        return self.shown[-1] if self.shown else ""


def test_the_table_has_no_name_twice_and_explains_everything() -> None:
    names = [name for each in COMMANDS for name in (each.name, *each.aliases)]
    assert len(names) == len(set(names))
    assert all(each.help for each in COMMANDS)
    assert set(HELP) == set(SETTING_NAMES)
    assert {field.name for field in fields(Sampling)} == set(SAMPLING_NAMES)


@pytest.mark.parametrize(
    "text",
    ["hello", "/etc/hosts is what?", "//help", "/", "/ help", "a /help", "/2", "/usr/bin", "/a.b"],
)
def test_what_is_no_command_is_a_question(text: str) -> None:
    assert parse_line(text) is None


@given(st.text())
def test_any_line_is_a_command_a_question_or_one_line_of_error(text: str) -> None:
    try:
        parse_line(text)
    except UsageError as error:
        assert "\n" not in str(error)
    assert question_text(text) in (text, text[1:])


def test_a_line_that_begins_with_two_slashes_is_sent_with_one() -> None:
    assert question_text("//help me") == "/help me"
    assert question_text("// a comment in C") == "// a comment in C"


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"/modle.*Did you mean /model"):
        parse_line("/modle gemma")
    with pytest.raises(UsageError, match=r"//xyzzy sends it to the model"):
        parse_line("/xyzzy")
    with pytest.raises(UsageError, match="/file PATH"):
        parse_line("/file")
    with pytest.raises(UsageError, match="stands alone"):
        parse_line("/quit now")


async def test_commands_change_the_settings_and_only_those_that_exist_run() -> None:
    actions = Actions()
    assert "cannot be used here" in await actions.type("/export chat.md")
    assert {each.name for each in actions.supported()} == {
        *("help", "new", "system", "set", "context", "think", "schema")
    }
    text = await actions.type("/help")
    assert "/new" in text
    assert "/export" not in text
    assert "/clear" in await actions.type("/help new")

    await actions.type("/clear")
    assert actions.begun == 1
    await actions.type("/system Answer\nin two lines.")
    assert actions.now.system == "Answer\nin two lines."
    await actions.type("/set system off")
    assert actions.now.system == ""
    await actions.type("/set temperature 0.2")
    await actions.type("/set parameter num_ctx 8k")
    await actions.type('/set stop "###" "\\n\\n"')
    await actions.type("/think high")
    assert actions.now == ChatSettings(
        sampling=Sampling(temperature=0.2),
        context=8192,
        stop=("###", "\n\n"),
        thinking=Thinking(effort=Effort.HIGH),
    )
    assert "0 to 5" in await actions.type("/set temperature 9")
    assert "temperature" in await actions.type("/set temprature 1")
    assert "* temperature" in await actions.type("/set")
    await actions.type("/set temperature default")
    assert actions.now.sampling == Sampling()
    await actions.type("/format json")
    assert actions.now.json_schema == ANY_OBJECT
    assert "line 1, column 2" in await actions.type("/schema {]")
    await actions.type('/schema {"const": "a\\"b"}')
    assert actions.now.json_schema == '{"const": "a\\"b"}'
    await actions.type("/schema off")
    assert actions.now.json_schema == ""


numbers = st.sampled_from(sorted(set(ranges_of(Sampling)))).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.integers(0, 2)
        if ranges_of(Sampling)[name].type is int
        else st.floats(0.015625, 1).map(lambda x: round(x, 4)),
    )
)


@given(numbers)
def test_every_number_is_read_as_it_is_written(setting: tuple[str, float]) -> None:
    name, value = setting
    settings = with_setting(ChatSettings(), name, f"{value:g}")
    assert with_setting(ChatSettings(), name, format_setting(settings, name)) == settings


@given(
    st.lists(st.text(min_size=1), max_size=4).map(tuple),
    st.lists(st.tuples(st.integers(0, 9), st.integers(-100, 100).map(float)), max_size=3),
    st.sampled_from([None, *KvType]),
)
def test_texts_biases_and_types_are_read_as_they_are_written(
    stop: tuple[str, ...], biases: list[tuple[int, float]], kv_type: str | None
) -> None:
    settings = ChatSettings(
        stop=stop, sampling=Sampling(logit_bias=tuple(biases)), kv_type=kv_type and str(kv_type)
    )
    again = ChatSettings()
    for name in ("stop", "logit_bias", "kv_type"):
        again = with_setting(again, name, format_setting(settings, name))
    assert again == settings


@given(st.sampled_from(SETTING_NAMES), st.text())
def test_nonsense_for_a_setting_is_one_line_of_error(name: str, text: str) -> None:
    assert split_setting(f"{name} {text}")[0] == name
    try:
        with_setting(ChatSettings(), name, text)
    except UsageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "thinking",
    [Thinking(), Thinking(enabled=True), Thinking(enabled=False), Thinking(effort=Effort.LOW),
     Thinking(enabled=True, budget=512)],
)  # fmt: skip
def test_thinking_is_read_as_it_is_written(thinking: Thinking) -> None:
    assert parse_thinking(thinking_text(thinking)) == thinking


def texts(line: str) -> list[str]:
    sources = CompletionSources(
        models=lambda: ["gemma-4-e2b", "starter"],
        presets=lambda: ["neutral", "precise"],
        tools=lambda: ["calculator", "clock"],
    )
    return [line[: each.start] + each.text for each in complete(line, COMMANDS, sources)]


def test_names_and_arguments_are_completed(tmp_path: Path) -> None:
    assert texts("/mo") == ["/model"]
    assert texts("/ret") == ["/again"]
    assert texts("/model sta") == ["/model starter"]
    assert texts("/set temp") == ["/set temperature"]
    assert texts("/set kv_type q8") == ["/set kv_type q8_0"]
    assert "/preset save" in texts("/preset s")
    assert texts("/preset save pre") == ["/preset save precise"]
    assert texts("/tools calculator c") == ["/tools calculator clock"]
    assert texts("hello") == texts("//he") == texts("/nothing x") == []
    assert "//" not in "".join(texts("/"))
    folder = tmp_path / "files"
    (folder / "a b").mkdir(parents=True)
    (folder / "a.json").touch()
    (folder / ".hidden").touch()
    line = f"/file {folder}{os.sep}"
    assert texts(line) == [f"{line}a b{os.sep}", f"{line}a.json"]
    assert texts(f"{line}.h") == [f"{line}.hidden"]


@given(st.text())
def test_completions_replace_a_part_of_the_line(text: str) -> None:
    for each in complete(f"/set {text}", COMMANDS, CompletionSources()):
        assert 0 <= each.start <= len(text) + 5


def test_a_dropped_path_loses_its_quotes() -> None:
    assert path_argument("'a b.txt'") == path_argument('"a b.txt"') == "a b.txt"
    assert path_argument("it's") == "it's"


def test_a_schema_is_judged_when_it_is_set(tmp_path: Path) -> None:
    file = tmp_path / "person.json"
    file.write_text('{"type": "object", "properties": {"age": {"type": "integer"}}}')
    assert "age" in read_schema(str(file)).text
    assert check_schema('{"type": "object", "not": {"required": ["a"]}}').unenforced == ("`not`",)
    for wrong in ("[1]", "{", "[" * 100_000, "nothing.json", '{"type": "x" '):
        with pytest.raises(UsageError):
            read_schema(wrong)
    assert replace(ChatSettings(), json_schema=ANY_OBJECT) != ChatSettings()
