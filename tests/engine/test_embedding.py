"""Embeddings and ranking through the real worker, against the same arithmetic in numpy."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from localllm.core.sizing import footprint
from localllm.core.sizing.embedding import with_embedding_defaults
from localllm.core.sizing.load import (
    BufferKind,
    FlashAttention,
    Graphs,
    LoadSettings,
    Lora,
    Pooling,
)
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    Embedded,
    EmbedRequest,
    GenerateRequest,
    Loaded,
    LoadRequest,
    RerankRequest,
)
from localllm.errors import (
    BadRequest,
    ContextOverflow,
    EngineCrashed,
    GenerationFailed,
    UsageError,
)
from localllm.library.store.inspect import inspect_model
from tests.engine import forged_lora, native, tiny, tiny_encoder
from tests.engine.answers import ask, collect
from tests.engine.tiny_encoder import CLS, SEP, token

SETTINGS = LoadSettings(
    context=48, parallel=3, threads=1, embeddings=True, flash_attention=FlashAttention.OFF
)
TEXTS = ("the fox runs", "the red dog sleeps far away", "sea", "blue seas")
NEAR = 2e-3  # ggml looks the GELU up in a table of halves


@asynccontextmanager
async def loaded(path: Path, settings: LoadSettings = SETTINGS) -> AsyncIterator[ProcessEngine]:
    engine = ProcessEngine()
    try:
        async for _ in engine.load(LoadRequest(path=str(path), settings=settings)):
            pass
        yield engine
    finally:
        await engine.close()


def numbers(embedded: Embedded) -> list[np.ndarray]:
    return [np.array(array("f", vector)) for vector in embedded.vectors]


def tokens(text: str) -> list[int]:
    """Of the words the tiny model knows."""
    return [CLS, *(token(word) for word in text.split()), SEP]


def expected(ids: list[int], pooling: Pooling, *, normalize: bool = True) -> np.ndarray:
    rows = tiny_encoder.rows(ids)
    pooled = {Pooling.MEAN: rows.mean(axis=0), Pooling.CLS: rows[0], Pooling.LAST: rows[-1]}
    found = pooled[pooling]
    return np.asarray(found / np.linalg.norm(found) if normalize else found)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.encoder(tmp_path_factory.mktemp("encoder") / "bert.gguf")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "rank.gguf"
    return tiny_encoder.encoder(path, pooling=gguf.PoolingType.RANK, classifier=True)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.LAST])
async def test_vectors_are_those_of_the_arithmetic_written_down(
    encoder: Path, pooling: Pooling
) -> None:
    async with loaded(encoder) as engine:
        request = EmbedRequest(request_id="a", inputs=TEXTS[:3], pooling=pooling)
        answer = await engine.embed(request)
        for text, found in zip(TEXTS, numbers(answer), strict=False):
            assert np.abs(found - expected(tokens(text), pooling)).max() < NEAR
            assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
        assert answer.tokens == tuple(len(tokens(text)) for text in TEXTS[:3])
        assert answer.prompt_tokens == sum(answer.tokens)


@pytest.mark.parametrize("ubatch", [64, 256])
async def test_what_was_allocated_is_what_was_estimated(smollm2: Path, ubatch: int) -> None:
    settings = LoadSettings(context=512, parallel=2, embeddings=True, ubatch=ubatch, batch=ubatch)
    spec = inspect_model(smollm2).spec
    settings = replace(with_embedding_defaults(spec, settings), graphs=native.GRAPHS)
    engine = ProcessEngine()
    try:
        events = [e async for e in engine.load(LoadRequest(path=str(smollm2), settings=settings))]
    finally:
        await engine.close()
    (loaded_,) = (event for event in events if isinstance(event, Loaded))
    sizes = {part.kind: part.size_bytes for part in loaded_.allocations}
    estimate = footprint.of(spec, settings)
    assert sizes[BufferKind.OUTPUT] == estimate.output_bytes
    near = 0.001 if native.GRAPHS is Graphs.B0C1E570 else 0.005
    assert sizes[BufferKind.COMPUTE] == pytest.approx(estimate.compute_bytes, rel=near, abs=2**14)
    assert sizes[BufferKind.KV] == pytest.approx(estimate.kv_bytes, abs=2**14)


async def test_the_models_own_pooling_is_the_default(tmp_path: Path) -> None:
    path = tiny_encoder.encoder(tmp_path / "cls.gguf", pooling=gguf.PoolingType.CLS)
    async with loaded(path) as engine:
        own = await engine.embed(EmbedRequest(request_id="a", inputs=("the fox",)))
        named = await engine.embed(
            EmbedRequest(request_id="b", inputs=("the fox",), pooling=Pooling.CLS)
        )
    assert own.vectors == named.vectors


async def test_rows_of_every_token_and_lengths_as_computed(encoder: Path) -> None:
    async with loaded(encoder) as engine:
        request = EmbedRequest(
            request_id="a", inputs=("the fox",), pooling=Pooling.NONE, normalize=False
        )
        (found,) = numbers(await engine.embed(request))
        rows = tiny_encoder.rows(tokens("the fox"))
        assert np.abs(found.reshape(rows.shape) - rows).max() < 10 * NEAR


async def test_many_inputs_are_those_of_each_alone_whoever_else_asks(encoder: Path) -> None:
    async with loaded(encoder) as engine:
        inputs = tuple(TEXTS[i % 4] for i in range(40))
        requests = [EmbedRequest(request_id=f"r{i}", inputs=inputs) for i in range(3)]
        answers = await asyncio.gather(*(engine.embed(request) for request in requests))
        alone = [
            numbers(await engine.embed(EmbedRequest(request_id=text, inputs=(text,))))[0]
            for text in TEXTS
        ]
        for answer in answers:
            for i, found in enumerate(numbers(answer)):
                assert np.abs(found - alone[i % 4]).max() < 1e-5


async def test_token_lists_are_texts_that_are_tokens_already(encoder: Path) -> None:
    async with loaded(encoder) as engine:
        ids = tuple(tokens("the red fox"))
        request = EmbedRequest(request_id="a", inputs=("the red fox", ids))
        text, listed = numbers(await engine.embed(request))
        assert np.abs(text - listed).max() < 1e-5
        with pytest.raises(BadRequest, match=r"input\[1\] has the token 5000"):
            await engine.embed(EmbedRequest(request_id="b", inputs=((CLS,), (5000,))))


async def test_a_text_too_long_is_named_with_both_numbers_or_cut_when_asked(encoder: Path) -> None:
    long = "fox " * 60
    async with loaded(encoder) as engine:
        request = EmbedRequest(request_id="a", inputs=("sea", long))
        with pytest.raises(ContextOverflow, match=r"input\[1\] has 62 tokens.* at most 48"):
            await engine.embed(request)
        cut = EmbedRequest(request_id="b", inputs=(long,), truncate=True)
        answer = await engine.embed(cut)
        kept = [CLS, *[token("fox")] * 46, SEP]
        assert answer.tokens == (48,)
        assert np.abs(numbers(answer)[0] - expected(kept, Pooling.MEAN)).max() < NEAR
        with pytest.raises(ContextOverflow, match=r"input\[0\] has more than"):
            await engine.embed(EmbedRequest(request_id="c", inputs=("fox " * 10**5,)))
        await engine.embed(EmbedRequest(request_id="d", inputs=("fox " * 10**5,), truncate=True))


@pytest.mark.parametrize("inputs", [(), ("",), ("sea", ()), ("sea",) * 2049, ((-1,),)])
async def test_nonsense_is_an_error_of_that_request(
    encoder: Path, inputs: tuple[str | tuple[int, ...], ...]
) -> None:
    async with loaded(encoder) as engine:
        with pytest.raises(BadRequest):
            await engine.embed(EmbedRequest(request_id="a", inputs=inputs))
        assert await engine.embed(EmbedRequest(request_id="a", inputs=("sea",)))


async def test_dimensions_are_for_models_that_say_so(encoder: Path, tmp_path: Path) -> None:
    request = EmbedRequest(request_id="a", inputs=("the fox",), dimensions=8)
    async with loaded(encoder) as engine:
        with pytest.raises(BadRequest, match="dimensions is 8; the vectors of this model have 32"):
            await engine.embed(request)
    marked = tiny_encoder.encoder(tmp_path / "m.gguf", tags=("x", "Matryoshka"))
    async with loaded(marked) as engine:
        (short,) = numbers(await engine.embed(request))
        first = expected(tokens("the fox"), Pooling.MEAN, normalize=False)[:8]
        assert np.abs(short - first / np.linalg.norm(first)).max() < NEAR
        with pytest.raises(BadRequest, match="this model has 32"):
            await engine.embed(EmbedRequest(request_id="b", inputs=("sea",), dimensions=33))


async def test_scores_are_those_of_the_classifier(reranker: Path) -> None:
    async with loaded(reranker) as engine:
        documents = ("fox runs", "sea", "the dog sleeps")
        request = RerankRequest(request_id="a", query="red fox", documents=documents)
        answer = await engine.rerank(request)
        for document, found in zip(documents, answer.scores, strict=True):
            query, words = tokens("red fox"), tokens(document)[1:-1]
            assert found == pytest.approx(tiny_encoder.score([*query, *words]), abs=10 * NEAR)
        again = RerankRequest(request_id="b", query="red fox", documents=documents[1:2])
        assert (await engine.rerank(again)).scores == pytest.approx(answer.scores[1:2], abs=1e-5)


async def test_a_document_too_long_is_named_or_cut_when_asked(reranker: Path) -> None:
    documents = ("sea", "fox " * 60)
    async with loaded(reranker) as engine:
        request = RerankRequest(request_id="a", query="dog", documents=documents)
        with pytest.raises(ContextOverflow, match=r"documents\[1\] .* has 63 tokens.* at most 48"):
            await engine.rerank(request)
        cut = RerankRequest(request_id="a", query="dog", documents=documents, truncate=True)
        assert (await engine.rerank(cut)).tokens == (4, 48)
        with pytest.raises(BadRequest, match="ranks: send a query"):
            await engine.embed(EmbedRequest(request_id="b", inputs=("sea",)))


async def test_each_load_does_what_it_was_made_for(encoder: Path, smollm2: Path) -> None:
    async with loaded(encoder) as engine:
        with pytest.raises(BadRequest, match="writes no answers"):
            await collect(engine, ask("a", "Hello"))
        with pytest.raises(BadRequest, match="does not rank"):
            await engine.rerank(RerankRequest(request_id="b", query="a", documents=("b",)))
        with pytest.raises(BadRequest, match="rank is no pooling"):
            request = EmbedRequest(request_id="c", inputs=("sea",), pooling=Pooling.RANK)
            await engine.embed(request)
    async with loaded(smollm2, LoadSettings(context=256, threads=1)) as engine:
        with pytest.raises(BadRequest, match="--embeddings"):
            await engine.embed(EmbedRequest(request_id="a", inputs=("Hello",)))


async def test_an_encoder_loaded_to_answer_says_that_it_cannot(encoder: Path) -> None:
    async with loaded(encoder, LoadSettings(context=48, threads=1)) as engine:
        request = GenerateRequest(request_id="a", prompt="the fox")
        for _ in range(2):
            with pytest.raises(BadRequest, match="is an encoder"):
                await collect(engine, request)


async def test_a_model_without_a_classifier_is_not_loaded_to_rank(encoder: Path) -> None:
    settings = LoadSettings(context=48, embeddings=True, pooling=Pooling.RANK)
    with pytest.raises(UsageError, match="no classifier"):
        async with loaded(encoder, settings):
            pass


@pytest.mark.parametrize("make", [tiny.plain, tiny.windowed, tiny.recurrent, tiny.hybrid])
async def test_a_text_in_pieces_is_the_text_in_one(make: object, tmp_path: Path) -> None:
    path = make(tmp_path / "model.gguf")  # type: ignore[operator]  # a function of tiny's
    text = "thequickbrownfoxjumpsoverthelazydog" * 4
    found = []
    for ubatch in (256, 32):
        settings = LoadSettings(
            context=256, parallel=2, batch=ubatch, ubatch=ubatch, threads=1, embeddings=True,
            flash_attention=FlashAttention.OFF,
        )  # fmt: skip
        async with loaded(path, settings) as engine:
            for pooling in (Pooling.MEAN, Pooling.LAST):
                request = EmbedRequest(request_id="a", inputs=(text, "short"), pooling=pooling)
                found.append(numbers(await engine.embed(request)))
    for whole, pieces in zip(found[:2], found[2:], strict=True):
        for one, other in zip(whole, pieces, strict=True):
            assert np.abs(one - other).max() < 1e-3


async def test_who_asks_for_one_vector_does_not_wait_for_a_thousand(encoder: Path) -> None:
    answered = []

    async def ask_for(engine: ProcessEngine, request: EmbedRequest) -> None:
        await engine.embed(request)
        answered.append(request.request_id)

    async with loaded(encoder) as engine:
        await asyncio.gather(
            ask_for(engine, EmbedRequest(request_id="many", inputs=TEXTS * 500)),
            ask_for(engine, EmbedRequest(request_id="one", inputs=("sea",))),
        )
    assert answered == ["one", "many"]


async def test_an_answer_too_large_for_the_wire_is_refused(smollm2: Path) -> None:
    settings = LoadSettings(context=256, parallel=2, threads=1, embeddings=True)
    async with loaded(smollm2, settings) as engine:
        inputs = ("word " * 200,) * 120
        request = EmbedRequest(request_id="a", inputs=inputs, pooling=Pooling.NONE)
        with pytest.raises(BadRequest, match=r"would take .* one answer can have 40"):
            await engine.embed(request)


async def test_who_gives_up_ends_the_work(smollm2: Path) -> None:
    settings = LoadSettings(context=256, parallel=2, threads=1, embeddings=True)
    async with loaded(smollm2, settings) as engine:
        task = asyncio.create_task(
            engine.embed(EmbedRequest(request_id="a", inputs=("word " * 200,) * 1000))
        )
        await engine.embed(EmbedRequest(request_id="b", inputs=("Hello",)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Commands are taken in order: when this is answered, "a" has ended.
        await engine.embed(EmbedRequest(request_id="c", inputs=("Hello",)))
        await engine.embed(EmbedRequest(request_id="a", inputs=("Hello",)))


async def test_a_killed_engine_is_an_error_of_every_request_in_flight(smollm2: Path) -> None:
    settings = LoadSettings(context=256, parallel=2, threads=1, embeddings=True)
    async with loaded(smollm2, settings) as engine:
        tasks = [
            asyncio.create_task(
                engine.embed(EmbedRequest(request_id=f"{i}", inputs=("word " * 200,) * 300))
            )
            for i in range(3)
        ]
        await engine.embed(EmbedRequest(request_id="first", inputs=("Hello",)))
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        for task in tasks:
            with pytest.raises(EngineCrashed, match="SIGKILL"):
                await task


@pytest.mark.parametrize(("pooling", "number"), [(Pooling.MEAN, 1), (Pooling.LAST, 3)])
async def test_the_starter_models_vectors_are_those_of_the_high_level_api(
    smollm2: Path, pooling: Pooling, number: int
) -> None:
    text = "The sky is blue because air scatters short waves more than long ones."
    theirs = await asyncio.to_thread(of_the_high_level_api, smollm2, number, text)
    settings = LoadSettings(context=256, threads=2, embeddings=True, ubatch=8, batch=8)
    async with loaded(smollm2, settings) as engine:
        request = EmbedRequest(request_id="a", inputs=(text,), pooling=pooling)
        (found,) = numbers(await engine.embed(request))
    assert float(found @ theirs) > 0.999


def of_the_high_level_api(path: Path, pooling: int, text: str) -> np.ndarray:
    done = subprocess.run(
        [sys.executable, "-c", _HIGH_LEVEL, str(path), str(pooling), text],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return np.array(json.loads(done.stdout))


_HIGH_LEVEL = """
import json, sys
from llama_cpp import Llama
path, pooling, text = sys.argv[1:]
model = Llama(path, embedding=True, pooling_type=int(pooling), n_ctx=256, verbose=False)
print(json.dumps(model.embed(text, normalize=True)))
"""


@pytest.mark.parametrize("template", ["{query} sea {document}", "sea {document} red"])
async def test_a_template_of_the_model_joins_the_pair(tmp_path: Path, template: str) -> None:
    path = tiny_encoder.encoder(
        tmp_path / "rank.gguf", pooling=gguf.PoolingType.RANK, classifier=True, template=template
    )
    async with loaded(path) as engine:
        request = RerankRequest(request_id="a", query="fox {document}", documents=("dog",))
        answer = await engine.rerank(request)
        long = RerankRequest(request_id="b", query="fox", documents=("dog " * 99,), truncate=True)
        assert (await engine.rerank(long)).tokens[0] <= 48
    words = template.replace("{document}", "dog").split()
    ids = [token(word) for word in words if word != "{query}"]
    if "{query}" not in template:
        expected_score = tiny_encoder.score(ids)
        assert answer.scores[0] == pytest.approx(expected_score, abs=10 * NEAR)
    assert answer.tokens[0] >= len(ids)


async def test_control_tokens_in_documents_are_text(tmp_path: Path) -> None:
    path = tiny_encoder.encoder(
        tmp_path / "rank.gguf",
        pooling=gguf.PoolingType.RANK,
        classifier=True,
        template="{query} sea {document}",
    )
    counts = []
    for parse_special in (False, True):
        async with loaded(path, replace(SETTINGS, parse_special=parse_special)) as engine:
            request = RerankRequest(request_id="a", query="fox", documents=("dog", "dog [SEP]"))
            counts.append((await engine.rerank(request)).tokens)
    as_text, as_control = counts
    assert as_text[0] == as_control[0]
    assert as_control[1] == as_control[0] + 1 < as_text[1]


async def test_adapters_of_the_load_change_the_vectors(tmp_path: Path) -> None:
    model = tiny.plain(tmp_path / "plain.gguf")
    adapter = forged_lora.forge(tmp_path / "lora.gguf", model)
    found = []
    for loras in ((), (Lora(path=str(adapter)),)):
        settings = LoadSettings(context=64, threads=1, embeddings=True, loras=loras)
        async with loaded(model, settings) as engine:
            request = EmbedRequest(request_id="a", inputs=("words",))
            found += numbers(await engine.embed(request))
    assert np.abs(found[0] - found[1]).max() > 0.01


async def test_a_cancelled_request_leaves_the_others_alone(smollm2: Path) -> None:
    settings = LoadSettings(context=256, parallel=2, threads=1, embeddings=True)
    async with loaded(smollm2, settings) as engine:
        long = EmbedRequest(request_id="long", inputs=("word " * 200,) * 200)
        task = asyncio.create_task(engine.embed(long))
        short = await engine.embed(EmbedRequest(request_id="first", inputs=("Hello",)))
        assert not task.done() or not task.exception()
        with pytest.raises(GenerationFailed, match="cancelled"):
            await asyncio.gather(task, engine.cancel("long"))
        again = await engine.embed(EmbedRequest(request_id="long", inputs=("Hello",)))
        near = np.abs(numbers(short)[0] - numbers(again)[0]).max()
        assert near < 1e-3
