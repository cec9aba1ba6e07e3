"""docs/settings.md describes the settings of the code, and no others."""

import re
from pathlib import Path

from localllm.core.units import format_bytes
from localllm.library.files.model_options import MODEL_OPTIONS
from localllm.library.files.settings import Setting, Settings, parse, settings_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "settings.md").read_text("utf-8")
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"
HEAD = (
    "| key | meaning | default | allowed | used by | environment |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)


def default(setting: Setting) -> str:
    value = setting.default
    if value is None or value == ():
        return setting.unset
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if setting.field.endswith("_bytes") and isinstance(value, int) and value:
        return f"`{value}` ({format_bytes(value)})"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def row(setting: Setting) -> str:
    cells = (
        f"`{setting.key}`",
        setting.description,
        default(setting),
        setting.allowed,
        setting.used_by,
        f"`{setting.variable}`" if setting.variable else "",
    )
    return f"| {' | '.join(cells)} |\n"


def test_the_table_is_that_of_the_code() -> None:
    table = PAGE[PAGE.index(BEGIN) + len(BEGIN) : PAGE.index(END)]
    assert table == HEAD + "".join(row(setting) for setting in settings_table())


def test_a_cell_cannot_break_the_table() -> None:
    for setting in settings_table():
        assert row(setting).count("|") == HEAD.splitlines()[0].count("|")
        assert row(setting).count("\n") == 1


def test_every_field_has_a_setting_with_a_default_and_a_description() -> None:
    assert {setting.field for setting in settings_table()} == set(Settings.__slots__)
    for setting in settings_table():
        assert setting.description.endswith(".")
        assert setting.used_by
        assert default(setting), setting.key


def test_the_example_is_valid_and_has_every_key() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    parse(example)
    for setting in settings_table():
        key = setting.key.rpartition(".")[2]
        assert re.search(rf"^({key} = |\[{key}\.)", example, re.MULTILINE)


def test_every_variable_of_our_own_is_on_the_page() -> None:
    named = set(re.findall(r"`(LOCALLLM_[A-Z_]+)`", PAGE))
    sources = (ROOT / "localllm").rglob("*.py")
    pattern = re.compile(r'"(LOCALLLM_[A-Z_]+)"')
    read = {name for each in sources for name in pattern.findall(each.read_text("utf-8"))}
    assert named == read
    others = set(re.findall(r"`([A-Z][A-Z_]+)`", PAGE))
    assert {setting.variable for setting in settings_table()} <= others | {None}


def test_the_options_of_a_model_are_those_of_the_code() -> None:
    listed = re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert listed == [(key, option.description) for key, option in MODEL_OPTIONS.items()]
