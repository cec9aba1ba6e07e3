"""The sequences of one request: `n` answers to one prompt, which the first computes for all."""

from collections.abc import Sequence as Constraints
from dataclasses import replace
from typing import TYPE_CHECKING

from localllm.engine.messages import GenerateRequest, Sampling
from localllm.engine.messages.limits import MAX_SEED
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.sequences.sequence import (
    WAITING,
    OutputState,
    PromptEcho,
    PromptState,
    Sequence,
    SequenceMetrics,
)
from localllm.errors import BadRequest, ContextOverflow

if TYPE_CHECKING:  # and numpy with it
    from localllm.engine.worker.sampling.grammar import Constraint


def sequences_of(
    request: GenerateRequest,
    prompt: Prompt,
    arrived: float,
    *,
    model: Model,
    can_share: bool,
    constraints: "Constraints[Constraint]" = (),
) -> list[Sequence]:
    """Make the sequences of a request, the parent first. Raises ContextOverflow, BadRequest.

    `can_share`: what one computes can be given to the others. `constraints`: one for each sequence,
    or none.
    """
    if prompt.images is not None and request.echo:
        raise BadRequest("A conversation with pictures cannot be echoed: ask without echo.")
    if prompt.stop_tokens:
        request = replace(request, stop_tokens=(*request.stop_tokens, *prompt.stop_tokens))
    cells = prompt.cells
    available = model.context - cells
    if available < (0 if request.max_tokens == 0 else 1):
        raise ContextOverflow(
            f"The prompt has {cells} tokens and the context holds {model.context}. "
            f"Shorten the conversation, or load the model with a larger context (--ctx)."
        )
    limit = available if request.max_tokens is None else min(available, request.max_tokens)
    lora_key = model.loras.key_of(request.loras)
    new_check = prompt.answer_format.check
    sequences = [
        Sequence(
            request=request,
            prompt=PromptState(
                tokens=prompt.tokens,
                cells=cells,
                images=prompt.images,
                dropped_messages=prompt.dropped_messages,
                warnings=prompt.warnings,
                outline=prompt.outline,
                boundaries=prompt.boundaries,
            ),
            output=OutputState(
                limit=limit,
                detokenizer=IncrementalDetokenizer(request.stop),
                events=prompt.answer_format.new_events(),
                constraint=constraints[index] if constraints else None,
                grammar=constraints[index] if constraints else None,
                check=None if new_check is None else new_check(),
            ),
            metrics=SequenceMetrics(arrived=arrived),
            index=index,
            lora_key=lora_key,
        )
        for index in range(request.n)
    ]
    parent, *children = sequences
    parent.prompt.echo = PromptEcho(model.vocab, request.prompt) if request.echo else None
    parent.prompt.shareable = not parent.scores_prompt
    for child in children if can_share else ():
        child.parent = parent
    return sequences


def sampling_of(sequence: Sequence) -> Sampling:
    """Return the sampling of one answer: a seed that is given counts up from the first answer."""
    sampling = sequence.request.sampling
    if sampling.seed is None or sequence.index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + sequence.index) % (MAX_SEED + 1))


def deadline(request: GenerateRequest, arrived: float) -> float:
    """Return the moment when a request is refused; infinity for one without a deadline."""
    return float("inf") if request.deadline_s is None else arrived + request.deadline_s


def deadline_message(sequences: list[Sequence]) -> str:
    """Describe how far a request has come when its deadline passes; `sequences` are those of it
    that have not finished."""
    request = sequences[0].request
    tokens = sum(each.output.count for each in sequences)
    if all(each.status is WAITING for each in sequences):
        progress = "it was still waiting for its turn"
    elif tokens:
        progress = f"{tokens} tokens of the answer had come"
    else:
        progress = "its prompt was being read"
    return (
        f"The request's deadline of {request.deadline_s:g} s has passed: {progress}. "
        "Give it more time, or ask for fewer tokens (max_tokens)."
    )
