"""The serve place: it starts and stops a real server, and shows its requests, slots and key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from textual.pilot import Pilot

from localllm.library.files.server_file import find_server
from localllm.library.files.settings import Settings
from localllm.server.local.app_server import AppServer, ServerState
from localllm.server.local.place import server_file
from localllm.server.monitoring.activity import ServedRequest
from localllm.tui.app import LocalLLMApp
from localllm.tui.figures import bar, columns, ranged
from localllm.tui.screens.serve.request import RequestScreen
from localllm.tui.screens.serve.serve import ServeScreen
from localllm.tui.screens.serve.texts import kind_of, request_lines
from tests.tui.actions import screen_text, wait_for_screen, wait_for_text, wait_until
from tests.tui.fixtures import AppFixture

SECRET = "a question of a client"


@asynccontextmanager
async def serve_place(
    app_fixture: AppFixture, size: tuple[int, int] = (120, 40)
) -> AsyncIterator[tuple[Pilot[None], LocalLLMApp]]:
    app = app_fixture.app()
    async with app.run_test(size=size) as pilot:
        app.services._server = AppServer(
            app.services.pool, load_settings=lambda: Settings(host="127.0.0.1", port=0)
        )
        await pilot.press("f7")
        await wait_for_screen(pilot, ServeScreen)
        yield pilot, app


async def test_a_client_is_served_seen_and_cut_off_from_the_app(  # noqa: PLR0915  # one server
    app_fixture: AppFixture,
) -> None:
    gate = app_fixture.script.gate = asyncio.Semaphore(0)
    async with serve_place(app_fixture) as (pilot, app):
        await wait_for_text(pilot, "○ not serving")
        await pilot.press("s")
        await wait_for_text(pilot, "● serving every installed model to this machine only")
        server = app.services.server
        address = server.address
        assert address is not None
        assert f"{address.url}/v1" in screen_text(app)
        assert address.key not in screen_text(app)
        await pilot.press("k")
        await wait_for_text(pilot, address.key)
        await pilot.press("k", "y")
        assert app.clipboard == address.key
        await pilot.press("c")
        assert app.clipboard.splitlines()[0] == f"export OPENAI_BASE_URL={address.url}/v1"

        client = openai.AsyncOpenAI(
            base_url=f"{address.url}/v1", api_key=address.key, max_retries=0
        )
        asked = asyncio.create_task(
            client.chat.completions.create(
                model="starter", messages=[{"role": "user", "content": SECRET}]
            )
        )
        await app_fixture.script.opened.get()
        gate.release()
        await wait_for_text(pilot, "writing")
        assert "AsyncOpenAI" in screen_text(app)
        assert SECRET not in screen_text(app)
        app.show_loaded()
        assert "1 client" in app.frame_state.activities["serve"]
        assert "cut off" in app.frame_state.losses["serve"]
        await pilot.press("enter")
        await wait_for_screen(pilot, RequestScreen)
        await wait_for_text(pilot, SECRET)
        await pilot.press("escape")
        await pilot.press("x")
        with pytest.raises(openai.InternalServerError):
            await asked
        await wait_until(pilot, lambda: "cancelled" in screen_text(app))
        app.show_loaded()
        assert "serve" not in app.frame_state.losses
        await client.close()

        await pilot.press("f3", "f7")  # it goes on while one is elsewhere
        assert server.state is ServerState.RUNNING
        await pilot.press("s")
        await wait_for_text(pilot, "○ not serving")
        assert find_server(server_file(None)) is None
        app.show_loaded()
        assert "serve" not in app.frame_state.activities
        assert app.services.runtime.resident()


async def test_models_are_loaded_pinned_and_unloaded_by_hand(app_fixture: AppFixture) -> None:
    async with serve_place(app_fixture, (80, 24)) as (pilot, app):
        await pilot.press("m")
        await wait_for_text(pilot, "on the disk")
        await pilot.press("enter")
        await wait_for_text(pilot, "in memory")
        await pilot.press("p")
        await wait_for_text(pilot, "pinned")
        await pilot.press("enter")
        await wait_for_text(pilot, "on the disk")
        assert not app.services.runtime.resident()


async def test_another_programs_server_is_shown_and_not_replaced(app_fixture: AppFixture) -> None:
    async with serve_place(app_fixture) as (pilot, app):
        other = AppServer(
            app.services.pool, load_settings=lambda: Settings(host="127.0.0.1", port=0)
        )
        await other.start()
        screen = app.screen
        assert isinstance(screen, ServeScreen)
        screen.find_other()
        await wait_for_text(pilot, "another program of yours serves already")
        await pilot.press("s")
        await wait_for_text(pilot, "Another program serves")
        await pilot.press("right", "enter")
        await wait_until(pilot, lambda: other.state is ServerState.STOPPED)


def test_a_request_is_one_line_at_any_width() -> None:
    request = ServedRequest(
        number=1, at=0.0, client="evil\x1b]0;x\x07[/b]", route="/chat/completions", tools=3,
        prompt_tokens=6100, completion_tokens=212, first_token_s=2.1, decode_tps=14.1,
    )  # fmt: skip
    for width in range(1, 200):
        (line,) = request_lines(request, width)
        assert "\n" not in line.plain
        assert "\x1b" not in line.plain
    refused = ServedRequest(
        number=2, at=0.0, client="browser", route="/", status=403, code="origin_not_allowed"
    )
    assert "refused: a page of another site asked" in request_lines(refused, 80)[0].plain
    assert kind_of("/chat/completions") == "chat"


def test_charts_say_the_same_in_any_width() -> None:
    for width in range(30):
        assert len(columns([1.0] * 100, width)) == width
        assert len(bar(0.5, width)) == width
        assert len(ranged(1, 2, 3, 4, width)) == width
    assert columns([0, 1, 8], 3) == " ▂█"
    assert bar(0.001, 4) == "▓░░░"
    assert bar(2.0, 4) == "▓▓▓▓"
