"""The answers to one prompt: `n` sequences, of which the first reads the prompt for all."""

from dataclasses import replace
from typing import TYPE_CHECKING

from localllm.engine.messages import GenerateRequest, Sampling
from localllm.engine.messages.limits import MAX_SEED
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.parsing.detokenizer import TextStream
from localllm.engine.worker.prompt.image_prompt import PicturePrompt
from localllm.engine.worker.sequences.sequence import Echo, Sequence
from localllm.errors import BadRequest, ContextOverflow

if TYPE_CHECKING:
    from localllm.engine.worker.sampling.grammar import Constraint


def answers_to(
    request: GenerateRequest,
    prompt: list[int],
    arrived: float,
    *,
    model: Model,
    constraints: "list[Constraint]",
    dropped: int = 0,
) -> list[Sequence]:
    """Make the sequences of a request, its leader first. Raises ContextOverflow, BadRequest."""
    pictures = prompt if isinstance(prompt, PicturePrompt) else None
    if pictures is not None and request.echo:
        raise BadRequest("A conversation with pictures cannot be echoed: ask without echo.")
    tokens = len(prompt) if pictures is None else pictures.tokens
    room = model.context - tokens
    if room < (0 if request.max_tokens == 0 else 1):
        raise ContextOverflow(
            f"The prompt has {tokens} tokens and the context holds {model.context}. "
            f"Shorten the conversation, or load the model with a larger context (--ctx)."
        )
    answers = [
        Sequence(
            request=request,
            prompt=prompt,
            prompt_tokens=tokens,
            limit=room if request.max_tokens is None else min(room, request.max_tokens),
            text=TextStream(request.stop),
            arrived=arrived,
            index=index,
            constraint=constraints[index] if constraints else None,
            dropped=dropped,
            pictures=pictures,
            space=model.loras.space(request.loras),
        )
        for index in range(request.n)
    ]
    leader, *others = answers
    leader.echo = Echo(model, request.prompt) if request.echo else None
    leader.may_share = not leader.scores
    for other in others if model.shares else ():
        other.leader = leader
    return answers


def sampling_of(sequence: Sequence) -> Sampling:
    """How this answer is drawn: a seed that is given counts up from the first answer."""
    sampling = sequence.request.sampling
    if sampling.seed is None or sequence.index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + sequence.index) % (MAX_SEED + 1))


def deadline(request: GenerateRequest, arrived: float) -> float:
    """When a request is over; infinity when it has all the time in the world."""
    return float("inf") if request.deadline_s is None else arrived + request.deadline_s


def deadline_message(answers: list[Sequence]) -> str:
    """Say what came of a request whose time is over; `answers` are those that have not ended."""
    request = answers[0].request
    tokens = sum(each.produced for each in answers)
    where = (
        "it was still waiting for its turn"
        if all(a.waiting for a in answers)
        else (
            f"{tokens} tokens of the answer had come"
            if any(a.produced for a in answers)
            else "its prompt was being read"
        )
    )
    return (
        f"The request's deadline of {request.deadline_s:g} s has passed: {where}. "
        "Give it more time, or ask for fewer tokens (max_tokens)."
    )
