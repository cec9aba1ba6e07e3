"""Metrics, the access log, request ids and trace context: facts of requests, never content."""

import asyncio
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from localllm.engine.fake import Script
from localllm.engine.messages import CacheMiss, CacheUsage, HostCacheStats, MissReason
from localllm.errors import HubError, Offline, UsageError
from localllm.library.files.settings import Settings
from localllm.library.http.export import open_exporter
from localllm.server.app import Monitoring
from localllm.server.monitoring.access_log import AccessLog, Exchange, access_line
from localllm.server.monitoring.metrics import Rate, ServerMetrics
from localllm.server.monitoring.middleware import request_id_of
from localllm.server.monitoring.trace_context import parse_traceparent
from localllm.server.monitoring.tracing import Tracer
from localllm.server.request_record import OWNER, RequestRecord
from tests.server.server_under_test import (
    KEY,
    MODEL,
    HttpResponse,
    ServerUnderTest,
    start_server,
)

SECRET = "the-secret-of-the-question"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"

LLAMA_SERVER = {
    "prompt_tokens_total", "prompt_tokens_cached_total", "prompt_seconds_total",
    "tokens_predicted_total", "tokens_predicted_seconds_total", "n_decode_total", "n_tokens_max",
    "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total",
    "prompt_tokens_seconds", "predicted_tokens_seconds", "requests_processing",
    "requests_deferred", "n_busy_slots_per_decode",
}  # fmt: skip
"""The names of llama-server's /metrics (tools/server/server-task.cpp, b10519) that are here."""


class Collected:
    """A collector's end: the batches that were sent to it."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def spans() -> Collected:
    return Collected()


@pytest.fixture
async def watched(
    script: Script, smollm2: Path, tmp_path: Path, log_file: Path, spans: Collected
) -> AsyncIterator[ServerUnderTest]:
    """A server with an access log and a tracer."""
    log, tracer = AccessLog(log_file), Tracer(spans.batches.append)
    monitoring = Monitoring(log=log, tracer=tracer)
    async with start_server(script, smollm2, tmp_path / "data", monitoring=monitoring) as server:
        yield server
    await asyncio.to_thread(tracer.close)
    log.close()


async def chat(server: ServerUnderTest, *lines: str, path: str = "/v1/chat/completions") -> bytes:
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": SECRET}]})
    head = [
        f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}",
        "Content-Type: application/json", f"Content-Length: {len(body)}", *lines,
    ]  # fmt: skip
    return await server.raw("\r\n".join([*head, "Connection: close", "", body]).encode())


async def metrics(server: ServerUnderTest) -> dict[str, float]:
    """The samples of /metrics by name and labels, as Prometheus's own parser reads them."""
    answer: HttpResponse = await server.request("GET /metrics")
    assert answer.status == 200
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def lines(log_file: Path) -> str:
    return log_file.read_text()


def entries(log_file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines(log_file).splitlines()]


# --- metrics ---


async def test_the_metrics_count_what_was_answered(watched: ServerUnderTest) -> None:
    before = await metrics(watched)
    assert {f"llamacpp:{name}" for name in LLAMA_SERVER} <= before.keys()
    await chat(watched)
    await chat(watched)
    after = await metrics(watched)
    assert after[f"localllm_completion_tokens_total model={MODEL}"] == 8
    assert after["llamacpp:tokens_predicted_total"] == 8
    assert after["llamacpp:n_decode_total"] == 8
    assert after["llamacpp:n_busy_slots_per_decode"] == 1
    assert after["llamacpp:prompt_tokens_total"] > 0
    assert after["llamacpp:predicted_tokens_seconds"] == pytest.approx(40)
    assert after["llamacpp:tokens_predicted_seconds_total"] == pytest.approx(6 / 40)
    assert after[f"localllm_time_to_first_token_seconds_count model={MODEL}"] == 2
    assert after[f"localllm_time_per_output_token_seconds_sum model={MODEL}"] == pytest.approx(0.05)
    assert after[f"localllm_generations_total model={MODEL} reason=stop"] == 2
    chats = "localllm_http_requests_total method=POST route=/chat/completions status=200"
    assert after[chats] == 2
    assert after["localllm_key_requests_total key=owner"] >= 3
    cache = f"device=CPU model={MODEL} part=cache"
    assert after[f"localllm_memory_allocated_bytes {cache}"] == 94_371_840
    assert after[f"localllm_memory_estimated_bytes {cache}"] > 0
    assert after[f"localllm_model_loaded model={MODEL}"] == 1


