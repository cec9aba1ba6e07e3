"""`/v1/models` in Anthropic's form: pages of models, with a cursor on each side."""

import datetime
from collections.abc import Sequence
from typing import Annotated, Literal

from localllm.server.errors import ApiError
from localllm.server.schema import OMIT_IF_NONE, ApiModel

MAX_LIMIT = 1000
_DEFAULT_LIMIT = 20


class ModelInfo(ApiModel):
    """`max_input_tokens`: the context of a model that is in memory."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: Annotated[int | None, OMIT_IF_NONE] = None

    @classmethod
    def of(cls, name: str, *, created: int, context: int | None = None) -> "ModelInfo":
        """`created`: seconds since 1970."""
        at = datetime.datetime.fromtimestamp(created, datetime.UTC)
        return cls(
            id=name,
            display_name=name,
            created_at=at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            max_input_tokens=context,
        )


class ModelPage(ApiModel):
    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


def page(
    models: Sequence[ModelInfo],
    *,
    limit: str | None = None,
    after_id: str | None = None,
    before_id: str | None = None,
) -> ModelPage:
    """Cut a page of `limit` models: those after one, or the last of those before one.

    The arguments are those of the query. Raises ApiError for a limit that is none; a cursor that
    is not there counts as the beginning, or the end: models come and go.
    """
    count = _read_limit(limit)
    ids = [model.id for model in models]
    if before_id in ids:
        rest = models[: ids.index(before_id)]
        chosen = rest[-count:]
    else:
        rest = models[ids.index(after_id) + 1 :] if after_id in ids else models
        chosen = rest[:count]
    return ModelPage(
        data=list(chosen),
        has_more=len(chosen) < len(rest),
        first_id=chosen[0].id if chosen else None,
        last_id=chosen[-1].id if chosen else None,
    )


def _read_limit(text: str | None) -> int:
    if not text:
        return _DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise ApiError(
        f"`limit` must be a whole number from 1 to {MAX_LIMIT}.",
        code="invalid_value",
        param="limit",
    )
