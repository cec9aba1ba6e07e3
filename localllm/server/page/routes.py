"""The routes of the page: itself, and the exchange of a link for a key."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field
from starlette.routing import Match
from starlette.types import Scope

from localllm.server.access.page_sessions import PageSessions, is_same_user
from localllm.server.errors import ApiError
from localllm.server.page.document import page_document
from localllm.server.request_body import read_body
from localllm.server.schema import ApiModel, RequestModel, json_response


class SessionRequest(RequestModel):
    """`token`: what stands in the link behind `#t=`."""

    token: Annotated[str, Field(max_length=256)]


class Session(ApiModel):
    """`key`: what the page sends as a bearer."""

    key: str


class _BrowserRoute(APIRoute):
    """A route for browsers: at `/` other clients look for a server of Ollama's API."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
        return super().matches(scope) if b"text/html" in accepted.lower() else (Match.NONE, {})


def page_router(sessions: PageSessions) -> APIRouter:
    """Make the routes of the page."""
    routes = APIRouter()

    async def page() -> Response:
        document = page_document()
        return Response(document.body, headers=document.headers, media_type="text/html")

    async def session(request: Request) -> Response:
        """Exchange a link's token, once. A user who may not has not used it up."""
        body = await read_body(request, SessionRequest)
        client, server = request.scope.get("client"), request.scope.get("server")
        if not client or not server or server[1] is None:
            raise _refused("This link works over TCP alone")
        if not await asyncio.to_thread(is_same_user, client, server):
            raise _refused("This link is for the user who has started the server")
        key = sessions.redeem(body.token)
        if key is None:
            raise _refused("This link was used before, or is older than a minute")
        return json_response(Session(key=key), headers={"Cache-Control": "no-store"})

    routes.add_api_route(
        "/",
        page,
        methods=["GET", "HEAD"],
        response_model=None,
        include_in_schema=False,
        route_class_override=_BrowserRoute,
    )
    routes.post("/page/session", response_model=None, include_in_schema=False)(session)
    return routes


def _refused(reason: str) -> ApiError:
    return ApiError(
        f"{reason}. Start `localllm serve --open` again, or enter the API key.",
        status=403,
        code="invalid_link",
    )
