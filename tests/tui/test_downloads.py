"""The app in front of a whole Hub on loopback: nothing from the key to the socket is made up."""

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.library.files import paths
from localllm.tui.downloads import HubSource
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.home.home import HomeScreen
from localllm.tui.screens.models.download import DownloadScreen, Phase
from tests.cli.hub_processes import renamed
from tests.hub import Drop, FakeHub, Stall
from tests.tui.actions import wait_for_screen, wait_for_text, wait_until
from tests.tui.fake_suggestions import FakeSuggestions, fake_plans
from tests.tui.fixtures import AppFixture
from tests.tui.test_download import accept, begin, open_offer, phase, status, wait_for_phase

REPO = "unsloth/Qwen3-0.6B-GGUF"
FILE = "Qwen3-0.6B-Q4_1.gguf"
HALF = 40 << 20


@pytest.fixture
def app_fixture(
    app_fixture: AppFixture, hub: FakeHub, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> AppFixture:
    """One suggestion, of the real catalogue; its repository holds a small real model."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.add_repo(REPO, {FILE: renamed(smollm2)})
    plan, *_, rowan = fake_plans(smollm2)
    candidate = replace(
        plan.candidate,
        model="qwen3-0.6b",
        quant="Q4_1",
        file=f"{REPO}:Q4_1",
        size_bytes=smollm2.stat().st_size,
    )
    app_fixture.suggest = FakeSuggestions(plans=(replace(plan, candidate=candidate), rowan))
    app_fixture.source = HubSource()
    app_fixture.data_dir = paths.data_dir()
    return app_fixture


def fetched(app_fixture: AppFixture) -> list[Path]:
    return [model.path for model in app_fixture.store.installed() if model.name != "starter"]


async def test_from_a_suggestion_to_a_conversation(app_fixture: AppFixture, hub: FakeHub) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_offer(pilot)
        await wait_for_text(pilot, f"{REPO} on {hub.endpoint.removeprefix('http://')}")
        await wait_for_text(pilot, "Apache-2.0")  # of the catalogue
        assert hub.requests == ()
        await accept(pilot)
        await wait_for_phase(pilot, Phase.DONE)
        await wait_for_text(pilot, "The sha256 is that of the Hub.")
        await accept(pilot)
        await wait_for_screen(pilot, ChatScreen)
    (file,) = fetched(app_fixture)
    listed = hub.file(REPO, hub.repos[REPO].head, FILE)
    assert listed is not None
    assert hashlib.sha256(file.read_bytes()).hexdigest() == listed.sha256


async def test_a_download_that_was_stopped_goes_on_where_it_was(
    app_fixture: AppFixture, hub: FakeHub
) -> None:
    stall = Stall(after=HALF, until=threading.Event())
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_offer(pilot)
        hub.faults.add(stall)
        await accept(pilot)
        await wait_until(pilot, stall.reached.is_set)
        await wait_for_phase(pilot, Phase.RUNNING)
        await pilot.press("right", "enter")
        await wait_for_phase(pilot, Phase.STOPPED)
        stall.until.set()
        fetched_before = len(hub.cdn_requests)
        await accept(pilot)
        await wait_for_phase(pilot, Phase.DONE)
        (rest,) = hub.cdn_requests[fetched_before:]
        first = int((rest.range or "").removeprefix("bytes=").partition("-")[0])
        assert first > 0
    assert len(fetched(app_fixture)) == 1


async def test_a_connection_that_breaks_is_nothing_to_worry_about(
    app_fixture: AppFixture, hub: FakeHub
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        hub.faults.add(Drop(HALF))
        await accept(pilot)
        await wait_for_phase(pilot, Phase.DONE)
    assert len(fetched(app_fixture)) == 1


async def test_quitting_in_the_middle_leaves_what_came(
    app_fixture: AppFixture, hub: FakeHub
) -> None:
    stall = Stall(after=HALF, until=threading.Event())
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        hub.faults.add(stall)
        await accept(pilot)
        await wait_until(pilot, stall.reached.is_set)
        await pilot.press("ctrl+q")
    stall.until.set()
    assert app.return_code == 0
    assert fetched(app_fixture) == []
    (part,) = paths.hub_dir(paths.data_dir()).rglob("*.part")
    assert part.stat().st_size > 0


async def test_a_gated_repository_says_which_page_to_open(
    app_fixture: AppFixture, hub: FakeHub
) -> None:
    hub.repos[REPO] = replace(hub.repos[REPO], gated="manual")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_phase(pilot, Phase.FAILED)
        assert f"{hub.endpoint}/{REPO}" in status(app)  # the page to open
        assert "token" in status(app)
        await pilot.press("escape")
        await wait_for_screen(pilot, HomeScreen)


async def test_switched_off_while_the_app_runs_it_is_off(
    app_fixture: AppFixture, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_offer(pilot)
        monkeypatch.setenv("LOCALLLM_OFFLINE", "1")
        await accept(pilot)
        await wait_for_phase(pilot, Phase.FAILED)
        assert "LOCALLLM_OFFLINE" in status(app)
        monkeypatch.delenv("LOCALLLM_OFFLINE")
        await accept(pilot)
        await wait_for_screen(pilot, DownloadScreen)
        await wait_until(pilot, lambda: phase(app) in (Phase.RUNNING, Phase.DONE))
    assert hub.requests != ()


async def test_a_hub_that_is_not_there_is_said(app_fixture: AppFixture, hub: FakeHub) -> None:
    app = app_fixture.app()
    hub.__exit__(None, None, None)
    async with app.run_test() as pilot:
        await begin(pilot)
        await wait_for_phase(pilot, Phase.FAILED)
        assert hub.endpoint.removeprefix("http://") in status(app)
        assert "Traceback" not in status(app)
