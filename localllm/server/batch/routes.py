"""OpenAI's endpoints of files and batches."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from localllm.errors import NotFound
from localllm.server.access.guard import check_scope
from localllm.server.batch.service import BatchService
from localllm.server.batch.store import StoredBatch, StoredFile
from localllm.server.batch.upload import read_upload
from localllm.server.dialects.openai.errors import ErrorResponse
from localllm.server.dialects.openai.operations import PREFIXES, paths_of
from localllm.server.dialects.protocol import Dialect
from localllm.server.errors import ApiError
from localllm.server.openapi import Operation
from localllm.server.request_body import read_body
from localllm.server.request_record import OWNER, current_caller
from localllm.server.schema import WHOLE, ApiModel, RequestModel, json_response
from localllm.server.served_models import ServedModels

_PURPOSES = ("batch", "user_data")
_MAX_METADATA = 16
_MAX_LISTED = 100
_JSONL = "application/jsonl"

Item = TypeVar("Item", "File", "Batch")


class File(ApiModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(ApiModel):
    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(ApiModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchError(ApiModel):
    code: str = "invalid_request"
    line: int | None
    message: str
    param: str | None = None


class BatchErrors(ApiModel):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(ApiModel):
    total: int
    completed: int
    failed: int


class Batch(ApiModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None = None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None = None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(ApiModel):
    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ExpiresAfter(RequestModel):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=60, le=366 * 86_400), WHOLE]


class BatchRequest(RequestModel):
    """`completion_window` is a wish that nobody needs here: a batch has all the time that it
    takes."""

    input_file_id: Annotated[str, Field(max_length=64)]
    endpoint: Literal[
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/responses",
    ]
    completion_window: object = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=_MAX_METADATA),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class PageQuery(BaseModel):
    """A part of a list: `limit` items at most, those behind the one called `after`."""

    after: str | None = None
    limit: int = 20


OPERATIONS = (
    Operation(
        method="POST",
        paths=paths_of("/files"),
        summary="Upload a file: the input of a batch, as multipart/form-data.",
        answer=File,
        statuses=(408, 413, 415),
    ),
    Operation(
        method="GET",
        paths=paths_of("/files"),
        summary="List the files of this key; the owner's key sees all.",
        answer=FileList,
        query=PageQuery,
    ),
    Operation(
        method="GET", paths=paths_of("/files/{file_id}"), summary="Describe a file.", answer=File
    ),
    Operation(
        method="DELETE",
        paths=paths_of("/files/{file_id}"),
        summary="Delete a file.",
        answer=FileDeleted,
    ),
    Operation(
        method="GET",
        paths=paths_of("/files/{file_id}/content"),
        summary="Read a file.",
        media_types=(_JSONL,),
    ),
    Operation(
        method="POST",
        paths=paths_of("/batches"),
        summary="Run the requests of a file when nobody waits for an answer.",
        body=BatchRequest,
        answer=Batch,
    ),
    Operation(
        method="GET",
        paths=paths_of("/batches"),
        summary="List the batches of this key.",
        answer=BatchList,
        query=PageQuery,
    ),
    Operation(
        method="GET",
        paths=paths_of("/batches/{batch_id}"),
        summary="Describe a batch.",
        answer=Batch,
    ),
    Operation(
        method="POST",
        paths=paths_of("/batches/{batch_id}/cancel"),
        summary="End a batch; what is done becomes its files.",
        answer=Batch,
    ),
)


def batch_dialect(service: BatchService) -> Dialect:
    """Make the endpoints in front of `service`."""

    def router(_: ServedModels) -> APIRouter:
        routes, endpoints = APIRouter(), _Endpoints(service)
        for prefix in PREFIXES:
            for method, path, answer in endpoints.table():
                routes.add_api_route(prefix + path, answer, methods=[method], response_model=None)
        return routes

    return Dialect(name="openai batches", router=router, error=ErrorResponse, operations=OPERATIONS)


Handler = Callable[..., Awaitable[Response]]


class _Endpoints:
    def __init__(self, service: BatchService) -> None:
        self._service = service
        self._store = service.store

    def table(self) -> tuple[tuple[str, str, Handler], ...]:
        return (
            ("POST", "/files", self.upload),
            ("GET", "/files", self.list_files),
            ("GET", "/files/{file_id}", self.retrieve_file),
            ("DELETE", "/files/{file_id}", self.delete_file),
            ("GET", "/files/{file_id}/content", self.content),
            ("POST", "/batches", self.create),
            ("GET", "/batches", self.list_batches),
            ("GET", "/batches/{batch_id}", self.retrieve),
            ("POST", "/batches/{batch_id}/cancel", self.cancel),
        )

    async def upload(self, request: Request) -> Response:
        with self._store.new_file(owner=current_caller().identity) as new:
            form = await read_upload(request, new.file)
            purpose = form.fields.get("purpose", "batch")
            if purpose not in _PURPOSES:
                raise ApiError(
                    f"`purpose` must be one of {', '.join(_PURPOSES)}.",
                    code="invalid_value",
                    param="purpose",
                )
            new.filename, new.purpose = form.filename or "", purpose
            new.expires_at = _expires_at(form.fields, self._store.clock())
            file_id = new.id
        return json_response(_file(self._store.file(file_id, _seen_by())))

    async def list_files(self, request: Request) -> Response:
        files = await asyncio.to_thread(self._store.files, _seen_by())
        page, more = _page([_file(each) for each in files], request)
        return json_response(
            FileList(
                data=page,
                first_id=page[0].id if page else None,
                last_id=page[-1].id if page else None,
                has_more=more,
            )
        )

    async def retrieve_file(self, file_id: str) -> Response:
        return json_response(_file(self._find_file(file_id, _seen_by())))

    async def delete_file(self, file_id: str) -> Response:
        file = self._find_file(file_id, _seen_by())
        if any(each.input_file_id == file.id and not each.ended for each in self._store.batches()):
            raise ApiError(
                "A batch reads this file: cancel it first, or wait for its end.",
                status=409,
                code="file_in_use",
            )
        await asyncio.to_thread(self._store.delete_file, file)
        return json_response(FileDeleted(id=file.id))

    async def content(self, file_id: str) -> Response:
        file = self._find_file(file_id, _seen_by())
        path = self._store.content(file)
        headers = {"Content-Length": str(file.bytes), "X-Content-Type-Options": "nosniff"}
        return StreamingResponse(_read(path), media_type=_JSONL, headers=headers)

    async def create(self, request: Request) -> Response:
        body, caller = await read_body(request, BatchRequest), current_caller()
        check_scope(caller, body.endpoint)
        file = self._find_file(body.input_file_id, caller.identity, param="input_file_id")
        batch = StoredBatch(
            id=f"batch_{secrets.token_hex(12)}",
            owner=caller.identity,
            endpoint=body.endpoint,
            input_file_id=file.id,
            created_at=int(self._store.clock()),
            completion_window="24h",
            metadata=body.metadata,
            output_expires_s=(
                None if body.output_expires_after is None else body.output_expires_after.seconds
            ),
        )
        return json_response(_batch(self._service.create(batch)))

    async def list_batches(self, request: Request) -> Response:
        batches = await asyncio.to_thread(self._store.batches, _seen_by())
        page, more = _page([_batch(each) for each in batches], request)
        return json_response(
            BatchList(
                data=page,
                first_id=page[0].id if page else None,
                last_id=page[-1].id if page else None,
                has_more=more,
            )
        )

    async def retrieve(self, batch_id: str) -> Response:
        return json_response(_batch(self._find_batch(batch_id)))

    async def cancel(self, batch_id: str) -> Response:
        return json_response(_batch(self._service.cancel(self._find_batch(batch_id))))

    def _find_file(self, file_id: str, owner: str | None, *, param: str = "file_id") -> StoredFile:
        try:
            return self._store.file(file_id, owner)
        except NotFound as error:
            raise ApiError(str(error), status=404, code="not_found", param=param) from None

    def _find_batch(self, batch_id: str) -> StoredBatch:
        try:
            return self._store.batch(batch_id, _seen_by())
        except NotFound as error:
            raise ApiError(str(error), status=404, code="not_found", param="batch_id") from None


def _seen_by() -> str | None:
    """Return whose files and batches this request may see; None, for the owner of the server: all,
    or nobody could end what a key has begun that was revoked."""
    caller = current_caller()
    return None if caller == OWNER else caller.identity


def _expires_at(fields: Mapping[str, str], now: float) -> int | None:
    """Read `expires_after`, which a form has as two fields with brackets."""
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    if not seconds.isdecimal() or not 60 <= int(seconds[:10]) <= 366 * 86_400:
        raise ApiError(
            "`expires_after[seconds]` must be 60 to 31622400.",
            code="invalid_value",
            param="expires_after",
        )
    return int(now) + int(seconds)


def _page(items: list[Item], request: Request) -> tuple[list[Item], bool]:
    """Cut a list at the query's `after` and `limit`; whether more follows comes with it."""
    limit = request.query_params.get("limit", "20")
    count = min(_MAX_LISTED, int(limit)) if limit.isdecimal() and len(limit) < 6 else 20
    after = request.query_params.get("after")
    ids = [each.id for each in items]
    start = ids.index(after) + 1 if after in ids else 0
    count = max(1, count)
    return items[start : start + count], len(items) > start + count


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, 1 << 20):
            yield chunk


def _file(file: StoredFile) -> File:
    return File(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
    )


def _batch(batch: StoredBatch) -> Batch:
    errors = None
    if batch.errors:
        listed = [BatchError(line=each.line or None, message=each.message) for each in batch.errors]
        errors = BatchErrors(data=listed)
    return Batch(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=errors,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_at,
        in_progress_at=batch.in_progress_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        request_counts=RequestCounts(
            total=batch.total, completed=batch.completed, failed=batch.failed
        ),
        metadata=batch.metadata,
    )
