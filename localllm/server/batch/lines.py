"""The lines of a batch, in OpenAI's format: one request a line, one result a line.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, "request_id": "...",
     "body": {...}}, "error": null}

Nothing here reads a file: a line is bytes.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
)
"""What a line may ask for: OpenAI's, and Anthropic's messages."""

MAX_LINE_BYTES = 8 * 1024 * 1024
"""As much as the body of one request may have."""

BATCH_PRIORITY = 10
"""Of a line that names no `priority`: after everything that somebody waits for."""


class InvalidLine(ValueError):
    """A line that is no request. The message is the end of a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request. `number` counts the lines of the input from 1; `body` has a `priority`."""

    number: int
    custom_id: str
    url: str
    body: dict[str, object]

    @property
    def model(self) -> str:
        model = self.body.get("model")
        return model if isinstance(model, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineResult:
    """What became of a line: an HTTP answer, or an `error` when there was none."""

    custom_id: str
    status: int | None = None
    body: object = None
    request_id: str | None = None
    error: str | None = None

    @property
    def failed(self) -> bool:
        return self.status is None or self.status >= 400

    @property
    def tokens(self) -> int:
        """Tokens that were generated for it; 0 where the answer does not say."""
        usage = self.body.get("usage") if isinstance(self.body, dict) else None
        if not isinstance(usage, dict):
            return 0
        count = usage.get("completion_tokens", usage.get("output_tokens", 0))
        return count if isinstance(count, int) else 0

    def encode(self) -> bytes:
        """Write one line of JSON, its end included."""
        response = None
        if self.status is not None:
            response = {
                "status_code": self.status,
                "request_id": self.request_id or "",
                "body": self.body,
            }
        error = None
        if self.error is not None:
            error = {"code": "request_failed", "message": self.error}
        document = {
            "id": f"batch_req_{secrets.token_hex(12)}",
            "custom_id": self.custom_id,
            "response": response,
            "error": error,
        }
        return json.dumps(document, ensure_ascii=True).encode("ascii") + b"\n"


def parse_line(
    raw: bytes, number: int, *, endpoint: str | None = None, model: str | None = None
) -> BatchLine:
    """Read one line. `endpoint`: the only one that its batch may have; `model`: of a line that
    names none. Raises InvalidLine."""
    if len(raw) > MAX_LINE_BYTES:
        raise InvalidLine(f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidLine("is not JSON") from None
    if not isinstance(document, dict):
        raise InvalidLine("is not a JSON object")
    custom_id, url, body = (document.get(name) for name in ("custom_id", "url", "body"))
    if not isinstance(custom_id, str) or not custom_id or len(custom_id) > 512:
        raise InvalidLine("has no `custom_id` (a string of 1 to 512 characters)")
    method = document.get("method", "POST")
    if method != "POST":
        raise InvalidLine("has a `method` that is not POST")
    if url not in ENDPOINTS:
        raise InvalidLine(f"has no `url` that a batch can have: {', '.join(ENDPOINTS)}")
    if endpoint is not None and url != endpoint:
        raise InvalidLine(f"has another `url` than its batch: {endpoint}")
    if not isinstance(body, dict):
        raise InvalidLine("has no `body` (an object: the request)")
    if body.get("stream"):
        raise InvalidLine("wants a stream, which a batch has none of: leave `stream` out")
    if model is not None and not body.get("model"):
        body = {**body, "model": model}
    if url != "/v1/embeddings":
        body = {"priority": BATCH_PRIORITY, **body}
    return BatchLine(number=number, custom_id=custom_id, url=url, body=body)


def result_id(raw: bytes) -> tuple[str, bool] | None:
    """Return the `custom_id` of a result's line, and whether it failed; None when the line is torn
    or is none."""
    try:
        document = json.loads(raw)
        custom_id, response = document["custom_id"], document["response"]
        failed = response is None or response["status_code"] >= 400
    except (ValueError, KeyError, TypeError):
        return None
    return (custom_id, failed) if isinstance(custom_id, str) else None


def body_bytes(line: BatchLine) -> bytes:
    """Write the body of a line's request."""
    return json.dumps(line.body, ensure_ascii=True).encode("ascii")


def id_key(custom_id: str) -> bytes:
    """Make a short key of an id: a million of them are remembered."""
    return hashlib.blake2b(custom_id.encode("utf-8", "replace"), digest_size=16).digest()
