"""A fake engine without a model, for tests and snapshots: it plays a script.

The only test double of the engine; it is here so that it changes with the protocol that it
implements.
"""

import asyncio
import math
import os
import re
from array import array
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from localllm.core.hardware import DeviceTest, EngineBuild, EngineDevice
from localllm.core.sizing.load import Allocation, BufferKind
from localllm.engine.messages import (
    Architectures,
    CacheUsage,
    Detokenized,
    DetokenizeRequest,
    Embedded,
    EmbedRequest,
    ExportState,
    Finished,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    HostCacheStats,
    ImportState,
    Loaded,
    LoadProgress,
    LoadRequest,
    Overflow,
    Probed,
    ProbeRequest,
    PromptProgress,
    Reasoning,
    Reranked,
    RerankRequest,
    RestoreState,
    SaveState,
    StateRestored,
    StateSaved,
    Timings,
    Token,
    Tokenized,
    TokenizeRequest,
    TokenLogprob,
    ToolCall,
    ToolCallArguments,
    ToolCallBegan,
    VocabularyInfo,
)
from localllm.errors import BadRequest, EngineCrashed, LocalLLMError, StateFailed

FAKE_BUILD = EngineBuild(
    version="0.3.36",
    commit="0c1e570",
    backends=("CPU",),
    gpu_offload=False,
    devices=(EngineDevice(name="CPU", description="Fake CPU", kind="cpu"),),
)


FAKE_VOCABULARY = VocabularyInfo(size=256, bos="<s>", eos="</s>", infill=True)
FAKE_TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


