"""From the bytes of a request to a checked model: every dialect reads its body through here.

Python's `json` takes more than JSON: NaN, 1e999, numbers of any length, duplicate names, halves
of surrogate pairs. Each is refused here, so that no model has to think of it.
"""

import asyncio
import json
import math
from typing import NoReturn, TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from localllm.server.errors import ApiError, request_validation_error
from localllm.server.schema import RequestModel
from localllm.server.unknown_fields import note_unknown, unknown_fields

MAX_BODY_BYTES = 8 * 1024 * 1024
"""About two million tokens of text: more than any context that is served, far below memory."""

BODY_TIMEOUT_S = 60.0
"""For the whole body: a client that sends a byte now and then does not hold a connection."""

MAX_NUMBER_LENGTH = 64
"""Characters. A double needs 24; Python refuses integers over 4300 digits anyway."""

MAX_FIELDS = 16_384
"""Of one object: four times what `logit_bias` may have. A body could hold 600,000."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some Windows programs begin every text with; RFC 8259 lets a parser ignore it."""

M = TypeVar("M", bound=RequestModel)


async def read_body(request: Request, model: type[M], *, any_type: bool = False) -> M:
    """Read the body of a request as `model`; its unknown fields are named in the answer's header.

    `any_type`: as in `read_json`. Raises what that raises, and ApiError that names the field at
    fault.
    """
    body = validate(model, await read_json(request, any_type=any_type))
    note_unknown(request.scope, unknown_fields(body))
    return body


def validate(model: type[M], document: object) -> M:
    """Check a parsed document against `model`. Raises ApiError that names the field at fault."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise request_validation_error(error) from None


async def read_json(
    request: Request, *, timeout_s: float = BODY_TIMEOUT_S, any_type: bool = False
) -> dict[str, object]:
    """Read the body of a request as one JSON object.

    `any_type`: of what no browser has sent, the declared type does not count: `curl -d` says it is
    a form, and Ollama takes it.
    Raises ApiError: 408 too slow, 413 too large, 415 not declared as JSON, 400 not JSON or not
    an object. Raises ClientDisconnect when the client leaves meanwhile.
    """
    if not any_type or _from_browser(request):
        _check_type(request)
    _check_size(request)
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read(request)
    except TimeoutError:
        raise ApiError(
            f"The body did not arrive within {timeout_s:.0f} s.",
            status=408,
            code="request_timeout",
            headers={"Connection": "close"},
        ) from None
    value = parse(body)
    if not isinstance(value, dict):
        raise ApiError("The body must be a JSON object.", code="invalid_json")
    return value


def parse(body: bytes) -> object:
    """Parse JSON strictly. Raises ApiError; the message quotes nothing of the body."""
    try:
        value: object = json.loads(
            body.removeprefix(_BYTE_ORDER_MARK).decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
            object_pairs_hook=_unique,
        )
        _refuse_lone_surrogates(value, body)
    except json.JSONDecodeError as error:
        if not body.strip():
            raise _invalid("it is empty") from None
        reason = next(
            (ours for theirs, ours in _SYNTAX_ERRORS if error.msg.startswith(theirs)),
            "is malformed",
        )
        where = f"line {error.lineno}, column {error.colno}"
        raise _invalid(f"what stands at {where} {reason}") from None
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise _invalid("a string holds half of a surrogate pair") from None
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    return value


_SYNTAX_ERRORS = (
    ("Expecting value", "is no value"),
    ("Expecting property name", "is no name in quotation marks"),
    ("Expecting ':'", "is no colon after a name"),
    ("Expecting ','", "is no comma between two values"),
    ("Illegal trailing comma", "is a comma with nothing behind it"),
    ("Extra data", "comes after the end of the value"),
    ("Unterminated string", "is a string without an end"),
    ("Invalid control character", "is a control character in a string"),
    ("Invalid \\", "is no escape sequence of JSON"),
)
"""Of Python's `json` (3.11 to 3.14), in our words."""


def _from_browser(request: Request) -> bool:
    """Return True for what a web page may have sent. Every browser calls itself Mozilla, and a page
    that changes that needs a preflight."""
    agent = request.headers.get("user-agent", "")
    return agent.lower().startswith("mozilla/") or any(
        name in request.headers for name in ("origin", "referer", "sec-fetch-site")
    )


def _check_type(request: Request) -> None:
    # A page of another origin may post text/plain or a form without a CORS preflight; JSON needs
    # one, and no preflight is ever allowed.
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.partition("charset=")[2].strip(' "').lower()
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise ApiError(
            "The body must be sent with the header Content-Type: application/json (UTF-8).",
            status=415,
            code="unsupported_media_type",
        )


def _check_size(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(
            "Compressed bodies are not supported: leave Content-Encoding out.",
            status=415,
            code="unsupported_media_type",
        )
    declared = request.headers.get("content-length", "0")
    # h11 lets digits only through; 20 of them are more than any body.
    if len(declared) > 20 or int(declared) > MAX_BODY_BYTES:
        raise _too_large()


async def _read(request: Request) -> bytes:
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _too_large() -> ApiError:
    return ApiError(
        f"The body is larger than {MAX_BODY_BYTES} bytes.", status=413, code="body_too_large"
    )


def _invalid(reason: str) -> ApiError:
    return ApiError(f"The body is not JSON: {reason}.", code="invalid_json")


def _refuse_constant(name: str) -> NoReturn:
    raise _invalid(f"{name} is not a JSON number")


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_NUMBER_LENGTH:
        raise _invalid(f"a number has {len(digits)} characters")
    return int(digits)


def _parse_float(digits: str) -> float:
    if len(digits) > MAX_NUMBER_LENGTH:
        raise _invalid(f"a number has {len(digits)} characters")
    value = float(digits)
    if not math.isfinite(value):
        raise _invalid("a number is larger than a double holds")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(pairs) > MAX_FIELDS:
        raise ApiError(
            f"An object in the body has {len(pairs)} fields; at most {MAX_FIELDS} are accepted.",
            code="invalid_value",
        )
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _invalid("an object names a field twice")
    return fields


def _refuse_lone_surrogates(value: object, body: bytes) -> None:
    """Raise UnicodeEncodeError when a string cannot be written as UTF-8.

    Raw UTF-8 cannot hold one: only an escape can, so most bodies are not walked.
    """
    if b"\\ud" in body or b"\\uD" in body:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