async def test_what_the_cache_had_is_in_the_answer_and_counted(
    watched: ServerUnderTest, script: Script
) -> None:
    miss = CacheMiss(reason=MissReason.TOOLS_CHANGED, position=1204, lost_tokens=830)
    script.cache = CacheUsage(own=1000, shared=204, host=20, computed=900, miss=miss)
    script.host_cache = HostCacheStats(states=3, size_bytes=4096, evicted=5)
    body = {"model": MODEL, "messages": [{"role": "user", "content": SECRET}]}
    openai = (await watched.post("/v1/chat/completions", body)).document["timings"]
    native = (await watched.post("/completion", {"prompt": SECRET})).document["timings"]
    assert isinstance(openai, dict)
    assert isinstance(native, dict)
    assert openai["cache"] == native["cache"] == dataclasses.asdict(script.cache)
    after = await metrics(watched)
    sources = "localllm_prompt_source_tokens_total model={} source={}"
    assert after[sources.format(MODEL, "shared")] == 408
    assert after[sources.format(MODEL, "computed")] == 1800
    assert after[f"localllm_cache_misses_total model={MODEL} reason=tools_changed"] == 2
    assert after[f"localllm_cache_lost_tokens_total model={MODEL} reason=tools_changed"] == 1660
    assert after[f"localllm_host_cache_states model={MODEL}"] == 3
    assert after[f"localllm_host_cache_bytes model={MODEL}"] == 4096
    assert after[f"localllm_host_cache_evictions_total model={MODEL}"] == 5


async def test_requests_that_wait_and_that_run_are_told_apart(
    watched: ServerUnderTest, script: Script
) -> None:
    script.prompt_gate, script.gate = asyncio.Semaphore(0), asyncio.Semaphore(0)
    answering = asyncio.create_task(chat(watched))
    await script.opened.get()
    waits = await metrics(watched)
    assert (waits["llamacpp:requests_deferred"], waits["llamacpp:requests_processing"]) == (1, 0)
    script.prompt_gate.release()
    script.gate.release()
    while not (runs := await metrics(watched))["llamacpp:requests_processing"]:
        pass
    assert runs["llamacpp:requests_deferred"] == 0
    for _ in range(8):
        script.prompt_gate.release()
        script.gate.release()
    await answering
    ended = await metrics(watched)
    assert ended["llamacpp:requests_processing"] == ended["llamacpp:requests_deferred"] == 0


async def test_a_crash_is_counted_once(watched: ServerUnderTest, script: Script) -> None:
    script.crash_after = 1
    await chat(watched)
    counted = await metrics(watched)
    assert counted[f"localllm_engine_crashes_total model={MODEL}"] == 1
    assert counted["llamacpp:requests_processing"] == 0
    assert f"localllm_model_loaded model={MODEL}" not in counted


async def test_no_label_is_a_clients_text(watched: ServerUnderTest) -> None:
    await chat(watched, path=f"/{SECRET}")
    await watched.request(f"GET /v1/models/{SECRET}")
    await watched.request(f"{SECRET} /v1/models")
    answer = await watched.request("GET /metrics")
    assert SECRET.encode() not in answer.body
    assert b'route="other"' in answer.body
    assert b'route="/models/*"' in answer.body
    assert b'method="other"' in answer.body


async def test_a_scrape_loads_and_wakes_nothing(watched: ServerUnderTest, script: Script) -> None:
    loads, requests = len(script.loads), len(script.requests)
    await metrics(watched)
    assert (len(script.loads), len(script.requests)) == (loads, requests)


