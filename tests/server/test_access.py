"""Named keys: what each may do, that only hashes are kept, and that a change counts at once."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.fake import Script
from localllm.errors import NotFound, StoreError, UsageError
from localllm.server import app as api
from localllm.server.access.key_ring import KeyRing
from localllm.server.access.named_keys import KeyFile, digest_of, parse_expiry
from localllm.server.access.rate_limits import KeyUsage, TokenWindow
from localllm.server.access.scopes import plain_path, route_of, scopes_of
from localllm.server.batch.service import BatchService
from localllm.server.batch.store import BatchStore
from localllm.server.errors import ApiError
from localllm.server.request_record import OWNER, KeyLimits, Scope
from localllm.server.served_models import ServedModels
from tests.server.server_under_test import (
    KEY,
    MODEL,
    HttpResponse,
    ServerUnderTest,
    make_pool,
    make_runtime,
    start_server,
)

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


def key_file(directory: Path) -> KeyFile:
    return KeyFile(directory / "keys.json", directory / "keys-used.json")


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return key_file(tmp_path / "config")


@pytest.fixture
async def closed(
    keys: KeyFile, script: Script, smollm2: Path, tmp_path: Path
) -> AsyncIterator[ServerUnderTest]:
    """A server that takes KEY and the named keys of `keys`."""
    ring = KeyRing(KEY, keys)
    async with start_server(
        script, smollm2, tmp_path / "data", key=ring, aliases={"fast": MODEL}
    ) as server:
        yield server


async def get(server: ServerUnderTest, path: str, key: str) -> HttpResponse:
    return await server.request(f"GET {path}", key=key)


async def post(server: ServerUnderTest, key: str) -> HttpResponse:
    return await server.request("POST /v1/chat/completions", json.dumps(CHAT).encode(), key=key)


# --- scopes ---


async def test_every_route_has_a_scope(script: Script, smollm2: Path, tmp_path: Path) -> None:
    runtime = await make_runtime(script, smollm2, tmp_path / "data")
    models = ServedModels(make_pool(runtime))
    routers = [api._status_router(models), *(each.router(models) for each in api.DIALECTS)]
    paths = {str(getattr(route, "path", "")) for router in routers for route in router.routes}
    await runtime.close()
    assert len(paths) > 10
    without = sorted(path for path in paths if route_of(path) is None)
    assert without == [], "enter these paths in server/access/scopes.py"


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/chat/completions", Scope.INFER),
        ("//v1//v1/chat/completions/", Scope.INFER),
        ("/v1/embeddings", Scope.EMBED),
        ("/v1/rerank", Scope.EMBED),
        ("/metrics", Scope.METRICS),
        ("//metrics/", Scope.METRICS),
        ("/v1/metrics", Scope.METRICS),
        ("/admin/anything", Scope.ADMIN),
        ("//admin//load", Scope.ADMIN),
        ("/models/load", Scope.ADMIN),
        ("/v1/models/unload", Scope.ADMIN),
        ("/nowhere", Scope.INFER),
        ("/v12/metrics", Scope.INFER),
    ],
)
def test_a_path_is_looked_up_as_the_router_reads_it(path: str, scope: Scope) -> None:
    assert scopes_of(path) == {scope}


@given(st.lists(st.sampled_from(["", "v1", "models", "load", "admin", "metrics", "x"]), max_size=6))
def test_stray_slashes_change_no_scope(steps: list[str]) -> None:
    path = "/".join(["", *steps])
    assert scopes_of(path) == scopes_of(plain_path(path))


async def test_a_key_does_what_its_scopes_say(closed: ServerUnderTest, keys: KeyFile) -> None:
    made = {scope: keys.create(f"k-{scope}", now=0.0, scopes=(scope,))[1] for scope in Scope}
    allowed = {
        scope: [
            (await post(closed, text)).status,
            (await get(closed, "/metrics", text)).status,
            (await get(closed, "/v1/models", text)).status,
        ]
        for scope, text in made.items()
    }
    assert allowed == {
        Scope.INFER: [200, 403, 200],
        Scope.EMBED: [403, 403, 200],
        Scope.ADMIN: [403, 403, 403],
        Scope.METRICS: [403, 200, 403],
    }
    refused = await post(closed, made[Scope.METRICS])
    assert refused.error == (None, "insufficient_scope")
    assert b"`infer`" in refused.body


async def test_the_owner_may_do_everything(closed: ServerUnderTest) -> None:
    assert (await get(closed, "/metrics", KEY)).status == 200
    assert (await post(closed, KEY)).status == 200


@pytest.mark.parametrize("header", ["Authorization: bearer ", "x-api-key: ", "api-key: "])
async def test_a_key_comes_in_the_headers_of_the_common_clients(
    closed: ServerUnderTest, keys: KeyFile, header: str
) -> None:
    text = keys.create("bob", now=0.0)[1]
    head = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{header}{text}\r\n"
    assert b" 200 " in await closed.raw(head.encode() + b"Connection: close\r\n\r\n")


# --- models ---


async def test_a_key_sees_and_uses_its_models_only(closed: ServerUnderTest, keys: KeyFile) -> None:
    other = keys.create("other", now=0.0, models=("another-model",))[1]
    own = keys.create("own", now=0.0, models=(MODEL,))[1]
    by_alias = keys.create("by-alias", now=0.0, models=("fast",))[1]
    refused = await post(closed, other)
    assert (refused.status, refused.error) == (403, ("model", "model_not_allowed"))
    assert MODEL.encode() not in refused.body
    assert (await get(closed, "/v1/models", other)).document["data"] == []
    assert (await get(closed, f"/v1/models/{MODEL}", other)).status == 403
    for key in (own, by_alias):
        assert (await post(closed, key)).status == 200
        assert {each["id"] for each in (await get(closed, "/v1/models", key)).items} == {
            MODEL,
            "fast",
        }
        assert (await get(closed, "/v1/models/fast", key)).status == 200


# --- the file ---


async def test_a_key_counts_and_stops_counting_without_a_restart(
    closed: ServerUnderTest, keys: KeyFile
) -> None:
    key, text = keys.create("bob", now=0.0)
    assert (await get(closed, "/v1/models", text)).status == 200
    keys.revoke("bob")
    assert (await get(closed, "/v1/models", text)).status == 401
    again = keys.create("bob", now=0.0)[1]
    assert (await get(closed, "/v1/models", again)).status == 200
    assert (await get(closed, "/v1/models", text)).status == 401
    assert key.sha256 != digest_of(again).hex()


async def test_a_revoked_key_does_not_cut_the_answer_that_is_being_written(
    closed: ServerUnderTest, keys: KeyFile, script: Script
) -> None:
    text = keys.create("bob", now=0.0)[1]
    script.gate = asyncio.Semaphore(1)
    client = closed.client(text)
    stream = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hello"}], stream=True
    )
    await anext(aiter(stream))
    keys.revoke("bob")
    for _ in range(8):
        script.gate.release()
    ends = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
    assert ends[-1] == "stop"


def test_only_hashes_are_on_the_disk(keys: KeyFile) -> None:
    key, text = keys.create("bob", now=0.0)
    assert key.sha256 == digest_of(text).hex()
    for file in keys.path.parent.iterdir():
        assert text.encode() not in file.read_bytes()
    if os.name == "posix":
        assert keys.path.stat().st_mode & 0o777 == 0o600


def test_keys_that_are_made_at_once_are_all_there(keys: KeyFile) -> None:
    barrier = threading.Barrier(8)

    def make(number: int) -> None:
        barrier.wait()
        key_file(keys.path.parent).create(f"key-{number}", now=0.0)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in keys.load()} == {f"key-{number}" for number in range(8)}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'{"schema":2,"keys":[]}', b'{"schema":1,"keys":[{}]}', b"\xff",
        b'{"schema":1,"keys":[{"name":"a","sha256":"zz","created":0}]}',
    ],
)  # fmt: skip
def test_a_damaged_file_lets_nobody_in_but_the_owner(keys: KeyFile, content: bytes) -> None:
    text = keys.create("bob", now=0.0)[1]
    ring = KeyRing(KEY, keys)
    assert ring.find([text]) is not None
    keys.path.write_bytes(content)
    assert ring.find([text]) is None
    assert ring.find([KEY]) is not None
    with pytest.raises(StoreError, match="damaged"):
        keys.create("eve", now=0.0)
    assert keys.path.read_bytes() == content


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_file_that_others_can_write_lets_nobody_in(keys: KeyFile) -> None:
    text = keys.create("bob", now=0.0)[1]
    ring = KeyRing(KEY, keys)
    assert ring.find([text]) is not None
    keys.path.chmod(0o620)
    assert ring.find([text]) is None


def test_a_key_expires(keys: KeyFile) -> None:
    text = keys.create("bob", now=0.0, expires=100.0)[1]
    now = 99.0
    ring = KeyRing(KEY, keys, clock=lambda: now)
    assert ring.find([text]) is not None
    now = 100.0
    with pytest.raises(ApiError, match="bob has expired"):
        ring.find([text])


def test_what_a_key_may_do_is_known_by_its_identity_until_it_ends(keys: KeyFile) -> None:
    now = 0.0
    ring = KeyRing(KEY, keys, lambda: now)
    key, text = keys.create("bob", now=now, models=(MODEL,), expires=100.0)
    caller = ring.find([text])
    assert caller is not None
    assert ring.caller_of(caller.identity) == caller
    assert ring.caller_of(OWNER.identity) == OWNER
    assert ring.caller_of("bob") is None  # another key of this name
    now = 100.0
    assert ring.caller_of(caller.identity) is None
    now = 0.0
    keys.revoke(key.name)
    assert ring.caller_of(caller.identity) is None


async def test_the_lines_of_a_batch_count_against_the_limits_of_its_key(
    keys: KeyFile, script: Script, smollm2: Path, tmp_path: Path
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    batches = BatchService(BatchStore(directory=tmp_path / "batches"), sleep)
    _, text = keys.create("bob", now=0.0, limits=KeyLimits(requests=1))
    ring = KeyRing(KEY, keys)
    async with start_server(
        script, smollm2, tmp_path / "data", key=ring, batches=batches
    ) as server:
        client = server.client(text)
        lines = [
            {"custom_id": str(number), "url": "/v1/chat/completions", "body": CHAT}
            for number in range(3)
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        made = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        while (end := await client.batches.retrieve(made.id)).status != "completed":
            assert end.status in {"validating", "in_progress", "finalizing"}
        assert end.request_counts is not None
        assert end.request_counts.completed == 3
        assert len(script.requests) == 3
        assert waits
        assert set(waits) == {1.0}  # 429, with Retry-After
        await batches.close()


def test_the_last_use_is_written_for_keys_that_are_there(keys: KeyFile) -> None:
    now = 1000.0
    ring = KeyRing(KEY, keys, clock=lambda: now)
    bob, text = keys.create("bob", now=0.0)
    ring.find([text])
    assert ring.take_used() is None  # not with every request
    now = 1061.0
    ring.find([text])
    ring.write_used(ring.take_used())
    assert keys.last_used() == {bob.sha256: 1061.0}
    keys.revoke("bob")
    ring.find([text])
    eve, other = keys.create("eve", now=0.0)
    ring.find([other])
    ring.write_used()
    assert keys.last_used() == {eve.sha256: 1061.0}


def test_names_that_would_mislead_are_refused(keys: KeyFile) -> None:
    keys.create("Bob", now=0.0)
    for name in ("bob", "owner", "OWNER", "", "a b", "a\nb", "-x", "x" * 65):
        with pytest.raises(UsageError):
            keys.create(name, now=0.0)
    with pytest.raises(NotFound, match="Bob"):
        keys.revoke("alice")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12h", 43_200), ("30d", 2_592_000), ("8w", 4_838_400), ("1970-01-02", 172_800)],
)
def test_an_expiry_is_a_time_or_a_day(text: str, seconds: int) -> None:
    assert parse_expiry(text, 0.0) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0d", "1969-12-31", "tomorrow", "9" * 99])
def test_an_expiry_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--expires"):
        parse_expiry(text, 0.0)


# --- limits ---


async def test_requests_at_once_are_limited_by_key(
    closed: ServerUnderTest, keys: KeyFile, script: Script
) -> None:
    one = keys.create("one", now=0.0, limits=KeyLimits(requests=1))[1]
    script.gate = asyncio.Semaphore(1)
    stream = await closed.client(one).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hello"}], stream=True
    )
    refused = await post(closed, one)
    assert (refused.status, refused.error) == (429, (None, "rate_limit_exceeded"))
    assert "retry-after: 1" in refused.head.lower()
    assert (await get(closed, "/v1/models", one)).status == 200  # not what generates
    for _ in range(8):
        script.gate.release()
    async for _ in stream:
        pass
    script.gate = None
    assert (await post(closed, one)).status == 200


async def test_tokens_are_limited_by_key_and_their_wait_is_named(
    closed: ServerUnderTest, keys: KeyFile
) -> None:
    some = keys.create("some", now=0.0, limits=KeyLimits(tokens_per_minute=1))[1]
    assert (await post(closed, some)).status == 200
    refused = await post(closed, some)
    assert refused.status == 429
    assert b"1 tokens a minute" in refused.body
    assert "retry-after: 6" in refused.head.lower()
    assert (await post(closed, KEY)).status == 200  # each key has its own


_USES = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=20)


@given(_USES, st.integers(1, 200))
def test_the_wait_is_exact_when_nothing_else_is_used(
    uses: list[tuple[float, int]], limit: int
) -> None:
    window, now = TokenWindow(limit), 1000.0
    spent: list[tuple[float, int]] = []
    for pause, tokens in uses:
        now += pause
        window.add(tokens, now)
        spent.append((now, tokens))
    recent = sum(tokens for when, tokens in spent if when > now - 60)
    assert window.used(now) >= recent
    assert window.used(now) <= sum(tokens for when, tokens in spent if when > now - 62)
    wait = window.wait_s(now)
    assert (wait == 0) == (window.used(now) < limit)
    assert wait <= 61
    if wait:
        assert window.used(now + wait - 0.001) >= limit
        assert window.used(now + wait) < limit


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_never_more_requests_run_than_a_key_may_have(most: int, begins: list[bool]) -> None:
    usage = KeyUsage()
    for begin in begins:
        if begin:
            try:
                usage.admit(KeyLimits(requests=most), 0.0)
            except ApiError as error:
                assert error.status == 429
                assert usage.running == most
        elif usage.running:
            usage.release()
        assert 0 <= usage.running <= most
