"""Which scope of a key each path of the API asks for: one table, and no route beside it.

The guards see a path as it was sent, so the table is asked with the path as the router reads it
(`plain_path`); a path that is in no row asks for INFER, and the router answers with 404.
"""

import re

from localllm.server.request_record import Scope

OPEN_PATHS = frozenset({"/", "/health", "/page/session"})
"""What needs no key at all, spelled exactly so: the chat page, which holds nothing, whether a
server is there, and the exchange of a link for a key."""

_TEXT = frozenset({Scope.INFER})
_VECTORS = frozenset({Scope.EMBED})
_EITHER = frozenset({Scope.INFER, Scope.EMBED})

_ROWS: tuple[tuple[frozenset[Scope], tuple[str, ...]], ...] = (
    (
        _TEXT,
        (
            "/chat/completions", "/chat/completions/*", "/completions", "/responses",
            "/responses/*", "/messages", "/messages/*", "/anthropic/messages",
            "/anthropic/messages/*", "/completion", "/infill", "/api/chat", "/api/generate",
            "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/*",
        ),
    ),
    (
        _VECTORS,
        (
            "/embeddings", "/embedding", "/api/embed", "/api/embeddings", "/embed", "/rerank",
            "/reranking",
        ),
    ),
    # What a client asks before it knows what it wants, and what it needs to count tokens. (A batch
    # asks for the scope of its endpoint when it is made.)
    (
        _EITHER,
        (
            "/", "/health", "/models", "/models/*", "/anthropic/models", "/anthropic/models/*",
            "/page/session", "/lora-adapters", "/props", "/slots", "/slots/*",
            "/tokenize", "/detokenize", "/apply-template", "/tokenizer_info", "/info", "/version",
            "/files", "/files/*", "/batches", "/batches/*",
            "/openapi.json", "/docs", "/api/version", "/api/tags", "/api/show", "/api/ps",
        ),
    ),
    (frozenset({Scope.ADMIN}), ("/admin", "/admin/*", "/models/load", "/models/unload")),
    (frozenset({Scope.METRICS}), ("/metrics",)),
)  # fmt: skip
"""Scopes -> paths without a leading /v1; `*` stands for everything below. One of the scopes is
enough. The longest path wins: /models/load is no model."""

_EXACT = {path: scopes for scopes, paths in _ROWS for path in paths}
_BELOW = sorted((path for path in _EXACT if path.endswith("*")), key=len, reverse=True)
_VERSION = re.compile(r"(?:/v1)+(?=/|$)")


def plain_path(path: str) -> str:
    """Take stray slashes out of a path: `//v1/models/` is `/v1/models`. Clients join addresses
    so."""
    return "/" + "/".join(step for step in path.split("/") if step)


def route_of(path: str) -> str | None:
    """Return the path of the table's row that holds `path`; None when none does."""
    plain = _VERSION.sub("", plain_path(path), count=1) or "/"
    if plain in _EXACT and not plain.endswith("*"):
        return plain
    return next((row for row in _BELOW if plain.startswith(row[:-1])), None)


def scopes_of(path: str) -> frozenset[Scope]:
    """Return the scopes of which a key needs one to use a path."""
    row = route_of(path)
    return _TEXT if row is None else _EXACT[row]
