"""`localllm serve` as a user runs it: a process, the real starter model, the official client."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
from click import BadParameter
from click.testing import CliRunner
from gguf import PoolingType
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from localllm.cli import pool_models
from localllm.cli.commands.server import serve
from localllm.engine.fake import FakeEngine
from localllm.errors import DoesNotFit, NotFound, ServeError, UsageError
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.runtime import Runtime
from localllm.server.listen import Address, bound_address, open_socket
from tests.engine import forged_lora, tiny_encoder
from tests.engine.test_embedding import tokens
from tests.server.server_under_test import detect


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running `localllm serve` and the line it printed."""

    process: subprocess.Popen[bytes]
    line: bytes

    @property
    def document(self) -> dict[str, str | list[str]]:
        document: dict[str, str | list[str]] = json.loads(self.line)
        return document

    @property
    def url(self) -> str:
        return str(self.document["url"])

    @property
    def key(self) -> str:
        return Path(str(self.document["key_file"])).read_text().strip()

    @property
    def engine(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def health(self) -> object:
        with urllib.request.urlopen(f"{self.url}/health") as answer:
            return json.load(answer)


@contextlib.contextmanager
def serving(home: Path, *arguments: str, port: int | None = 0) -> Iterator[Served]:
    """Serve in a process; `port` None: the settings say where."""
    at = () if port is None else ("--port", str(port))
    environment = os.environ | {
        f"LOCALLLM_{name}_DIR": str(home / name.lower()) for name in ("DATA", "CONFIG", "CACHE")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", "serve", *at, "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=(home / "stderr").open("wb"),
        env=environment,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (home / "stderr").read_text()
        yield Served(process=process, line=line)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home"), "starter", "--ctx", "1024") as served:
        yield served


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


STORY = user("Tell a very long story about a fox.")


async def read_story(
    client: openai.AsyncOpenAI, order: list[tuple[int, bool]], number: int, tokens: int
) -> str:
    """Stream a story; note in `order` when its first token came and when it ended."""
    text: list[str] = []
    stream = await client.chat.completions.create(
        model="starter", messages=STORY, stream=True, max_tokens=tokens, seed=number
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            if not text:
                order.append((number, False))
            text.append(chunk.choices[0].delta.content)
    order.append((number, True))
    return "".join(text)


def test_the_line_for_programs_has_the_promised_keys(server: Served) -> None:
    assert server.document.keys() == {"url", "models", "key_file"}
    assert server.document["models"] == ["starter"]
    assert server.url.startswith("http://127.0.0.1:")
    if os.name == "posix":
        mode = Path(str(server.document["key_file"])).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    assert server.health() == {"status": "ok", "models": [{"id": "starter", "status": "ready"}]}


def test_greedy_answers_are_the_same_streamed_or_not(server: Served) -> None:
    client = server.client()
    plain = client.chat.completions.create(
        model="starter", messages=user("Name a colour."), temperature=0, max_tokens=8
    )
    stream = client.chat.completions.create(
        model="starter",
        messages=user("Name a colour."),
        temperature=0,
        max_tokens=8,
        stream=True,
    )
    chunks: list[ChatCompletionChunk] = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content != ""
    assert plain.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert (chunks[-1].usage.prompt_tokens_details.cached_tokens or 0) > 0  # asked before
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["timings"]["decode_tps"] > 0


def test_a_seed_gives_the_same_answer_again_and_another_seed_another(server: Served) -> None:
    def answer(seed: int) -> str | None:
        done = server.client().chat.completions.create(
            model="starter", messages=STORY, seed=seed, temperature=1.2, max_tokens=8
        )
        return done.choices[0].message.content

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in (1, 2, 3)}) > 1


def test_a_stop_string_ends_the_answer_before_it(server: Served) -> None:
    done = server.client().chat.completions.create(
        model="starter", messages=STORY, stop=[" "], temperature=0
    )
    assert done.choices[0].finish_reason == "stop"
    assert " " not in (done.choices[0].message.content or "")


def test_a_prompt_that_is_too_long_is_told_both_numbers(server: Served) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        server.client().chat.completions.create(model="starter", messages=user("word " * 2000))
    assert raised.value.code == "context_length_exceeded"
    assert "1024" in raised.value.message
    assert "20" in raised.value.message


async def test_four_stories_are_told_in_one_batch(server: Served) -> None:
    order: list[tuple[int, bool]] = []
    client = server.async_client()
    stories = await asyncio.gather(*(read_story(client, order, n, 12) for n in range(4)))
    assert [over for _, over in order] == [False] * 4 + [True] * 4  # all began before any ended
    assert all(stories)


async def test_after_clients_have_left_the_next_is_answered(server: Served) -> None:
    client = server.async_client()
    for _ in range(5):  # one more than there are slots
        stream = await client.chat.completions.create(
            model="starter", messages=STORY, stream=True, max_tokens=900
        )
        await anext(stream)
        await stream.close()
    done = await client.chat.completions.create(
        model="starter", messages=user("Hello"), max_tokens=2
    )
    assert done.usage is not None
    assert done.usage.completion_tokens == 2


async def test_a_killed_engine_ends_its_streams_and_is_started_again(server: Served) -> None:
    client, order = server.async_client(), list[tuple[int, bool]]()
    engine = server.engine
    streams = [
        await client.chat.completions.create(
            model="starter", messages=STORY, stream=True, max_tokens=900
        )
        for _ in range(4)
    ]
    for stream in streams:
        await anext(stream)
    engine.kill()
    for stream in streams:
        with pytest.raises(openai.APIError) as raised:
            async for _ in stream:
                pass
        assert raised.value.code == "engine_crashed"
    assert server.health() == {
        "status": "degraded",
        "models": [{"id": "starter", "status": "crashed"}],
    }
    assert await read_story(client, order, 1, 8)
    assert server.engine.pid != engine.pid


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_signal_ends_server_and_engine(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with serving(tmp_path, "--ctx", "512", "--parallel", "1") as served:
        engine = served.engine
        served.process.send_signal(number)
        assert served.process.wait(60) == status
        assert served.process.stdout is not None
        assert served.process.stdout.read() == b""  # one line was all
        engine_ended(engine)
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_a_load_with_a_smaller_cache_says_what_it_costs_and_takes(tmp_path: Path) -> None:
    options = ("--kv-type", "q8_0", "--cpu-moe", "1", "--no-kv-offload")
    with serving(tmp_path, "--ctx", "512", "--parallel", "1", *options):
        pass
    message = (tmp_path / "stderr").read_text()
    assert "A q8_0 KV cache can change answers" in message
    assert "cache and computing: estimated" in message
    assert "allocated" in message


def test_a_second_signal_ends_the_answers_that_are_being_written(tmp_path: Path) -> None:
    with serving(tmp_path, "--ctx", "2048", "--parallel", "1") as served:
        engine = served.engine
        stream = served.client().chat.completions.create(
            model="starter", messages=STORY, stream=True, temperature=2, extra_body={"min_p": 0}
        )
        next(stream)
        served.process.send_signal(signal.SIGINT)
        while listens(served.url):  # two signals at once may come in any order
            time.sleep(0.05)
        served.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(openai.APIError):  # "stopping", unless it just ended by itself
            for _ in stream:
                pass
        assert served.process.wait(60) == 130
        engine_ended(engine)
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def listens(url: str) -> bool:
    place = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((place.hostname, place.port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


def engine_ended(engine: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        engine.wait(30)
    # Where nobody collects orphans it stays in the table, dead.
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_a_port_that_is_taken_is_said_before_anything_is_loaded() -> None:
    with open_socket(Address(ip="127.0.0.1", port=0)) as taken:
        port = str(bound_address(taken).port)
        with pytest.raises(ServeError, match=f"port {port}"):
            invoke("--port", port)


def invoke(*arguments: str) -> None:
    CliRunner().invoke(serve.command, arguments, standalone_mode=False, catch_exceptions=False)


def write_settings(config: Path, text: str) -> None:
    config.mkdir(exist_ok=True)
    (config / "settings.toml").write_text(text)


def test_host_and_port_of_the_settings_are_listened_on(tmp_path: Path) -> None:
    with open_socket(Address(ip="127.0.0.1", port=0)) as free:
        port = bound_address(free).port
    text = f'context = 512\n[serve]\nhost = "localhost"\nport = {port}\n'
    write_settings(tmp_path / "config", text)
    with serving(tmp_path, "starter", "--parallel", "1", port=None) as served:
        assert served.url == f"http://127.0.0.1:{port}"
        health = served.health()
    assert health == {"status": "ok", "models": [{"id": "starter", "status": "ready"}]}
    assert "512 tokens of context" in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize(
    ("of_settings", "arguments", "error", "match"),
    [
        ('host = "0.0.0.0"', ["--no-auth"], UsageError, "every machine"),
        ('host = "no.such.host.invalid"', [], ServeError, "no.such.host"),
        ('host = "no.such.host.invalid"', ["--host", "127.0.0.1", "none"], NotFound, "none"),
        ("port = 65536", [], UsageError, "65535"),
        ("port = 1", ["--port", "0", "none"], NotFound, "none"),
        ('allowed_hosts = ["*"]', ["--port", "0"], UsageError, "host.docker.internal"),
        ('cors_origins = ["*"]', ["--port", "0"], UsageError, "http://localhost:3000"),
    ],
)
def test_options_win_over_the_settings_and_both_are_checked_alike(
    home: Path, of_settings: str, arguments: list[str], error: type[Exception], match: str
) -> None:
    write_settings(home / "config", f"[serve]\n{of_settings}\n")
    with pytest.raises(error, match=match):
        invoke(*arguments)


def test_a_port_of_the_settings_that_is_taken_is_said(home: Path) -> None:
    with open_socket(Address(ip="127.0.0.1", port=0)) as taken:
        port = bound_address(taken).port
        write_settings(home / "config", f"[serve]\nport = {port}\n")
        with pytest.raises(ServeError, match=f"port {port}"):
            invoke()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (["--no-auth", "--host", "0.0.0.0"], UsageError, "every machine"),
        (["--no-auth", "--host", "::"], UsageError, "every machine"),
        (["--no-auth", "--api-key-file", "x"], UsageError, "exclude"),
        (["--api-key-file", "/nowhere/x"], UsageError, "cannot be read"),
        (["--host", "no.such.host.invalid"], ServeError, "no.such.host"),
        (["no-such-model"], NotFound, "no-such-model"),
        (["starter", "starter"], UsageError, "Two of the models"),
        (["--parallel", "0"], BadParameter, "1 to 256"),
        (["--parallel", "257"], BadParameter, "1 to 256"),
        (["--parallel", "²"], BadParameter, "1 to 256"),
        (["--port", "65536"], BadParameter, "65535"),
        (["--allowed-host", "a:80"], UsageError, "without a port"),
        (["--cors-origin", "null"], UsageError, "is not an origin"),
        (["--keep-alive", "soon"], UsageError, "Write it like 10m"),
        (["--max-memory", "much"], UsageError, "16GiB"),
        (["--pin", "no-such-model"], UsageError, "Choose from: starter"),
        (["starter", "--max-memory", "1MiB"], DoesNotFit, "--max-memory"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(
    arguments: list[str], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        invoke("--port", "0", *arguments)


def test_an_embedding_model_serves_vectors_and_no_answers(tmp_path: Path) -> None:
    path = tiny_encoder.encoder(tmp_path / "bert.gguf")
    with serving(tmp_path, str(path), "--ctx", "512") as served, served.client() as client:
        answer = client.embeddings.create(model="bert", input=["the fox runs", "sea"])
        with pytest.raises(openai.BadRequestError, match="writes no answers"):
            client.chat.completions.create(model="bert", messages=user("Hi"))
        with pytest.raises(openai.BadRequestError, match=r"input\[0\] has 62 tokens") as refused:
            client.embeddings.create(model="bert", input="fox " * 60)
        assert refused.value.param == "input"
    for vector in (each.embedding for each in answer.data):
        assert sum(number**2 for number in vector) == pytest.approx(1, abs=1e-5)
    assert answer.usage.prompt_tokens == 8


def test_a_reranker_serves_rankings(tmp_path: Path) -> None:
    path = tmp_path / "rank.gguf"
    tiny_encoder.encoder(path, pooling=PoolingType.RANK, classifier=True)
    with serving(tmp_path, str(path)) as served, served.client() as client:
        ranking = client.post(
            "/rerank",
            cast_to=object,
            body={"model": "rank", "query": "red fox", "documents": ["fox runs", "sea"]},
        )
    assert isinstance(ranking, dict)
    assert sorted(each["index"] for each in ranking["results"]) == [0, 1]
    expected = [
        tiny_encoder.score([*tokens("red fox"), *tokens(text)[1:-1]])
        for text in ("fox runs", "sea")
    ]
    found = {each["index"]: each["relevance_score"] for each in ranking["results"]}
    assert [found[0], found[1]] == pytest.approx(expected, abs=0.02)


def test_a_model_that_answers_can_be_loaded_for_embeddings_instead(tmp_path: Path) -> None:
    with serving(tmp_path, "starter", "--ctx", "256", "--embeddings") as served:
        client = served.client()
        near, far, query = (
            each.embedding
            for each in client.embeddings.create(
                model="starter",
                input=[
                    "A cat sits on the mat.",
                    "Bond yields fell on Tuesday.",
                    "The cat sat down.",
                ],
            ).data
        )
    assert sum(map(float.__mul__, near, query)) > sum(map(float.__mul__, far, query))


def test_adapters_are_chosen_by_each_request(tmp_path: Path, smollm2: Path) -> None:
    adapter = forged_lora.forge(tmp_path / "bent.gguf", smollm2, size=0.2)
    with serving(tmp_path, "starter", "--ctx", "256", "--lora", f"{adapter}:0") as served:
        client = served.client()
        texts = [
            client.chat.completions.create(
                model="starter", messages=user("Name a colour."), temperature=0, max_tokens=8,
                extra_body={"lora": lora} if lora is not None else {},
            ).choices[0].message.content
            for lora in (None, [], [{"id": 0, "scale": 1}])
        ]  # fmt: skip
        listed = client.get("/../lora-adapters", cast_to=object)
        with pytest.raises(openai.BadRequestError, match="no LoRA adapter 1"):
            client.chat.completions.create(
                model="starter",
                messages=user("Hi"),
                extra_body={"lora": [{"id": 1, "scale": 1}]},
            )
    assert texts[0] == texts[1] != texts[2]
    assert listed == [{"id": 0, "path": "bent.gguf", "scale": 0.0, "model": "starter"}]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["starter", "--pooling", "cls"], "--pooling belongs to --embeddings"),
        (["starter", "--embeddings", "--pooling", "rank"], "no classifier"),
        (["starter", "other", "--lora", "a.gguf"], "--lora belongs to one model"),
    ],
)
def test_what_no_model_can_be_loaded_for_is_said(arguments: list[str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        invoke("--port", "0", "--no-auth", *arguments)


def runtime_with(tmp_path: Path, starter: InstalledModel | None, *files: Path) -> Runtime:
    store = Store(tmp_path / "library", find_starter=lambda: starter)
    for number, file in enumerate(files):
        store.adopt(file, name=f"model-{number}")
    return Runtime(store=store, detect=detect, start_engine=FakeEngine)


def test_without_a_name_the_only_model_is_loaded_and_of_several_none(
    tmp_path: Path, smollm2: Path, gemma3: Path
) -> None:
    with pytest.raises(NotFound, match="import"):
        pool_models.choose_models(runtime_with(tmp_path / "0", None), ())
    only = runtime_with(tmp_path / "1", None, smollm2)
    assert [model.name for model in pool_models.choose_models(only, (), only=True)] == ["model-0"]
    two = runtime_with(tmp_path / "3", None, smollm2, gemma3)
    assert pool_models.choose_models(two, ()) == ()
    with pytest.raises(UsageError, match="model-0, model-1"):
        pool_models.choose_models(two, (), only=True)
