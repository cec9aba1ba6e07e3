"""A real worker lives through any requests, and each of them ends once."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    LoadRequest,
    LoraScale,
    Message,
    Overflow,
    Role,
    Sampling,
    Tool,
    ToolChoice,
    ToolMode,
)
from localllm.errors import GenerationFailed
from tests.engine import tiny

CONTEXT = 96
LOAD = LoadSettings(context=CONTEXT, parallel=3, batch=32, ubatch=32, threads=1)

_INT32, _BIG = 2**31 - 1, 2**63 - 1
text = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec=None, categories=["L", "Cs", "Cc"]), max_size=20),
    st.sampled_from(["", "\0", "a\0b", "\ud800", "<end>" * 50, "x" * 500, "😀" * 40, "\u202e"]),
)
number = st.one_of(
    st.integers(-2, 100), st.sampled_from([-(2**31), _INT32, _INT32 + 1, 2**32, _BIG])
)
real = st.one_of(
    st.floats(0, 2),
    st.sampled_from([-1.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")]),
)
mostly = st.sampled_from([True, True, True, False])


def field(usual: st.SearchStrategy[object], wild: st.SearchStrategy[object]) -> object:
    """A value that is right in three cases of four."""
    return mostly.flatmap(lambda right: usual if right else wild)


SAMPLING = {
    "temperature": field(st.floats(0, 2), real),
    "top_k": field(st.integers(0, 50), number),
    "top_p": field(st.floats(0, 1), real),
    "min_p": field(st.floats(0, 1), real),
    "repeat_penalty": field(st.floats(0.5, 2), real),
    "penalty_last_n": field(st.integers(0, 64), number),
    "typical_p": field(st.floats(0, 1), real),
    "top_n_sigma": field(st.floats(0, 3), real),
    "dynatemp_range": field(st.floats(0, 1), real),
    "xtc_probability": field(st.floats(0, 1), real),
    "dry_multiplier": field(st.floats(0, 1), real),
    "dry_allowed_length": field(st.integers(0, 5), number),
    "dry_sequence_breakers": field(st.just(("\n",)), st.lists(text, max_size=20).map(tuple)),
    "mirostat": field(st.integers(0, 2), number),
    "seed": field(st.none(), number),
    "logit_bias": st.lists(st.tuples(number, real), max_size=3).map(tuple),
}
samplings = st.lists(st.sampled_from(sorted(SAMPLING)), max_size=3, unique=True).flatmap(
    lambda names: st.builds(Sampling, **{name: SAMPLING[name] for name in names})  # type: ignore[arg-type]
)
grammars = st.builds(
    Grammar,
    kind=st.sampled_from(GrammarKind),
    text=st.one_of(
        text,
        st.sampled_from(
            [
                '{"type": "string"}',
                '["a", "bc"]',
                "[a-z]+",
                'start: "x"+',
                'root ::= "y"',
                "{}",
                "(",
            ]
        ),
    ),
)
messages = st.lists(st.builds(Message, role=st.sampled_from(Role), content=text), max_size=3).map(
    tuple
)
tools = st.lists(st.builds(Tool, name=text, parameters=text), max_size=2).map(tuple)
FIELDS = {
    "messages": messages,
    "prompt_tokens": st.lists(number, max_size=100).map(tuple),
    "sampling": samplings,
    "stop": st.lists(text, max_size=3).map(tuple),
    "ignore_eos": st.booleans(),
    "min_tokens": field(st.integers(0, 5), number),
    "stop_tokens": st.lists(field(st.integers(0, 94), number), max_size=3).map(tuple),  # type: ignore[arg-type]
    "top_logprobs": field(st.integers(0, 20), number),
    "grammar": grammars,
    "overflow": st.sampled_from(Overflow),
    "tools": tools,
    "tool_choice": st.builds(ToolChoice, mode=st.sampled_from(ToolMode), name=st.none() | text),
    "loras": st.lists(st.builds(LoraScale, id=number, scale=real), max_size=2).map(tuple),
    "n": field(st.integers(1, 4), number),
    "echo": st.booleans(),
    "deadline_s": field(st.floats(0, 60), real),
    "max_tokens": field(st.integers(0, 30), number),
}


def _request(fields: dict[str, object]) -> GenerateRequest:
    plain = GenerateRequest(request_id="", prompt="hello", max_tokens=8)
    if fields.keys() & {"messages", "prompt_tokens"}:
        plain = replace(plain, prompt=None)
    return replace(plain, **fields)  # type: ignore[arg-type]


requests = st.one_of(
    st.builds(GenerateRequest, request_id=st.just(""), prompt=text, max_tokens=st.just(8)),
    st.lists(st.sampled_from(sorted(FIELDS)), max_size=4, unique=True)
    .flatmap(lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names}))  # type: ignore[arg-type]
    .map(_request),
)


class Worker:
    """A real worker with a small model, and the loop that it is called in."""

    def __init__(self, path: Path) -> None:
        self._runner = asyncio.Runner()
        self.engine = ProcessEngine()
        self._sent = 0
        self._runner.run(self._load(path))

    async def _load(self, path: Path) -> None:
        async for _ in self.engine.load(LoadRequest(path=str(path), settings=LOAD)):
            pass

    def run(self, plans: list[tuple[GenerateRequest, int | None]]) -> None:
        """Send all at once; each is cancelled after so many events, None: never."""
        self._runner.run(self._run(plans))

    async def _run(self, plans: list[tuple[GenerateRequest, int | None]]) -> None:
        pid = self.engine.pid
        async with asyncio.timeout(120):
            await asyncio.gather(
                *(self._one(request, cancel_after) for request, cancel_after in plans)
            )
            probe = GenerateRequest(request_id="probe", prompt="hello", max_tokens=2)
            await self._one(probe, None)
        assert self.engine.alive
        assert self.engine.pid == pid

    async def _one(self, request: GenerateRequest, cancel_after: int | None) -> None:
        self._sent += 1
        request = replace(request, request_id=f"{request.request_id}{self._sent}")
        ends: list[Finished] = []
        seen = 0
        try:
            async with aclosing(self.engine.generate(request)) as events:
                async for event in events:
                    assert not ends or ends[-1].remaining, "something came after the end"
                    seen += 1
                    if isinstance(event, Finished):
                        ends.append(event)
                    if seen == cancel_after:
                        await self.engine.cancel(request.request_id)
        except GenerationFailed:
            return
        assert len(ends) == request.n
        assert cancel_after is not None or all(
            end.reason is not FinishReason.CANCELLED for end in ends
        )

    def close(self) -> None:
        self._runner.run(self.engine.close())
        self._runner.close()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf"))
    yield worker
    worker.close()


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")), deadline=None)
@given(st.lists(st.tuples(requests, st.none() | st.integers(1, 6)), min_size=1, max_size=6))
def test_every_request_ends_once_and_the_worker_lives(
    worker: Worker, plans: list[tuple[GenerateRequest, int | None]]
) -> None:
    worker.run(plans)
