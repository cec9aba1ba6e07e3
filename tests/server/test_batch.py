"""A batch: its input, its journal, its run; no model, no socket."""

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import NotFound, ServeError, StoreError, UsageError
from localllm.server.batch.input_file import BatchInput, scan
from localllm.server.batch.journal import Journal, partial_file
from localllm.server.batch.lines import (
    BATCH_PRIORITY,
    MAX_LINE_BYTES,
    BatchLine,
    InvalidLine,
    LineResult,
    parse_line,
    result_id,
)
from localllm.server.batch.runner import HttpAnswer, run_batch


def line(custom_id: str, model: str = "m", **body: object) -> str:
    document = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": model, "messages": [{"role": "user", "content": custom_id}], **body},
    }
    return json.dumps(document)


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return path


def answer(line: BatchLine, status: int = 200, **headers: str) -> HttpAnswer:
    body = {"echo": line.custom_id, "usage": {"completion_tokens": 3}}
    return HttpAnswer(status=status, headers=headers, body=json.dumps(body).encode())


class FakeServer:
    """Answers lines, and records which; `before` may raise or return another answer."""

    def __init__(self, before: Callable[[BatchLine], HttpAnswer | None] = lambda _: None) -> None:
        self.seen: list[str] = []
        self.running = self.most = 0
        self._before = before

    async def send(self, line: BatchLine) -> HttpAnswer:
        self.seen.append(line.custom_id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            return self._before(line) or answer(line)
        finally:
            self.running -= 1


async def run(batch: BatchInput, out: Path, server: FakeServer, *, in_order: bool = True) -> Path:
    journal = Journal.open(out, batch)
    try:
        await run_batch(batch, journal, server.send, in_flight=4, sleep=lambda _: asyncio.sleep(0))
        journal.finish(batch, in_order=in_order)
    finally:
        journal.close()
    return out


def results(out: Path) -> list[dict[str, object]]:
    return [json.loads(each) for each in out.read_text().splitlines()]


def ids(out: Path) -> list[object]:
    return [each["custom_id"] for each in results(out)]


async def test_results_come_in_order_and_models_together(tmp_path: Path) -> None:
    names = [f"r{i}" for i in range(20)]
    models = itertools.cycle(("a", "b", "c"))
    path = write(tmp_path / "in.jsonl", *(line(name, next(models)) for name in names))
    server = FakeServer()
    out = await run(scan(path), tmp_path / "out.jsonl", server)
    assert ids(out) == names
    assert server.seen[:7] == names[::3]
    assert server.most == 4
    assert not partial_file(out).exists()
    first = results(out)[0]
    assert first["error"] is None
    assert first["response"] == {
        "status_code": 200,
        "request_id": "",
        "body": {"echo": "r0", "usage": {"completion_tokens": 3}},
    }


async def test_results_can_stay_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", line("b", "z"), line("a", "y"))
    server = FakeServer()
    out = await run(scan(path), tmp_path / "out.jsonl", server, in_order=False)
    assert ids(out) == ["a", "b"]


async def test_what_is_no_request_is_an_error_of_its_own_line(tmp_path: Path) -> None:
    bad = ["{", "[]", '{"custom_id": 3}', line("a"), line("s", stream=True)]
    path = write(tmp_path / "in.jsonl", line("a"), *bad, "", line("z"))
    out = await run(scan(path), tmp_path / "out.jsonl", FakeServer())
    assert ids(out) == ["a", "line-2", "line-3", "line-4", "line-5", "line-6", "z"]
    errors = [each["error"] for each in results(out)[1:-1]]
    assert [error["message"].split()[1] for error in errors if isinstance(error, dict)] == list(
        "23456"
    )


async def test_an_error_of_a_request_is_kept_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", line("a"), line("b"), line("c"))
    server = FakeServer(lambda each: answer(each, 400) if each.custom_id == "b" else None)
    batch = scan(path)
    journal = Journal.open(tmp_path / "out", batch)
    progress = await run_batch(batch, journal, server.send)
    assert (progress.done, progress.failed, progress.tokens) == (3, 1, 9)
    journal.close()
    again = Journal.open(tmp_path / "out", batch, retry_failed=True)
    assert len(again.done) == 2
    await run_batch(batch, again, FakeServer().send)
    again.finish(batch, in_order=True)
    assert all(each["error"] is None for each in results(tmp_path / "out"))
    assert [each["response"]["status_code"] for each in results(tmp_path / "out")] == [200] * 3  # type: ignore[index]


async def test_a_kill_at_any_byte_loses_no_result_that_was_whole(tmp_path: Path) -> None:
    names = [f"ü{i}" for i in range(6)]
    path = write(tmp_path / "in.jsonl", *map(line, names), end="")
    batch, out = scan(path), tmp_path / "out"
    journal = Journal.open(out, batch)
    await run_batch(batch, journal, FakeServer().send)
    journal.close()
    whole = partial_file(out).read_bytes()
    for cut in range(0, len(whole) + 1, 7):
        partial_file(out).write_bytes(whole[:cut])
        kept = max(0, whole[:cut].count(b"\n") - 1)
        server = FakeServer()
        await run(batch, out, server)
        assert len(server.seen) == len(names) - kept
        assert ids(out) == names
        out.unlink()


async def test_a_crash_is_tried_again_and_a_poisoned_line_is_not_for_ever(tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    def before(each: BatchLine) -> HttpAnswer | None:
        tries[each.custom_id] = count = tries.get(each.custom_id, 0) + 1
        if each.custom_id == "poison" or (each.custom_id == "once" and count == 1):
            return answer(each, 502)
        if each.custom_id == "busy" and count < 9:
            return answer(each, 503, **{"retry-after": "7"})
        return None

    path = write(tmp_path / "in.jsonl", line("poison"), line("once"), line("busy"))
    out = await run(scan(path), tmp_path / "out", FakeServer(before))
    statuses = [each["response"]["status_code"] for each in results(out)]  # type: ignore[index]
    assert statuses == [502, 200, 200]
    assert tries == {"poison": 3, "once": 2, "busy": 9}


async def test_a_line_that_ends_the_engine_takes_no_other_with_it(tmp_path: Path) -> None:
    """As the server answers: 503 without Retry-After to all that were in flight."""
    flying: set[str] = set()
    crashed: set[str] = set()
    tries: dict[str, int] = {}

    async def send(each: BatchLine) -> HttpAnswer:
        tries[each.custom_id] = tries.get(each.custom_id, 0) + 1
        flying.add(each.custom_id)
        for _ in range(3):
            await asyncio.sleep(0)
        if each.custom_id == "poison":
            crashed.update(flying)
        flying.discard(each.custom_id)
        if each.custom_id in crashed:
            crashed.discard(each.custom_id)
            return answer(each, 503)
        return answer(each)

    names = ["a", "b", "poison", *(f"c{i}" for i in range(9))]
    batch = scan(write(tmp_path / "in.jsonl", *map(line, names)))
    journal = Journal.open(tmp_path / "out", batch)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    progress = await run_batch(batch, journal, send, in_flight=4, sleep=sleep)
    journal.finish(batch, in_order=True)
    statuses = {
        str(each["custom_id"]): each["response"]["status_code"]  # type: ignore[index]
        for each in results(tmp_path / "out")
    }
    assert {name for name, status in statuses.items() if status != 200} == {"poison"}
    assert progress.failed == 1
    assert tries["poison"] == 3
    assert sum(tries.values()) > len(names) + 2  # others were in flight with it
    assert set(slept) == {1.0}


async def test_what_will_never_be_is_not_tried_again(tmp_path: Path) -> None:
    statuses = {"never fits": 507, "unknown": 404, "wrong": 400}
    server = FakeServer(lambda each: answer(each, statuses[each.custom_id]))
    batch = scan(write(tmp_path / "in.jsonl", *map(line, statuses)))
    await run(batch, tmp_path / "out", server)
    assert len(server.seen) == 3


async def test_a_server_that_is_gone_ends_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    def gone(each: BatchLine) -> HttpAnswer | None:
        if each.custom_id != "a":
            raise ConnectionRefusedError("refused")
        return None

    path = write(tmp_path / "in.jsonl", line("a"), line("b"))
    with pytest.raises(ServeError, match="kept"):
        await run(scan(path), tmp_path / "out", FakeServer(gone))
    assert len(Journal.open(tmp_path / "out", scan(path)).done) == 1


async def test_a_full_disk_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "in.jsonl", *map(line, "abcd"))
    batch = scan(path)
    journal = Journal.open(tmp_path / "out", batch)
    encode = LineResult.encode

    def full(self: LineResult) -> bytes:
        if self.custom_id == "c":
            raise OSError(28, "No space left on device")
        return encode(self)

    monkeypatch.setattr(LineResult, "encode", full)
    with pytest.raises(StoreError, match="No space left"):
        await run_batch(batch, journal, FakeServer().send, in_flight=1)
    journal.close()
    monkeypatch.undo()
    assert ids(await run(batch, tmp_path / "out", FakeServer())) == list("abcd")


def test_the_results_of_another_input_are_not_mixed_in(tmp_path: Path) -> None:
    first = scan(write(tmp_path / "1", line("a")))
    Journal.open(tmp_path / "out", first).close()
    with pytest.raises(UsageError, match="another input"):
        Journal.open(tmp_path / "out", scan(write(tmp_path / "2", line("b"))))


async def test_failed_lines_of_a_batch_that_has_ended_run_again(tmp_path: Path) -> None:
    path, out = write(tmp_path / "in", *map(line, "abc")), tmp_path / "out"
    server = FakeServer(lambda each: None if each.custom_id == "a" else answer(each, 404))
    await run(scan(path), out, server)
    other = scan(write(tmp_path / "other", line("b")))
    with pytest.raises(UsageError, match="holds no results"):
        Journal.open(out, other, retry_failed=True)
    Journal.open(out, scan(path), retry_failed=True).close()  # killed at once
    server = FakeServer(lambda each: answer(each, 400) if each.custom_id == "c" else None)
    journal = Journal.open(out, scan(path), retry_failed=True)
    await run_batch(scan(path), journal, server.send)
    journal.close()
    assert server.seen == ["b", "c"]
    again = Journal.open(out, scan(path))
    assert (len(again.done), again.failed) == (3, 1)
    again.finish(scan(path), in_order=True)
    assert ids(out) == ["a", "b", "c"]


def test_the_id_of_an_invalid_line_is_no_other_lines(tmp_path: Path) -> None:
    batch = scan(write(tmp_path / "in", line("line-2"), "{", line("line-2-invalid")))
    assert len(set(batch.keys())) == batch.total == 3


def test_an_input_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        scan(tmp_path / "missing")
    with pytest.raises(UsageError, match="holds no request"):
        scan(write(tmp_path / "empty", "", " "))
    with pytest.raises(UsageError, match="cannot be read"):
        scan(tmp_path)


def test_a_line_that_is_too_long_is_an_error_and_not_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "in", line("long", text="x" * MAX_LINE_BYTES), line("b"), end="")
    batch = scan(path)
    assert [result.custom_id for _, result in batch.invalid] == ["line-1"]
    assert [each.custom_id for each in batch.pending(set())] == ["b"]
    changed = path.read_bytes()[:-3]
    path.write_bytes(changed)
    with pytest.raises(UsageError, match="changed"):
        list(batch.pending(set()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["custom_id", "method", "url", "body"]))
def test_any_line_is_a_request_or_an_invalid_line(value: object, name: str) -> None:
    document = json.loads(line("a")) | {name: value}
    for raw in (json.dumps(document).encode(), json.dumps(value).encode()):
        try:
            parsed = parse_line(raw, 1)
        except InvalidLine:
            continue
        assert parsed.body["priority"] == parsed.body.get("priority", BATCH_PRIORITY)


@given(st.text(min_size=1), st.sampled_from([200, 400, None]))
def test_a_result_is_read_as_it_was_written(custom_id: str, status: int | None) -> None:
    result = LineResult(custom_id=custom_id, status=status, body={"usage": 3}, error=None)
    raw = result.encode()
    assert raw.count(b"\n") == 1
    assert result_id(raw) == (custom_id, status != 200)
    assert result_id(raw[:-3]) is None
    assert result.tokens == 0
