"""The server in the app's process: one loaded model for the chat and the clients, over a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import openai
import pytest

from localllm.cli.commands.server.stop import wait_for_end
from localllm.cli.local_server.running import running_server
from localllm.engine.fake import FakeEngine, Script
from localllm.engine.messages import GenerateRequest, Token
from localllm.errors import NotFound
from localllm.library.files.settings import Settings
from localllm.library.store.store import Store
from localllm.runtime.load_policy import CHAT
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import OnDemand, PoolModels
from localllm.runtime.runtime import Runtime
from localllm.server.local.app_server import AppServer, Exposed, PortTaken, ServerState
from localllm.server.local.client import connected
from localllm.server.local.place import RunsAlready, server_file
from localllm.server.monitoring.activity import (
    MAX_ANSWER,
    Activity,
    ServedRequest,
    client_name,
    slots_of,
)
from localllm.server.request_record import RequestRecord
from tests.server.server_under_test import MODEL, detect

SECRET_WORDS = "words that only the client knows"


def settings(host: str = "127.0.0.1") -> Settings:
    return Settings(host=host, port=0)


@asynccontextmanager
async def app_server(script: Script, model: Path, data: Path) -> AsyncIterator[AppServer]:
    """A server on the pool of an app that has loaded the only installed model for its chat."""
    store = Store(data, find_starter=lambda: None)
    runtime = Runtime(store=store, detect=detect, start_engine=lambda: FakeEngine(script))
    plan = await runtime.plan(store.adopt(model, name=MODEL), CHAT)
    async for _ in runtime.load(plan):
        pass
    pool = ModelPool(runtime, PoolModels(runtime, (), on_demand=OnDemand(choice=CHAT)))
    server = AppServer(pool, load_settings=settings)
    try:
        yield server
    finally:
        await server.stop(at_once=True)
        await runtime.close()


def client_of(server: AppServer) -> openai.AsyncOpenAI:
    assert server.address is not None
    return openai.AsyncOpenAI(
        base_url=f"{server.address.url}/v1", api_key=server.address.key, max_retries=0
    )


async def test_the_chat_and_a_client_share_one_loaded_model(
    shallow_smollm2: Path, tmp_path: Path
) -> None:
    script = Script(gate=asyncio.Semaphore(0))
    states: list[ServerState] = []
    async with app_server(script, shallow_smollm2, tmp_path) as server:
        server._changed = lambda: states.append(server.state)
        models = server.pool.models
        await server.start()
        runtime, activity = server.pool.runtime, server.activity
        assert activity is not None
        assert [each.name for each in server.pool.listed()] == [MODEL]
        client = client_of(server)
        asked = asyncio.create_task(
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": SECRET_WORDS}]
            )
        )
        await script.opened.get()
        # While the client's answer is computed the chat's is, too, by the same engine.
        request = GenerateRequest(request_id="chat", prompt="Hi")
        async with server.pool.acquire(MODEL), aclosing(runtime.generate(MODEL, request)) as events:
            assert script.gate is not None
            script.gate.release()
            script.gate.release()
            async for event in events:
                if isinstance(event, Token):
                    break
        assert len(script.loads) == 1
        (running,) = activity.running
        assert (running.client, running.model, running.is_running) == (
            "AsyncOpenAI/Python",
            MODEL,
            True,
        )
        watched = activity.answer(running.number)
        assert watched is not None
        assert watched.request.messages is not None
        assert watched.request.messages[-1].content == SECRET_WORDS
        for _ in range(8):
            script.gate.release()
        answer = await asked
        assert answer.choices[0].message.content == "Hello, world."
        await client.close()
        assert activity.running == ()
        (ended, *_) = activity.requests
        assert (ended.status, ended.reason, ended.completion_tokens) == (200, "stop", 4)
        assert activity.answer(running.number) is None
        assert SECRET_WORDS not in repr(activity.requests)
        assert SECRET_WORDS not in repr(vars(activity))
        await server.stop()
        assert states == ["starting", "running", "stopping", "stopped"]
        assert runtime.resident()  # the chat's model stays where it is
        assert server.pool.models is models


async def test_one_answer_can_be_ended_and_stopping_ends_the_rest(
    shallow_smollm2: Path, tmp_path: Path
) -> None:
    script = Script(gate=asyncio.Semaphore(0))
    async with app_server(script, shallow_smollm2, tmp_path) as server:
        await server.start()
        activity, client = server.activity, client_of(server)
        assert activity is not None

        async def ask() -> str:
            try:
                done = await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "Hi"}]
                )
            except openai.APIStatusError as error:
                return str(error.code)
            return str(done.choices[0].message.content)

        first = asyncio.create_task(ask())
        await script.opened.get()
        (running,) = activity.running
        assert await server.end_request(running.number)
        assert await first == "cancelled"
        assert not await server.end_request(running.number)
        second = asyncio.create_task(ask())
        await script.opened.get()
        await server.stop(at_once=True)
        assert await second == "cancelled"
        await client.close()
        assert server.state is ServerState.STOPPED
        assert server.pool.runtime.resident()


async def test_who_comes_without_the_key_is_listed_as_refused(
    shallow_smollm2: Path, tmp_path: Path
) -> None:
    async with app_server(Script(), shallow_smollm2, tmp_path) as server:
        await server.start()
        assert server.address is not None
        assert server.activity is not None
        stranger = openai.AsyncOpenAI(base_url=f"{server.address.url}/v1", api_key="guess")
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
        await stranger.close()
        (refused,) = server.activity.requests
        assert (refused.status, refused.code, refused.is_refused) == (401, "invalid_api_key", True)
        assert server.activity.totals.refused == 1
        assert "guess" not in repr(vars(server.activity))


async def test_there_is_one_server_of_a_user_and_its_program_is_not_ended_by_stop(
    shallow_smollm2: Path, tmp_path: Path
) -> None:
    async with app_server(Script(), shallow_smollm2, tmp_path) as server:
        await server.start()
        found = running_server(None)
        assert found.in_app
        other = AppServer(server.pool, load_settings=settings)
        with pytest.raises(RunsAlready) as refused:
            await other.start()
        assert refused.value.other == found
        assert other.state is ServerState.STOPPED
        async with connected(found) as link:
            (listed,) = await link.models()
            assert listed.name == MODEL
            await link.post("/admin/stop", {})
        assert await asyncio.to_thread(wait_for_end, found, server_file(None), 10.0)
        with pytest.raises(NotFound):
            running_server(None)
        await server.start()  # and again
        assert server.state is ServerState.RUNNING


async def test_what_keeps_it_from_listening_is_told_apart(
    shallow_smollm2: Path, tmp_path: Path
) -> None:
    async with app_server(Script(), shallow_smollm2, tmp_path) as server:
        taken = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
        async with taken:
            port = taken.sockets[0].getsockname()[1]
            with pytest.raises(PortTaken, match=str(port)):
                await server.start(port=port)
        server._load_settings = lambda: settings("0.0.0.0")
        with pytest.raises(Exposed):
            await server.start()
        assert server.state is ServerState.STOPPED
        assert not server_file(None).exists()


# --- what is watched, without a server ---


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_of_whole_seconds_and_of_all_answers_together() -> None:
    clock = Time()
    activity = Activity(clock=clock, wall=clock)
    record = RequestRecord(request_id="r", started=clock.now)
    activity.begin(record, route="/chat/completions", client="curl/8.5.0")
    request = GenerateRequest(request_id="g", prompt="x")
    with activity.generating(record, request) as note:
        for second in range(3):
            clock.now = 1000.0 + second
            for _ in range(second + 1):
                note(Token(request_id="g", text="a" * 999))
                record.completion_tokens += 1
        clock.now = 1003.5
        watched = activity.answer(1)
        assert watched is not None
        assert MAX_ANSWER <= len(watched.answer) < MAX_ANSWER + 1000
    assert activity.rates(4) == (0.0, 1.0, 2.0, 3.0)
    assert activity.rates(4, step_s=2) == (0.5, 2.5)
    assert activity.first_tokens(60) == (0.0, 0.0)
    activity.end(record, status=200)
    assert activity.clients(60) == ("curl",)
    assert activity.totals.requests == 1
    watching = RequestRecord(request_id="h")
    activity.begin(watching, route="/health", client="probe")
    activity.end(watching, status=200)
    assert [each.client for each in activity.requests] == ["curl"]


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("curl/8.5.0", "curl"),
        ("OpenAI/Python 3.57.0", "OpenAI/Python"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "browser"),
        ("opencode/v1.2.3 (linux)", "opencode"),
        ("\x1b[31mred\nline", "red"),
        ("x" * 500, "x" * 24),
        ("", "?"),
    ],
)
def test_a_client_has_a_short_name(agent: str, name: str) -> None:
    assert client_name(agent) == name


def test_slots_hold_the_oldest_requests_of_their_model() -> None:
    def asked(number: int, model: str) -> ServedRequest:
        return ServedRequest(number=number, at=0.0, client="c", route="/x", model=model)

    running = (asked(1, "a"), asked(2, "b"), asked(3, "a"), asked(4, "a"))
    assert slots_of(running, "a", 2) == (running[0], running[2])
    assert slots_of(running, "b", 3) == (running[1], None, None)
    assert slots_of(running, "c", 0) == ()
