"""The API describes itself: every route, with nothing to load from elsewhere."""

import json

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from localllm import __version__
from localllm.server.app import DIALECTS, described_dialects
from localllm.server.openapi import openapi_document
from localllm.server.served_models import ServedModels
from tests.server.server_under_test import ServerUnderTest, make_pool

DOCUMENT = openapi_document(described_dialects(DIALECTS), version=__version__)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda each: each.name)
def test_a_dialect_describes_its_routes(server: ServerUnderTest, dialect) -> None:  # type: ignore[no-untyped-def]
    router: APIRouter = dialect.router(ServedModels(make_pool(server.runtime)))
    routes = {
        (method, route.path)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(each.method, path) for each in dialect.operations for path in each.paths}
    assert described == routes


async def test_the_description_is_served_and_refers_to_nothing_else(
    server: ServerUnderTest,
) -> None:
    response = await server.request("GET /openapi.json")
    assert response.status == 200
    assert json.loads(response.body) == json.loads(json.dumps(DOCUMENT))
    assert b"http://" not in response.body
    assert b"https://" not in response.body
    assert (await server.request("GET /openapi.json", key=None)).status == 401


def test_every_reference_leads_to_a_schema() -> None:
    text = json.dumps(DOCUMENT)
    names = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    components = DOCUMENT["components"]
    assert isinstance(components, dict)
    assert names <= set(components["schemas"])
    assert "$defs" not in text
