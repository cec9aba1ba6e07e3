"""pydantic-ai, unmodified, over chat completions and over responses."""

import pytest

pytestmark = pytest.mark.clients
pytest.importorskip("pydantic_ai")

from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelSettings, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.conftest import Served


class City(BaseModel):
    name: str = Field(max_length=20)
    millions: int = Field(ge=0, le=40)


SETTINGS = ModelSettings(temperature=0, max_tokens=80, seed=1)

KINDS = pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])


def model(served: Served, kind: type[OpenAIChatModel]) -> object:
    provider = OpenAIProvider(base_url=f"{served.url}/v1", api_key=served.key)
    return kind(served.model, provider=provider)


@KINDS
async def test_an_agent_answers_and_streams(served: Served, kind: type[OpenAIChatModel]) -> None:
    agent = Agent(model(served, kind), instructions="Be brief.", model_settings=SETTINGS)
    first = await agent.run("Say hello.")
    assert first.output
    assert first.usage.output_tokens > 0
    async with agent.run_stream("Again.", message_history=first.all_messages()) as streamed:
        pieces = [piece async for piece in streamed.stream_text(delta=True)]
    assert "".join(pieces)


@KINDS
@pytest.mark.parametrize("native", [False, True])
async def test_an_agents_output_is_a_model(
    served: Served, kind: type[OpenAIChatModel], native: bool
) -> None:
    wanted = NativeOutput(City) if native else City
    agent = Agent(model(served, kind), output_type=wanted, model_settings=SETTINGS)
    result = await agent.run("Rome has 3 million people.")
    assert isinstance(result.output, City)