@dataclass(kw_only=True)
class Script:
    """The behaviour of a FakeEngine, and a record of the calls to it.

    Answers: `tokens`, with `reasoning` before and `calls` behind them, which end the answer with
    TOOL_CALLS; `dropped_messages` of a request that rolls; `warnings`, `stop`, `cache` and
    `host_cache` of every one; `silent_s` without a sign of life.
    Errors: `load_error`, `generate_error` and `probe_error` are raised instead of an answer;
    `crash_after` so many tokens the process ends.
    GPUs: a load that tests devices reports `device_test`, or ends like `device_crash`.
    Gates are acquired before a step, so that a test decides when it happens: `accept_gate` before a
    request is accepted, `prompt_gate` before its prompt is read, `gate` before each token,
    `load_gate` before each event of a load, `probe_gate` and `describe_gate` before the answer.
    Records: the requests of each kind; `opened` gets the id of each generate request, `closed` that
    of each whose stream was closed before its end; `states` has the number of tokens in each state
    file. The cache holds `conversations` of so many tokens, 1000 bytes each; `imported` are the
    tokens of those that it got back; with `torn` it takes none, and with `crash_on_export` it ends
    when it is to copy one.
    """

    tokens: tuple[str, ...] = ("Hello", ", ", "world", ".")
    reasoning: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    has_chat_template: bool = True
    vision: bool = False
    build: EngineBuild = FAKE_BUILD
    device_test: DeviceTest | None = None
    device_crash: str | None = None
    unknown_architectures: tuple[str, ...] = ()
    chat_template_problem: str | None = None
    vocabulary: VocabularyInfo = FAKE_VOCABULARY
    load_error: LocalLLMError | None = None
    generate_error: LocalLLMError | None = None
    allocations: tuple[Allocation, ...] = (
        Allocation(device="CPU", kind=BufferKind.KV, size_bytes=94_371_840),
    )
    probe_error: LocalLLMError | None = None
    crash_after: int | None = None
    accept_gate: asyncio.Semaphore | None = None
    prompt_gate: asyncio.Semaphore | None = None
    gate: asyncio.Semaphore | None = None
    load_gate: asyncio.Semaphore | None = None
    probe_gate: asyncio.Semaphore | None = None
    describe_gate: asyncio.Semaphore | None = None
    states: dict[str, int] = field(default_factory=dict)
    conversations: tuple[int, ...] = ()
    imported: list[int] = field(default_factory=list)
    torn: bool = False
    crash_on_export: bool = False
    dropped_messages: int = 0
    cache: CacheUsage | None = None
    host_cache: HostCacheStats | None = None
    warnings: tuple[str, ...] = ()
    stop: str | None = None
    silent_s: float = 0.0
    requests: list[GenerateRequest] = field(default_factory=list)
    embeds: list[EmbedRequest] = field(default_factory=list)
    reranks: list[RerankRequest] = field(default_factory=list)
    counted: list[GenerateRequest] = field(default_factory=list)
    loads: list[LoadRequest] = field(default_factory=list)
    probes: list[ProbeRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    opened: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    closed: asyncio.Queue[str] = field(default_factory=asyncio.Queue)


class FakeEngine:
    """Plays `script`; obeys the same protocol as ProcessEngine."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self._alive = True
        self._closed = False

    @property
    def pid(self) -> int | None:
        return 4242 if self._alive else None

    @property
    def alive(self) -> bool:
        return self._alive

    async def describe(self) -> EngineBuild:
        self._check_alive()
        if self.script.describe_gate is not None:
            await self.script.describe_gate.acquire()
            self._check_alive()
        return self.script.build

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        self._check_alive()
        self.script.loads.append(request)
        if self.script.load_error is not None:
            raise self.script.load_error
        if self.script.device_crash is not None and request.test_devices:
            self._alive = False
            raise EngineCrashed("It ended.", reason=self.script.device_crash)
        for step in range(5):
            if self.script.load_gate is not None:
                await self.script.load_gate.acquire()
            self._check_alive()
            yield LoadProgress(fraction=step / 4)
            await asyncio.sleep(0)
        settings = request.settings
        yield Loaded(
            allocations=(
                Allocation(device="CPU", kind=BufferKind.WEIGHTS, size_bytes=90_000_000),
                Allocation(device="CPU", kind=BufferKind.KV, size_bytes=94_371_840),
                Allocation(device="CPU", kind=BufferKind.COMPUTE, size_bytes=30_000_000),
                Allocation(device="CPU", kind=BufferKind.OUTPUT, size_bytes=200_000),
            ),
            context=settings.context,
            cells=settings.cells,
            parallel=settings.parallel,
            gpu_layers=0,
            has_chat_template=self.script.has_chat_template,
            vision=self.script.vision,
            chat_template_sha256="0" * 64,
            chat_template_problem=self.script.chat_template_problem,
            load_s=0.5,
            vocabulary=self.script.vocabulary,
            chat_template=FAKE_TEMPLATE if self.script.has_chat_template else None,
            device_test=self.script.device_test if request.test_devices else None,
        )

    async def probe(self, request: ProbeRequest) -> Probed:
        self._check_alive()
        self.script.probes.append(request)
        if self.script.probe_gate is not None:
            await self.script.probe_gate.acquire()
            self._check_alive()
        if self.script.probe_error is not None:
            raise self.script.probe_error
        return Probed(allocations=self.script.allocations)

    async def architectures(self, names: tuple[str, ...]) -> Architectures:
        self._check_alive()
        return Architectures(
            runnable=tuple(each for each in names if each not in self.script.unknown_architectures),
            version=FAKE_BUILD.version,
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        done = False
        try:
            async for event in self._play(request):
                done = isinstance(event, Finished) and event.remaining == 0
                yield event
        except LocalLLMError:
            done = True
            raise
        finally:
            if not done:
                self.script.closed.put_nowait(request.request_id)

    async def _play(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        self._check_alive()
        script = self.script
        script.requests.append(request)
        script.opened.put_nowait(request.request_id)
        if script.accept_gate is not None:
            await script.accept_gate.acquire()
            self._check_alive()
        if script.generate_error is not None:
            raise script.generate_error
        prompt_tokens = len(_prompt_text(request).split())
        yield PromptProgress(request_id=request.request_id, processed=0, total=prompt_tokens)
        if script.prompt_gate is not None:
            await script.prompt_gate.acquire()
        self._check_alive()
        yield PromptProgress(
            request_id=request.request_id,
            processed=prompt_tokens,
            total=prompt_tokens,
            elapsed_s=0.125,
        )
        if request.echo:
            for token in _echoed(request):
                yield token
        for index in range(request.n):
            async for answer in self._answer(request, index, prompt_tokens):
                yield answer

    async def _answer(
        self, request: GenerateRequest, index: int, prompt_tokens: int
    ) -> AsyncGenerator[GenerateEvent, None]:
        script = self.script
        for text in script.reasoning:
            yield Reasoning(request_id=request.request_id, text=text, index=index)
        limit = len(script.tokens) if request.max_tokens is None else request.max_tokens
        sent = 0
        reason = FinishReason.STOP
        for token in script.tokens:
            if sent >= limit:
                reason = FinishReason.LENGTH
                break
            if request.request_id in script.cancelled:
                reason = FinishReason.CANCELLED
                break
            if script.crash_after is not None and sent >= script.crash_after:
                self.kill()
            if script.gate is not None:
                await script.gate.acquire()
            self._check_alive()
            yield Token(request_id=request.request_id, text=token, index=index)
            sent += 1
            await asyncio.sleep(0)
        if reason is FinishReason.STOP and script.calls:
            reason = FinishReason.TOOL_CALLS
            for event in _calls(script.calls, request.request_id, index):
                yield event
        yield Finished(
            request_id=request.request_id,
            reason=reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=sent,
            cached_tokens=0,
            timings=Timings(
                queue_s=0.0,
                ttft_s=0.25,
                total_s=1.25,
                prefill_tps=200.0,
                decode_tps=40.0,
                cache=script.cache,
            ),
            dropped_messages=script.dropped_messages if request.overflow is Overflow.ROLL else 0,
            warnings=script.warnings,
            stop=script.stop,
            index=index,
            remaining=request.n - 1 - index,
            batches=sent,
            batch_share=float(sent),
            host_cache=script.host_cache,
        )

    async def save_state(self, request: SaveState) -> StateSaved:
        self._check_alive()
        tokens = sum(len(message.content.split()) for message in request.messages)
        size_bytes = 1000 * tokens
        if request.max_bytes is not None and size_bytes > request.max_bytes:
            raise StateFailed(f"The cells take {size_bytes} bytes; at most {request.max_bytes}.")
        self.script.states[request.path] = tokens
        return StateSaved(tokens=tokens, size_bytes=size_bytes)

    async def restore_state(self, request: RestoreState) -> StateRestored:
        self._check_alive()
        if request.path not in self.script.states:
            raise StateFailed("There is no file of this conversation's cells.")
        return StateRestored(tokens=self.script.states[request.path])

    async def list_states(self) -> tuple[int, ...]:
        self._check_alive()
        return self.script.conversations

    async def export_state(self, request: ExportState) -> StateSaved:
        """Write the number of tokens, as text, and zeros behind it."""
        self._check_alive()
        if self.script.crash_on_export:
            self.kill()
            self._check_alive()
        tokens = self.script.conversations[request.index]
        if 1000 * tokens > request.max_bytes:
            raise StateFailed("The cells take more than is allowed.")
        _write(request.path, str(tokens).encode(), 1000 * tokens)
        return StateSaved(tokens=tokens, size_bytes=1000 * tokens)

    async def import_state(self, request: ImportState) -> StateRestored:
        self._check_alive()
        if self.script.torn:
            raise StateFailed("The kept cells are not complete.")
        tokens = int(_read(request.path).rstrip(b"\0"))
        self.script.imported.append(tokens)
        return StateRestored(tokens=tokens)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Return a vector for each input that has its length in it."""
        self._check_alive()
        self.script.embeds.append(request)
        if self.script.generate_error is not None:
            raise self.script.generate_error
        vectors = [array("f", [len(given), 1.0, 0.0, -1.0]) for given in request.inputs]
        return Embedded(
            request_id=request.request_id,
            vectors=tuple(vector.tobytes() for vector in vectors),
            tokens=tuple(len(given) for given in request.inputs),
        )

    async def rerank(self, request: RerankRequest) -> Reranked:
        """Return a higher score for a longer document."""
        self._check_alive()
        self.script.reranks.append(request)
        if self.script.generate_error is not None:
            raise self.script.generate_error
        lengths = tuple(len(document) for document in request.documents)
        return Reranked(
            request_id=request.request_id, scores=tuple(map(float, lengths)), tokens=lengths
        )

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """Return the bytes of the text, each of them a token."""
        self._check_alive()
        raw = request.text.encode()
        return Tokenized(
            request_id=request.request_id,
            tokens=tuple(raw),
            pieces=tuple(bytes((byte,)) for byte in raw),
        )

    async def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        self._check_alive()
        if any(token > 255 for token in request.tokens):
            raise BadRequest("A token is above 255.")
        text = bytes(request.tokens).decode("utf-8", "replace")
        return Detokenized(request_id=request.request_id, text=text)

    async def apply_template(self, request: GenerateRequest) -> str:
        self._check_alive()
        self.script.counted.append(request)
        return _prompt_text(request)

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Return the `prompt_tokens` that `generate` reports."""
        self._check_alive()
        self.script.counted.append(request)
        if self.script.generate_error is not None:
            raise self.script.generate_error
        return len(_prompt_text(request).split())

    async def cancel(self, request_id: str) -> None:
        self.script.cancelled.append(request_id)
        if self.script.gate is not None:
            self.script.gate.release()

    def kill(self) -> None:
        """End the process as a SIGKILL would."""
        self._alive = False
        if self.script.gate is not None:
            self.script.gate.release()

    def silent_s(self) -> float:
        return self.script.silent_s

    def memory_bytes(self) -> int | None:
        return 220_000_000 if self._alive else None

    async def close(self) -> None:
        self._alive, self._closed = False, True

    def _check_alive(self) -> None:
        if self._closed:
            raise EngineCrashed("The engine was closed.", reason="closed")
        if not self._alive:
            raise EngineCrashed(
                "The engine's process ended (SIGKILL).",
                reason="SIGKILL",
                log_tail=("fake: killed",),
            )


def _write(path: str, data: bytes, size_bytes: int) -> None:
    Path(path).write_bytes(data)
    os.truncate(path, size_bytes)


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(100)


def _calls(calls: tuple[ToolCall, ...], request_id: str, index: int) -> Iterator[GenerateEvent]:
    """Yield the events of each call, its arguments in two pieces."""
    for number, call in enumerate(calls):
        yield ToolCallBegan(
            request_id=request_id, call=number, id=call.id, name=call.name, index=index
        )
        half = len(call.arguments) // 2
        for text in (call.arguments[:half], call.arguments[half:]):
            yield ToolCallArguments(request_id=request_id, call=number, text=text, index=index)


def _echoed(request: GenerateRequest) -> Iterator[Token]:
    """Yield the tokens of the prompt: one for each word with its blanks where probabilities are
    wanted (1/2, and 1/4 of "else"), the first without one; else one for all of it."""
    text = _prompt_text(request)
    if request.top_logprobs is None or request.messages is None:
        yield Token(request_id=request.request_id, text=text, of_prompt=True)
        return
    yield Token(request_id=request.request_id, text="", of_prompt=True)
    for word in re.findall(r"\s*\S+|\s+\Z", text):
        own, other = _logprob(word, 0.5), _logprob(" else", 0.25)
        yield Token(
            request_id=request.request_id,
            text=word,
            logprob=own,
            top_logprobs=(own, other)[: request.top_logprobs],
            of_prompt=True,
        )


def _logprob(text: str, probability: float) -> TokenLogprob:
    raw = tuple(text.encode())
    return TokenLogprob(token=len(raw), text=text, raw=raw, logprob=math.log(probability))


def _prompt_text(request: GenerateRequest) -> str:
    if request.prompt is not None:
        return request.prompt
    if request.prompt_tokens is not None:
        return " ".join(map(str, request.prompt_tokens))
    return " ".join(message.content for message in request.messages or ())
