"""Who sends a request, and whether they may: key or peer, scope, limits; before any route.

The guard raises; the outermost layer writes the error in the envelope of the dialect whose path
was requested. Which models a key may use is checked where names are resolved (served_models.py).
"""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.server.access.key_ring import KeyRing
from localllm.server.access.rate_limits import RateLimits
from localllm.server.access.scopes import OPEN_PATHS, scopes_of
from localllm.server.errors import ApiError
from localllm.server.request_record import NO_LIMITS, OWNER, Caller, current_record
from localllm.server.request_record import Scope as KeyScope

PEER = "localllm.peer"
"""Extension of the ASGI scope for a connection over a Unix socket, whose peer the system named:
its `uid` is this user's or root's, any other was refused when it connected."""

_KEY_HEADERS = (b"x-api-key", b"api-key")
"""Beside Authorization: Anthropic's, and Azure OpenAI's."""


class KeyGuard:
    """Let requests through that have a key, or come from this user's own process on a Unix socket;
    refuse what the key's scopes do not allow."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys
        self._writing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        caller = self._caller(scope)
        record = current_record()
        if record is not None:
            record.caller = caller
        check_scope(caller, scope["path"])
        self._write_used()
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        if not self._keys.required:
            return OWNER
        # A key that is given counts on a Unix socket, too: its limits can be tried there. A wrong
        # one does not: clients that insist on a key send any.
        caller = self._keys.find(_offered(scope))
        if caller is None and PEER in scope.get("extensions", {}):
            return OWNER
        if caller is None:
            raise ApiError(
                "The API key is missing or wrong. Send it as Authorization: Bearer KEY; "
                "`localllm serve` says at its start which file holds it.",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return caller

    def _write_used(self) -> None:
        """Have the last uses written, now and then, beside the requests."""
        if (used := self._keys.take_used()) is not None:
            self._writing = asyncio.create_task(asyncio.to_thread(self._keys.write_used, used))


class LimitGuard:
    """Hold the requests of each key to its limits, those of its batches too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._limits = RateLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = current_record()
        limits = NO_LIMITS if record is None or record.caller is None else record.caller.limits
        generates = scope["method"] == "POST" and scopes_of(scope["path"]) & _GENERATING
        if record is None or record.caller is None or limits is NO_LIMITS or not generates:
            await self._app(scope, receive, send)
            return
        usage = self._limits.admit(record.caller.name, limits)
        try:
            record.charge = lambda tokens: self._limits.charge(usage, tokens)
            await self._app(scope, receive, send)
        finally:
            usage.release()


def check_scope(caller: Caller, path: str) -> None:
    """Check that a key has one of the scopes that a path asks for. Raises ApiError (403)."""
    needed = scopes_of(path)
    if not needed & caller.scopes:
        raise _scope_missing(caller, needed)


_GENERATING = frozenset({KeyScope.INFER, KeyScope.EMBED})


def _offered(scope: Scope) -> list[str]:
    offered = []
    for name, value in scope["headers"]:
        if name in _KEY_HEADERS:
            offered.append(value.decode("latin-1"))
        elif name == b"authorization":
            kind, _, token = value.decode("latin-1").partition(" ")
            if kind.lower() == "bearer":
                offered.append(token.strip())
    return offered


def _scope_missing(caller: Caller, needed: frozenset[KeyScope]) -> ApiError:
    wanted = " or ".join(f"`{each}`" for each in sorted(needed))
    has = ", ".join(f"`{each}`" for each in sorted(caller.scopes))
    return ApiError(
        f"This path needs a key with the scope {wanted}; {caller.name} has {has}. "
        "Who runs the server makes others: localllm key create NAME --scope SCOPE",
        status=403,
        code="insufficient_scope",
    )
