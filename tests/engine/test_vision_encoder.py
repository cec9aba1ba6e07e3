"""Images among the tokens of a prompt: the scheduler puts each where llama.cpp's own helper would
have put it."""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from localllm.core.sizing.load import LoadSettings, Mmproj
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    PromptProgress,
    RequestError,
)
from localllm.engine.worker.binding import llama, mtmd
from localllm.engine.worker.prompt.prompt import ImageChunk, Prompt, PromptPart
from localllm.engine.worker.vision_encoder import VisionEncoder
from tests.engine import fake_vision, native, tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import NEAR_TIE, SteppedScheduler, log, settings


@dataclass(frozen=True)
class Kind:
    model: Callable[[Path], Path]
    mmproj: Callable[..., Path]


KINDS = {
    "one position a token": Kind(tiny.plain, fake_vision.llava),
    "two dimensions": Kind(tiny.two_dimensional, fake_vision.qwen),
    "non-causal": Kind(tiny.windowed, fake_vision.gemma),
    "beside a recurrent state": Kind(tiny.hybrid, fake_vision.llava),
}


class SteppedVision(SteppedScheduler):
    """A stepped model with an image encoder; prompts are text and images."""

    def __init__(self, model: Path, mmproj: Path, load: LoadSettings) -> None:
        super().__init__(model, load)
        self.encoder = VisionEncoder(Mmproj(path=str(mmproj)), self.model, log=log())

    def close(self) -> None:
        self.encoder.close()
        super().close()

    def tokenize(self, *parts: PromptPart) -> Prompt:
        return self.encoder.tokenize(parts)

    def submit_parts(self, request_id: str, *parts: PromptPart, max_tokens: int = 8) -> Prompt:
        prompt = self.tokenize(*parts)
        request = GenerateRequest(
            request_id=request_id, prompt="...", sampling=GREEDY, max_tokens=max_tokens
        )
        self.scheduler.submit(request, prompt, 0.0)
        return prompt

    def answer(self, *parts: PromptPart) -> str:
        start = f"answer{len(self.events)}"
        self.submit_parts(start, *parts)
        self.run()
        return self.text(start)

    def last_logits(self) -> np.ndarray:
        found = llama.llama_get_logits_ith(self.model.handle, -1)
        return np.ctypeslib.as_array(found, (self.model.vocab.size,)).copy()

    def helper_logits(self, *parts: PromptPart) -> np.ndarray:
        """What llama.cpp's own way through text and images (mtmd_helper_eval_chunks) leads to."""
        self.scheduler.kv_cache.clear(0)
        images = [i for i, part in enumerate(parts) if isinstance(part, bytes)]
        chunks, bitmaps = (
            mtmd.mtmd_input_chunks_init(),
            iter(
                [self.encoder._bitmap(parts[i], pixels=True) for i in images]  # type: ignore[arg-type]
            ),
        )
        self.encoder._cut(chunks, parts, bitmaps)
        after = llama.llama_pos(0)
        status = native.mtmd_helper_eval_chunks(
            self.encoder._context, self.model.handle, chunks, 0, 0, self.model.max_batch_tokens,
            True, ctypes.byref(after),
        )  # fmt: skip
        assert status == 0
        logits = self.last_logits()
        native.llama_memory_clear(llama.llama_get_memory(self.model.handle), True)
        return logits


@pytest.fixture(scope="module", params=KINDS)
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A tiny model and its encoder, of each kind."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("vision")
    return (
        kind.model(folder / "model.gguf"),
        kind.mmproj(folder / "mmproj.gguf", embedding=tiny.WIDTH),
    )


@pytest.fixture
def stepped(files: tuple[Path, Path]) -> Iterator[SteppedVision]:
    stepped = SteppedVision(*files, settings(parallel=3))
    yield stepped
    stepped.close()


@pytest.fixture
def alone(files: tuple[Path, Path]) -> Iterator[SteppedVision]:
    """The same model, that nothing else has happened to."""
    alone = SteppedVision(*files, settings(parallel=1))
    yield alone
    alone.close()


def only_image(prompt: Prompt) -> ImageChunk:
    assert prompt.images is not None
    (image,) = prompt.images.chunks
    return image


LONG = "A-text-that-takes-more-than-one-chunk-of-a-prompt,before-an-image:"


def test_a_prompt_leads_where_llama_cpps_own_helper_leads(
    stepped: SteppedVision, alone: SteppedVision
) -> None:
    for parts in (
        ("Look:", fake_vision.png(1), "what?"),
        (LONG, fake_vision.png(1), LONG, fake_vision.png(2, width=64, height=32), "what?"),
        (fake_vision.png(3), fake_vision.png(4), "?"),
    ):
        stepped.submit_parts(f"r{len(parts)}{parts[0]!r:.9}", *parts, max_tokens=1)
        stepped.run()
        difference = np.abs(stepped.last_logits() - alone.helper_logits(*parts))
        assert difference.max() < NEAR_TIE