def test_loads_and_unloads_are_counted() -> None:
    counted = ServerMetrics()
    counted.load_finished("a", 2.0)
    counted.load_finished("a", 1.0, failed=True)
    counted.evicted("b")
    counted.unloaded("a")
    text = counted.exposition().decode()
    for line in (
        'localllm_model_loads_total{model="a",result="ok"} 1.0',
        'localllm_model_loads_total{model="a",result="failed"} 1.0',
        'localllm_model_load_seconds_sum{model="a"} 2.0',
        'localllm_model_evictions_total{model="b"} 1.0',
        'localllm_model_unloads_total{model="a"} 1.0',
    ):
        assert line in text.splitlines()


def test_a_rate_is_that_of_the_last_minute() -> None:
    now = 0.0
    rate = Rate(lambda: now)
    assert rate.value() == 0
    rate.add(10, 1.0)
    now = 30.0
    rate.add(30, 1.0)
    assert rate.value() == 20
    now = 61.0
    assert rate.value() == 30
    now = 91.0
    assert rate.value() == 0


# --- the access log ---


async def test_each_request_has_a_line_without_its_content(
    watched: ServerUnderTest, log_file: Path
) -> None:
    await chat(watched, "x-request-id: mine-1", path=f"/v1/chat/completions?q={SECRET}")
    await watched.request("GET /v1/models", key=None)
    text = lines(log_file)
    for secret in (SECRET, "Hello", KEY):
        assert secret not in text
    done, refused = entries(log_file)
    assert (done["request_id"], done["key"], done["peer"]) == ("mine-1", "owner", "loopback")
    assert (done["method"], done["path"], done["status"]) == ("POST", "/v1/chat/completions", 200)
    assert (done["model"], done["completion_tokens"]) == (MODEL, 4)
    assert isinstance(done["prompt_tokens"], int)
    assert done["prompt_tokens"] > 0
    assert isinstance(done["ttft_s"], float)
    assert (refused["status"], refused["key"], refused["model"]) == (401, None, None)


@settings(max_examples=30)
@given(path=st.text(max_size=400), method=st.text(max_size=40))
def test_a_line_is_one_line_of_plain_ascii(path: str, method: str) -> None:
    exchange = Exchange(method=method, path=path, status=None, duration_s=0.0)
    line = access_line(exchange, RequestRecord(request_id="r", caller=OWNER), 0.0)
    assert re.fullmatch(r"[ -~]+", line)
    document = json.loads(line)
    assert len(document["path"]) <= 200
    assert "\x1b" not in document["path"]


def test_a_log_that_was_rotated_goes_on_in_a_new_file(log_file: Path) -> None:
    now = 0.0
    log = AccessLog(log_file, clock=lambda: now)
    log.write("one")
    old = log_file.rename(log_file.with_suffix(".1"))
    log.write("two")
    now = 2.0
    log.write("three")
    log_file.unlink()
    now = 4.0
    log.write("four")
    log.close()
    assert (old.read_text(), log_file.read_text()) == ("one\ntwo\n", "four\n")


def test_a_log_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="access log"):
        AccessLog(tmp_path)


# --- ids ---


async def test_every_answer_has_an_id(watched: ServerUnderTest) -> None:
    for answer in (
        await chat(watched, "x-request-id: mine-1"),
        await chat(watched, "x-request-id: mine-1", "Origin: http://evil.example"),
        await chat(watched, "x-request-id: mine-1", path="/nowhere"),
    ):
        assert b"\r\nx-request-id: mine-1\r\n" in answer
    for bad in ("a b", "x" * 129, '"', ""):
        answer = await chat(watched, f"x-request-id: {bad}")
        assert re.search(rb"\r\nx-request-id: req_[0-9a-f]{24}\r\n", answer)


@given(st.lists(st.text(max_size=200), max_size=2))
def test_an_id_can_always_be_sent_back(offered: list[str]) -> None:
    assert re.fullmatch(r"[!-~]{1,128}", request_id_of(offered))


