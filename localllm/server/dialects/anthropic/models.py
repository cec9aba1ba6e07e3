"""`/v1/models` in Anthropic's form: pages of models, with a cursor on each side."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from localllm.server.errors import ApiError
from localllm.server.schema import OMIT_IF_NONE, ApiModel


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


class ModelsQuery(BaseModel):
    """What stands behind `/v1/models?`."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 20
    after_id: str | None = None
    before_id: str | None = None


def read_query(parameters: Mapping[str, str]) -> ModelsQuery:
    """Read the query of a request; what is not known in it is not read. Raises ApiError."""
    try:
        return ModelsQuery.model_validate(dict(parameters))
    except ValidationError:
        raise ApiError(
            "`limit` must be a whole number from 1 to 1000.", code="invalid_value", param="limit"
        ) from None


def page(models: Sequence[ModelInfo], query: ModelsQuery) -> ModelPage:
    """Cut a page of models: the first after one, or the last of those before one.

    A cursor that is not there counts as the beginning, or the end: models come and go.
    """
    ids = [model.id for model in models]
    if query.before_id in ids:
        rest = models[: ids.index(query.before_id)]
        chosen = rest[-query.limit :]
    else:
        rest = models[ids.index(query.after_id) + 1 :] if query.after_id in ids else models
        chosen = rest[: query.limit]
    return ModelPage(
        data=list(chosen),
        has_more=len(chosen) < len(rest),
        first_id=chosen[0].id if chosen else None,
        last_id=chosen[-1].id if chosen else None,
    )
