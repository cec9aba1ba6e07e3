"""What the API's own description says, held against the API by schemathesis: requests made of the
schemas and past them find no 5xx and no answer that the description does not have."""

import asyncio
from pathlib import Path

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from localllm.engine.fake import Script
from tests.server.server_under_test import KEY, make_app, make_runtime

pytestmark = pytest.mark.clients

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
HEADERS = {"Authorization": f"Bearer {KEY}", "Host": "127.0.0.1"}
TWICE = "^/(v1/v1|anthropic|messages|chat|completions|embeddings|responses|models|rerank)"
"""The same routes again, below the prefixes of clients that add one too many, or none."""


def test_every_answer_is_described(smollm2: Path, tmp_path: Path) -> None:
    """The whole application, guards included, in front of an engine that plays a script."""
    runtime = asyncio.run(make_runtime(Script(), smollm2, tmp_path / "data"))
    api = schemathesis.openapi.from_asgi("/openapi.json", make_app(runtime), headers=HEADERS)
    tried = set()
    for found in api.exclude(path_regex=TWICE).get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if try_requests(operation.as_strategy(generation_mode=mode)):
                tried.add(operation.label)
    asyncio.run(runtime.close())
    assert {"POST /v1/chat/completions", "POST /infill", "GET /health"} <= tried


def try_requests(cases) -> bool:  # type: ignore[no-untyped-def]
    """Send a few requests. Returns False where there is nothing that could be wrong with one."""

    @settings(max_examples=3, database=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def send(case) -> None:  # type: ignore[no-untyped-def]
        case.call_and_validate(headers=HEADERS, checks=CHECKS)

    try:
        send()
    except Unsatisfiable:
        return False
    return True
