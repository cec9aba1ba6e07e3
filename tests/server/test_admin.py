"""The endpoints that run the server: what is in memory, load, unload, stop."""

import json
import signal

import pytest

from localllm.server.access.key_ring import KeyRing
from localllm.server.app import Access, create_app
from localllm.server.listen import StopSignals
from localllm.server.security import HostPolicy
from tests.server.server_under_test import KEY, MODEL, ServerUnderTest, make_pool


async def test_a_model_is_listed_unloaded_and_loaded(server: ServerUnderTest) -> None:
    listed = (await server.request("GET /admin/models")).document
    assert isinstance(listed["models"], list)
    (model,) = listed["models"]
    assert model["name"] == MODEL
    assert model["state"] == "ready"
    assert model["keep_alive_s"] == -1.0  # for ever: JSON has no infinity
    assert model["slots"] == 4
    assert (model["requests"], model["pinned"], model["progress"]) == (0, False, None)
    assert model["estimated_bytes"] > 0
    for unloaded in (True, False):  # the second time it was not in memory
        answer = await server.post("/admin/unload", {"model": MODEL})
        assert answer.document == {"model": MODEL, "unloaded": unloaded}
    answer = await server.post("/admin/load", {"model": MODEL, "keep_alive": 300, "pin": True})
    assert answer.document["state"] == "ready"
    assert answer.document["keep_alive_s"] == 300.0
    assert answer.document["pinned"] is True
    answer = await server.post("/admin/load", {"model": MODEL})  # what is left out stays
    assert answer.document["keep_alive_s"] == 300.0
    assert answer.document["pinned"] is True


async def test_clients_of_llama_servers_router_mode_do_the_same(server: ServerUnderTest) -> None:
    assert (await server.post("/models/unload", {"model": MODEL})).document == {"success": True}
    assert server.runtime.resident() == ()
    assert (await server.post("/models/load", {"model": MODEL})).document == {"success": True}
    assert [each.model.name for each in server.runtime.resident()] == [MODEL]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/admin/load", {"model": "nix"}, (404, "model", "model_not_found")),
        ("/admin/unload", {"model": "nix"}, (404, "model", "model_not_found")),
        ("/admin/load", {}, (400, "model", "missing_required_parameter")),
        ("/admin/load", {"model": MODEL, "keep_alive": "x"}, (400, "keep_alive", "invalid_value")),
        ("/admin/load", {"model": MODEL, "keep_alive": 1e12}, (400, "keep_alive", "invalid_value")),
        ("/admin/load", {"model": MODEL, "pin": "yes"}, (400, "pin", "invalid_type")),
        ("/admin/stop", {}, (404, None, "no_stop")),  # this one belongs to a test
    ],
)
async def test_what_cannot_be_done_is_an_error_that_names_the_field(
    server: ServerUnderTest,
    path: str,
    body: dict[str, object],
    expected: tuple[int, str | None, str],
) -> None:
    answer = await server.post(path, body)
    assert (answer.status, *answer.error) == expected


async def test_only_a_form_of_json_with_a_key_stops_the_server(server: ServerUnderTest) -> None:
    stop = StopSignals()
    app = create_app(
        make_pool(server.runtime),
        access=Access(hosts=HostPolicy.bound_to("127.0.0.1"), keys=KeyRing(KEY, run="run")),
        stop=lambda: stop.receive(signal.SIGTERM),
    )

    async def status(body: bytes, *headers: tuple[bytes, bytes]) -> int:
        sent: list[dict[str, object]] = []
        request: dict[str, object] = {"type": "http.request", "body": body}
        requests = iter([request])

        async def receive() -> dict[str, object]:
            return next(requests, {"type": "http.disconnect"})

        async def send(message: object) -> None:
            assert isinstance(message, dict)
            sent.append(message)

        host = (b"host", b"127.0.0.1:1")
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/admin/stop",
            "raw_path": b"/admin/stop", "query_string": b"", "headers": [host, *headers],
            "client": ("127.0.0.1", 2), "server": ("127.0.0.1", 1), "scheme": "http",
        }  # fmt: skip
        await app(scope, receive, send)
        number = sent[0]["status"]
        assert isinstance(number, int)
        return number

    document, key = (b"content-type", b"application/json"), (b"authorization", b"Bearer run")
    assert await status(b"{}", document) == 401
    assert await status(b"{}", key) == 415
    assert await status(b"{}", document, key, (b"origin", b"http://evil.example")) == 403
    assert not stop.should_exit.is_set()
    assert await status(json.dumps({}).encode(), document, key) == 200
    assert stop.should_exit.is_set()
    assert stop.signal is signal.SIGTERM