@pytest.mark.parametrize(
    "text",
    [
        "", "00", f"ff-{TRACE}-b7ad6b7169203331-01", f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-b7ad6b7169203331-01", f"{PARENT}-more",
        f"00-{TRACE}-b7ad6b7169203331-0", f"0-{TRACE}-b7ad6b7169203331-01",
    ],
)  # fmt: skip
def test_a_traceparent_that_is_none_is_as_if_it_were_not_there(text: str) -> None:
    assert parse_traceparent([text]) is None


def test_a_trace_context_is_read() -> None:
    context = parse_traceparent([PARENT], ["a=1, b=2", "t@v=x"])
    assert context is not None
    assert (context.trace_id, context.sampled, context.state) == (TRACE, True, "a=1,b=2,t@v=x")
    later = parse_traceparent([f"cc-{TRACE}-b7ad6b7169203331-00-more"], ["no member"])
    assert later is not None
    assert (later.sampled, later.state) == (False, "")
    assert parse_traceparent([PARENT, PARENT]) is None
    assert parse_traceparent([PARENT], ["a=1,a=2"]).state == ""  # type: ignore[union-attr]
    assert parse_traceparent([PARENT], ["a=" + "x" * 600]).state == ""  # type: ignore[union-attr]


# --- traces ---


async def test_a_span_has_the_facts_of_a_request_and_nothing_of_its_content(
    script: Script, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"deployment={SECRET}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", SECRET)
    batches: list[bytes] = []
    tracer = Tracer(batches.append)
    monitoring = Monitoring(tracer=tracer)
    async with start_server(script, smollm2, tmp_path / "data", monitoring=monitoring) as server:
        answer = await chat(server, f"traceparent: {PARENT}", "tracestate: a=1")
        await chat(server, f"traceparent: {PARENT[:-2]}00")  # its caller does not record it
    await asyncio.to_thread(tracer.close)
    (batch,) = batches
    for secret in (SECRET, "Hello", KEY):
        assert secret.encode() not in batch
    (resource,) = ExportTraceServiceRequest.FromString(batch).resource_spans
    (span,) = resource.scope_spans[0].spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, "b7ad6b7169203331")
    assert span.name == "POST /chat/completions"
    assert span.end_time_unix_nano > span.start_time_unix_nano
    facts = {each.key: each.value for each in span.attributes}
    assert facts["gen_ai.request.model"].string_value == MODEL
    assert facts["gen_ai.usage.output_tokens"].int_value == 4
    assert facts["http.response.status_code"].int_value == 200
    assert f"traceparent: 00-{TRACE}-{span.span_id.hex()}-01".encode() in answer
    assert b"tracestate: a=1" in answer


async def test_spans_are_posted_to_the_collector_and_to_nobody_else() -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()
    status = 200

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        received.put_nowait(head + await reader.readexactly(5))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        writer.close()

    collector = await asyncio.start_server(collect, "127.0.0.1", 0)
    port = collector.sockets[0].getsockname()[1]
    with open_exporter(f"http://127.0.0.1:{port}", Settings(offline=True)) as post:
        await asyncio.to_thread(post, b"spans")
        request = await received.get()
        assert request.startswith(b"POST /v1/traces HTTP/1.1\r\n")
        assert b"application/x-protobuf" in request
        assert b"authorization" not in request.lower()
        status = 307
        with pytest.raises(HubError, match="307"):
            await asyncio.to_thread(post, b"spans")
    collector.close()
    with (
        open_exporter(f"http://127.0.0.1:{port}", Settings()) as post,
        pytest.raises(HubError, match="could not be sent"),
    ):
        await asyncio.to_thread(post, b"spans")


def test_offline_no_collector_on_another_machine_is_named() -> None:
    with (
        pytest.raises(Offline, match=r"collector\.example"),
        open_exporter("https://collector.example", Settings(offline=True)),
    ):
        pass
    with pytest.raises(UsageError, match="--otel-endpoint"), open_exporter("ftp://x", Settings()):
        pass
