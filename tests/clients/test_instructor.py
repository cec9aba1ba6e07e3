"""instructor, unmodified: answers as pydantic models, by tools and by JSON Schema, streamed too."""

import pytest

pytestmark = pytest.mark.clients
pytest.importorskip("instructor")

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.clients.conftest import Served


class City(BaseModel):
    name: str = Field(max_length=20)
    millions: int = Field(ge=0, le=40)


ROME = [{"role": "user", "content": "Rome has 3 million people."}]


@pytest.mark.parametrize(
    "mode",
    [
        instructor.Mode.TOOLS,
        instructor.Mode.JSON_SCHEMA,
        instructor.Mode.RESPONSES_TOOLS,
    ],
)
def test_an_answer_is_a_model(served: Served, mode: object) -> None:
    client = OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0)
    structured = instructor.from_openai(client, mode=mode)
    city = structured.create(
        model=served.model, messages=ROME, response_model=City, max_retries=0, temperature=0
    )
    assert isinstance(city, City)
    assert city.name


def test_a_model_is_streamed_while_it_grows(served: Served) -> None:
    client = OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0)
    structured = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    pieces = list(
        structured.create_partial(
            model=served.model, messages=ROME, response_model=City, max_retries=0, temperature=0
        )
    )
    assert len(pieces) > 1
    City.model_validate(pieces[-1].model_dump())
