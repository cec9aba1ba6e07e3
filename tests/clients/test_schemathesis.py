"""What the API's own description says, held against the API by schemathesis: requests made of the
schemas and past them find no 5xx and no answer that the description does not have."""

import asyncio
from pathlib import Path

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, settings
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
TWICE = "^/(v1/v1|anthropic|messages|chat|completions|embeddings|responses|models|rerank)"
HEADERS = {"Authorization": f"Bearer {KEY}", "Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def description(smollm2: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The whole application, guards included, in front of an engine that plays a script."""
    data = tmp_path_factory.mktemp("data")
    runtime = asyncio.run(make_runtime(Script(), smollm2, data))
    loaded = schemathesis.openapi.from_asgi("/openapi.json", make_app(runtime), headers=HEADERS)
    for phase in (loaded.config.phases.coverage, loaded.config.phases.examples):
        phase.enabled = False  # one request for each corner of each schema: thousands
    # The same routes again, below the prefixes of clients that add one too many, or none.
    yield loaded.exclude(path_regex=TWICE)
    asyncio.run(runtime.close())


api = schemathesis.pytest.from_fixture("description")


@api.parametrize()
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
def test_every_answer_is_described(case) -> None:  # type: ignore[no-untyped-def]
    case.call_and_validate(headers=HEADERS, checks=CHECKS)