def test_two_images_are_two_prompts_and_the_same_one_is_not_computed_again(
    stepped: SteppedVision,
) -> None:
    logits = {}
    for name, seed in (("one", 1), ("other", 2), ("again", 1)):
        prompt = stepped.submit_parts(name, "See:", fake_vision.png(seed), "what?", max_tokens=1)
        stepped.run()
        logits[name] = stepped.last_logits()
    assert np.abs(logits["one"] - logits["other"]).max() > 10 * NEAR_TIE
    assert np.abs(logits["one"] - logits["again"]).max() < NEAR_TIE
    other, again = stepped.end("other"), stepped.end("again")
    assert isinstance(other, Finished)
    assert isinstance(again, Finished)
    image = only_image(prompt)
    assert other.cached_tokens <= image.start
    assert again.cached_tokens >= image.end or not stepped.memory.can_rewind


def test_the_prompt_counts_every_cell_of_an_image(stepped: SteppedVision) -> None:
    prompt = stepped.submit_parts("r", "See:", fake_vision.png(1, width=64, height=32), "what?")
    stepped.run()
    end = stepped.end("r")
    assert isinstance(end, Finished)
    image = only_image(prompt)
    assert end.prompt_tokens == len(prompt) - image.positions + image.cells


def test_requests_with_and_without_images_get_the_answers_they_get_alone(
    stepped: SteppedVision, alone: SteppedVision
) -> None:
    requests: dict[str, tuple[PromptPart, ...]] = {
        "first": ("Look:", fake_vision.png(5), "what?"),
        "text": (LONG,),
        "second": ("Look:", fake_vision.png(6), "and", fake_vision.png(5), "?"),
    }
    for name, parts in requests.items():
        stepped.submit_parts(name, *parts)
    stepped.run()
    for name, parts in requests.items():
        alone.scheduler.kv_cache.clear(0)
        assert stepped.text(name) == alone.answer(*parts)


def test_nobody_waits_for_two_images(stepped: SteppedVision) -> None:
    stepped.submit("answers", "A-question", max_tokens=30)
    while not stepped.text("answers"):
        stepped.step()
    stepped.submit_parts(
        "images", fake_vision.png(1), "a", fake_vision.png(2), "b", fake_vision.png(3), "c"
    )
    stepped.submit_parts("more-images", fake_vision.png(4), "a", fake_vision.png(5), "b")
    while isinstance(stepped.events[-1], RequestError | PromptProgress) or stepped.scheduler._queue:
        stepped.step()
    for _ in range(6):
        before = len(stepped.text("answers"))
        stepped.step()
        assert len(stepped.text("answers")) == before + 1


def test_an_image_that_is_interrupted_is_computed_again(
    stepped: SteppedVision, alone: SteppedVision
) -> None:
    parts = ("Look:", fake_vision.png(1), "what?")
    stepped.submit_parts("r", *parts)
    for _ in range(3):
        stepped.step(aborted=True)
    assert not stepped.text("r")
    stepped.run()
    assert stepped.text("r") == alone.answer(*parts)


def test_a_request_that_is_cancelled_at_its_image_leaves_nothing_behind(
    stepped: SteppedVision,
) -> None:
    stepped.submit_parts("gone", LONG, fake_vision.png(1), "what?")
    stepped.step()
    stepped.scheduler.cancel("gone")
    end = stepped.end("gone")
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.CANCELLED
    assert stepped.answer("Look:", fake_vision.png(1), "what?")


def test_a_broken_file_is_an_error_of_its_request_alone(stepped: SteppedVision) -> None:
    stepped.submit_parts("text", "A-question")
    whole = fake_vision.png(1)
    stepped.submit_parts("images", "Look:", whole[:-40] + bytes(40), "what?")
    stepped.run()
    end = stepped.end("images")
    assert isinstance(end, RequestError)
    assert end.code == "bad_request"
    assert "PNG" in end.message
    assert isinstance(stepped.end("text"), Finished)


def test_an_image_of_which_the_cache_has_a_part_is_computed_whole(
    stepped: SteppedVision, alone: SteppedVision
) -> None:
    parts = ("Look:", fake_vision.png(1, width=64, height=32), "what?")
    stepped.submit_parts("first", *parts)
    stepped.run()
    image = only_image(stepped.tokenize(*parts))
    for slot, held in stepped.scheduler.kv_cache.tokens.items():
        if len(held) > image.start:
            stepped.scheduler.kv_cache.truncate(slot, image.end - 1)
    stepped.submit_parts("again", *parts)
    stepped.run()
    assert stepped.text("again") == alone.answer(*parts)
