"""Asking an engine and collecting what it says."""

from contextlib import aclosing

from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    Finished,
    GenerateRequest,
    Message,
    PromptProgress,
    Role,
    Sampling,
    Token,
)

GREEDY = Sampling(temperature=0)


def ask(
    request_id: str,
    text: str,
    *,
    max_tokens: int | None = 16,
    sampling: Sampling = GREEDY,
    stop: tuple[str, ...] = (),
) -> GenerateRequest:
    """A chat request of one turn."""
    return GenerateRequest(
        request_id=request_id,
        messages=(Message(role=Role.USER, content=text),),
        sampling=sampling,
        max_tokens=max_tokens,
        stop=stop,
    )


async def collect(
    engine: ProcessEngine, request: GenerateRequest
) -> tuple[str, Finished, list[PromptProgress]]:
    """The whole answer: its text, how it ended, and the progress of its prompt."""
    text, progress = "", []
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            match event:
                case Token():
                    text += event.text
                case PromptProgress():
                    progress.append(event)
                case Finished():
                    return text, event, progress
    raise AssertionError("the stream ended without Finished")
