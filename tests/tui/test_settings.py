"""The settings place: settings changed in place, the privacy page, what is erased and what not."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.hardware import NetworkAccess
from localllm.errors import Offline, UsageError
from localllm.library.files import edit_settings, paths
from localllm.library.files import settings as user_settings
from localllm.library.files.settings import parse, settings_table
from localllm.library.http.client import PROCESS_SWITCH, Access, require_online
from localllm.library.http.connection_file import Purpose
from localllm.library.http.ledger import NetworkLedger
from localllm.runtime.effective_settings import EffectiveSetting, Origin, effective_settings
from localllm.tui.screens.ask_text import AskText
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.settings.privacy import network_lines
from localllm.tui.screens.settings.settings import PRIVACY, SettingsScreen
from localllm.tui.screens.settings.stored import Kind, erase_files, kinds, measured, stored_lines
from localllm.tui.screens.settings.values import (
    SECTIONS,
    SectionHead,
    choices_of,
    details,
    editable_text,
    lock_of,
    next_choice,
    parse_value,
    row_lines,
    section_of,
    settings_rows,
)
from tests.tui.actions import screen_text, wait_for_screen, wait_for_text, wait_until
from tests.tui.fixtures import AppFixture

HOST = "huggingface.co"


def test_every_setting_is_shown_once_below_a_heading() -> None:
    rows = settings_rows(effective_settings())
    shown = [row.setting.key for row in rows if isinstance(row, EffectiveSetting)]
    assert sorted(shown) == sorted(each.key for each in settings_table())
    assert isinstance(rows[0], SectionHead)
    assert {section_of(each) for each in settings_table()} <= set(SECTIONS)
    for row in rows:
        for width in (20, 60, 200):
            assert all("\n" not in line.plain for line in row_lines(row, width))


def test_a_line_is_read_as_the_file_would_be() -> None:
    table = {each.key: each for each in settings_table()}
    for key, text, value in (
        ("serve.port", "8,080", 8080),
        ("serve.pin", "a, b", ("a", "b")),
        ("serve.host", " 127.0.0.1 ", "127.0.0.1"),
        ("context", "", None),
    ):
        assert parse_value(table[key], text) == value
        if value is not None:
            changed = edit_settings.with_value("", key, value)
            assert getattr(parse(changed), table[key].field) == value
    for key, wrong in (("serve.port", "99999"), ("serve.port", "x"), ("serve.keep_alive", "soon")):
        with pytest.raises(UsageError):
            parse_value(table[key], wrong)


@given(st.text(max_size=60), st.sampled_from(settings_table()))
def test_what_is_typed_is_a_value_or_a_sentence(text: str, setting: user_settings.Setting) -> None:
    try:
        value = parse_value(setting, text)
    except UsageError as error:
        assert str(error)
        return
    effective = EffectiveSetting(setting=setting, value=value, origin=Origin.FILE, place="x")
    assert parse_value(setting, editable_text(effective)) == value or choices_of(setting)
    assert details(effective)


def test_choices_go_round_and_what_the_environment_sets_is_locked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (offline,) = (each for each in effective_settings() if each.setting.key == "offline")
    assert next_choice(offline) is True
    assert lock_of(offline) is None
    monkeypatch.setenv("LOCALLLM_OFFLINE", "1")
    (locked,) = (each for each in effective_settings() if each.setting.key == "offline")
    assert "LOCALLLM_OFFLINE" in str(lock_of(locked))
    assert row_lines(locked, 80)[0].plain.startswith("⊘")


def test_the_privacy_page_names_who_was_asked_and_what_went_out(tmp_path: Path) -> None:
    ledger = NetworkLedger(lambda: tmp_path / "connections.json")
    lines = "\n".join(
        line.plain
        for line in network_lines(
            ledger.activity(), (), offline=None, endpoints=(HOST,), problem=None
        )
    )
    assert "nothing was sent to another machine" in lines
    exchange = ledger.begin(HOST, Purpose.DOWNLOAD, name="org/repo")
    exchange.sent(100)
    exchange.received(5 * 2**20)
    exchange.end()
    lines = "\n".join(
        line.plain
        for line in network_lines(
            ledger.activity(), ledger.history(), offline="x", endpoints=(HOST,), problem="full"
        )
    )
    assert '"org/repo" went out' in lines
    assert "5.0 MiB came" in lines
    assert "‹off› (x)" in lines
    assert "full" in lines


def test_what_is_erased_is_ours_and_only_of_its_kind(tmp_path: Path, home: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    cache, logs = paths.cache_dir(), paths.log_dir()
    logs.mkdir(parents=True)
    (logs / "engine.log").write_text("y" * 50)
    (cache / "link").symlink_to(outside)
    (cache / "sized").mkdir()
    (cache / "sized" / "a.json").write_text("z" * 10)
    by_kind = {each.kind: measured(each) for each in kinds()}
    assert by_kind[Kind.LOGS].size_bytes == 50
    erase_files(by_kind[Kind.CACHE])
    assert sorted(cache.iterdir()) == [logs]
    assert (outside / "precious").exists()
    erase_files(by_kind[Kind.LOGS])
    assert list(logs.iterdir()) == []
    erase_files(by_kind[Kind.BATCHES])  # there are none
    assert not by_kind[Kind.MODELS].erasable
    for each in by_kind.values():
        for width in (10, 60, 200):
            assert "\n" not in stored_lines(each, width)[0].plain


async def test_a_setting_is_changed_and_the_network_switched_off_at_once(  # noqa: PLR0915  # one app
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    paths.settings_file().write_text("# mine\nthreads = 2 # few\n")
    app_fixture.network = NetworkAccess(blocked=True, detail="seccomp")
    app_fixture.ledger = NetworkLedger(lambda: tmp_path / "connections.json")
    app_fixture.ledger.begin(HOST, Purpose.METADATA, name="org/repo").end()
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("f9")
        await wait_for_screen(pilot, SettingsScreen)
        await wait_for_text(pilot, "threads")
        exchange = app_fixture.ledger.begin(HOST, Purpose.SEARCH)
        await wait_for_text(pilot, f"● {HOST}")
        await asyncio.to_thread(exchange.end)
        await wait_until(pilot, lambda: "●" not in screen_text(app))
        screen = app.screen
        assert isinstance(screen, SettingsScreen)
        screen.rows.move_to("threads")
        await wait_for_text(pilot, "settings.toml line 2")
        await pilot.press("enter")
        await wait_for_screen(pilot, AskText)
        await pilot.press("9", "9", "9", "9", "enter")
        await wait_for_text(pilot, "must be from 1 to 512")
        await pilot.press(*["backspace"] * 4, "3", "enter")
        await wait_until(pilot, lambda: not isinstance(app.screen, AskText))
        screen.rows.move_to("serve.strict")
        await pilot.press("enter")
        await wait_until(pilot, lambda: user_settings.load().strict)
        assert paths.settings_file().read_text().startswith("# mine\nthreads = 3 # few\n")
        screen.rows.move_to("serve.strict")
        await pilot.press("d")
        await wait_until(pilot, lambda: not user_settings.load().strict)

        try:
            await pilot.press("o")
            await wait_until(pilot, lambda: user_settings.load().offline)
            with pytest.raises(Offline):
                require_online(Access())
            await wait_until(pilot, lambda: "○ offline" in screen_text(app))
            await pilot.press("o")
            await wait_until(pilot, lambda: not user_settings.load().offline)
            await wait_until(pilot, lambda: PROCESS_SWITCH.reason is None)
        finally:
            PROCESS_SWITCH.reason = None

        await pilot.press("right")
        await wait_for_text(pilot, "seccomp")
        assert '"org/repo" went out' in screen_text(app)
        assert screen.page == PRIVACY
        await wait_until(pilot, lambda: bool(screen.stored.rows))
        screen.stored.move_to(Kind.CONNECTIONS)
        await pilot.press("e")
        await wait_for_screen(pilot, Dialog)
        await pilot.press("right", "enter")
        await wait_until(pilot, lambda: "none is known" in screen_text(app))
        assert not (tmp_path / "connections.json").exists()
        screen.stored.move_to(Kind.MODELS)
        await pilot.press("e")
        await wait_for_text(pilot, "Models removes them")
        await pilot.press("right")
        await wait_for_text(pilot, "no telemetry")
    assert json.dumps(app.clipboard) == '""'
