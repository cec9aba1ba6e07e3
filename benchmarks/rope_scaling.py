"""Measure what a context beyond the training length costs, and what RoPE scaling gives back.

    python benchmarks/rope_scaling.py MODEL.gguf TEXT_FILE [CONTEXT]

Reads the text once for each scaling and prints the mean negative log-likelihood of its tokens, in
nats, for stretches of the context. Lower is better; a model that is lost says more than ln of a few
thousand. docs/loading.md has the results for the starter.
"""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from localllm.core.sizing.load import LoadSettings, RopeScaling, RopeSettings, Speculate
from localllm.core.sizing.rope import with_rope_scaling
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import GenerateRequest, LoadRequest, Sampling, Token
from localllm.library.store.inspect import inspect_model

SCALINGS = (None, RopeScaling.YARN, RopeScaling.LINEAR)
STRETCH = 512
"""Tokens that are averaged."""


async def losses(path: Path, text: str, settings: LoadSettings) -> list[float]:
    """Return the negative log-likelihood of each token of the text but the first."""
    with tempfile.TemporaryDirectory() as logs:
        engine = ProcessEngine(log_dir=Path(logs))
        try:
            async for _ in engine.load(LoadRequest(path=str(path), settings=settings)):
                pass
            request = GenerateRequest(
                request_id="text",
                prompt=text,
                sampling=Sampling(temperature=0),
                max_tokens=1,
                top_logprobs=0,
                echo=True,
            )
            return [
                -event.logprob.logprob
                async for event in engine.generate(request)
                if isinstance(event, Token) and event.logprob is not None
            ]
        finally:
            await engine.close()


def main(arguments: Sequence[str]) -> None:
    path, file = Path(arguments[0]), Path(arguments[1])
    context = int(arguments[2]) if len(arguments) > 2 else 9_728
    spec = inspect_model(path).spec
    text = file.read_text("utf-8")
    for scaling in SCALINGS:
        load = LoadSettings(
            context=context,
            rope=RopeSettings(scaling=scaling),
            speculate=Speculate.NGRAM,
            draft_max=64,  # as many output rows more, so that more tokens are read at once
        )
        load = with_rope_scaling(spec, load)
        found = asyncio.run(losses(path, text, load))
        means = [
            (start, sum(part) / len(part))
            for start in range(0, len(found), STRETCH)
            if len(part := found[start : start + STRETCH]) == STRETCH
        ]
        row = "  ".join(f"{start}: {mean:.3f}" for start, mean in means)
        print(f"{scaling or 'no scaling':10}  {row}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
