"""Pictures among the tokens of a prompt: wherever the scheduler puts one, llama.cpp's own helper
would have put it there too."""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as llama
import llama_cpp.mtmd_cpp as mtmd
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
from localllm.engine.worker.prompt.image_prompt import Part, PicturePrompt
from localllm.engine.worker.vision_encoder import VisionEncoder
from tests.engine import eyes, tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import NEAR_TIE, SteppedScheduler, log, settings


@dataclass(frozen=True)
class Kind:
    model: Callable[[Path], Path]
    mmproj: Callable[..., Path]


KINDS = {
    "one position a token": Kind(tiny.plain, eyes.llava),
    "two dimensions": Kind(tiny.two_dimensional, eyes.qwen),
    "looks at all of itself": Kind(tiny.windowed, eyes.gemma),
    "beside a state": Kind(tiny.hybrid, eyes.llava),
}


class Seeing(SteppedScheduler):
    """A stepped model with an encoder; prompts are text and images."""

    def __init__(self, model: Path, mmproj: Path, load: LoadSettings) -> None:
        super().__init__(model, load)
        self.mmproj = VisionEncoder(Mmproj(path=str(mmproj)), self.model, log=log())

    def close(self) -> None:
        self.mmproj.close()
        super().close()

    def read(self, *parts: Part) -> PicturePrompt:
        return self.mmproj.read(parts)

    def show(self, request_id: str, *parts: Part, max_tokens: int = 8) -> PicturePrompt:
        prompt = self.read(*parts)
        request = GenerateRequest(
            request_id=request_id, prompt="...", sampling=GREEDY, max_tokens=max_tokens
        )
        self.scheduler.submit(request, prompt, 0.0)
        return prompt

    def asked(self, *parts: Part) -> str:
        start = f"asked{len(self.events)}"
        self.show(start, *parts)
        self.run()
        return self.text(start)

    def last_logits(self) -> np.ndarray:
        found = llama.llama_get_logits_ith(self.model.handle, -1)
        return np.ctypeslib.as_array(found, (self.model.vocab.size,)).copy()

    def helped_logits(self, *parts: Part) -> np.ndarray:
        """What llama.cpp's own way through text and images (mtmd_helper_eval_chunks) leads to."""
        self.scheduler.kv_cache.clear(0)
        images = [i for i, part in enumerate(parts) if isinstance(part, bytes)]
        chunks, bitmaps = (
            mtmd.mtmd_input_chunks_init(),
            iter(
                [self.mmproj._bitmap(parts[i], pixels=True) for i in images]  # type: ignore[arg-type]
            ),
        )
        self.mmproj._cut(chunks, parts, bitmaps)
        after = llama.llama_pos(0)
        status = mtmd.mtmd_helper_eval_chunks(
            self.mmproj._context, self.model.handle, chunks, 0, 0, self.model.max_batch_tokens,
            True, ctypes.byref(after),
        )  # fmt: skip
        assert status == 0
        logits = self.last_logits()
        llama.llama_memory_clear(llama.llama_get_memory(self.model.handle), True)
        return logits


@pytest.fixture(scope="module", params=KINDS)
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A tiny model and its encoder, of each kind."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("seeing")
    return (
        kind.model(folder / "model.gguf"),
        kind.mmproj(folder / "mmproj.gguf", embedding=tiny.WIDTH),
    )


@pytest.fixture
def seeing(files: tuple[Path, Path]) -> Iterator[Seeing]:
    seeing = Seeing(*files, settings(parallel=3))
    yield seeing
    seeing.close()


@pytest.fixture
def alone(files: tuple[Path, Path]) -> Iterator[Seeing]:
    """The same model, that nothing else has happened to."""
    alone = Seeing(*files, settings(parallel=1))
    yield alone
    alone.close()


LONG = "A-text-that-takes-more-than-one-chunk-of-a-prompt,before-a-picture:"


def test_a_prompt_leads_where_llama_cpps_own_helper_leads(seeing: Seeing, alone: Seeing) -> None:
    for parts in (
        ("Look:", eyes.png(1), "what?"),
        (LONG, eyes.png(1), LONG, eyes.png(2, width=64, height=32), "what?"),
        (eyes.png(3), eyes.png(4), "?"),
    ):
        seeing.show(f"r{len(parts)}{parts[0]!r:.9}", *parts, max_tokens=1)
        seeing.run()
        difference = np.abs(seeing.last_logits() - alone.helped_logits(*parts))
        assert difference.max() < NEAR_TIE


def test_two_pictures_are_two_prompts_and_the_same_one_is_not_computed_again(
    seeing: Seeing,
) -> None:
    said = {}
    for name, seed in (("one", 1), ("other", 2), ("again", 1)):
        prompt = seeing.show(name, "See:", eyes.png(seed), "what?", max_tokens=1)
        seeing.run()
        said[name] = seeing.last_logits()
    assert np.abs(said["one"] - said["other"]).max() > 10 * NEAR_TIE
    assert np.abs(said["one"] - said["again"]).max() < NEAR_TIE
    other, again = seeing.end("other"), seeing.end("again")
    assert isinstance(other, Finished) and isinstance(again, Finished)
    (picture,) = prompt.pictures
    assert other.cached_tokens <= picture.start
    assert again.cached_tokens >= picture.end or not seeing.memory.can_rewind


def test_the_prompt_counts_every_cell_of_a_picture(seeing: Seeing) -> None:
    prompt = seeing.show("r", "See:", eyes.png(1, width=64, height=32), "what?")
    seeing.run()
    end = seeing.end("r")
    assert isinstance(end, Finished)
    (picture,) = prompt.pictures
    assert end.prompt_tokens == len(prompt) - picture.positions + picture.cells


def test_who_sees_and_who_reads_get_the_answers_they_get_alone(
    seeing: Seeing, alone: Seeing
) -> None:
    asked: dict[str, tuple[Part, ...]] = {
        "first": ("Look:", eyes.png(5), "what?"),
        "reads": (LONG,),
        "second": ("Look:", eyes.png(6), "and", eyes.png(5), "?"),
    }
    for name, parts in asked.items():
        seeing.show(name, *parts)
    seeing.run()
    for name, parts in asked.items():
        alone.scheduler.kv_cache.clear(0)
        assert seeing.text(name) == alone.asked(*parts)


def test_nobody_waits_for_two_pictures(seeing: Seeing) -> None:
    seeing.submit("answers", "A-question", max_tokens=30)
    while not seeing.text("answers"):
        seeing.step()
    seeing.show("sees", eyes.png(1), "a", eyes.png(2), "b", eyes.png(3), "c")
    seeing.show("sees-too", eyes.png(4), "a", eyes.png(5), "b")
    while isinstance(seeing.events[-1], RequestError | PromptProgress) or seeing.scheduler._queue:
        seeing.step()
    for _ in range(6):
        before = len(seeing.text("answers"))
        seeing.step()
        assert len(seeing.text("answers")) == before + 1


def test_a_picture_that_is_interrupted_is_computed_again(seeing: Seeing, alone: Seeing) -> None:
    parts = ("Look:", eyes.png(1), "what?")
    seeing.show("r", *parts)
    for _ in range(3):
        seeing.step(aborted=True)
    assert not seeing.text("r")
    seeing.run()
    assert seeing.text("r") == alone.asked(*parts)


def test_a_request_that_is_cancelled_at_its_picture_leaves_nothing_behind(seeing: Seeing) -> None:
    seeing.show("gone", LONG, eyes.png(1), "what?")
    seeing.step()
    seeing.scheduler.cancel("gone")
    end = seeing.end("gone")
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.CANCELLED
    assert seeing.asked("Look:", eyes.png(1), "what?")


def test_a_broken_file_is_an_error_of_its_request_alone(seeing: Seeing) -> None:
    seeing.show("reads", "A-question")
    whole = eyes.png(1)
    seeing.show("sees", "Look:", whole[:-40] + bytes(40), "what?")
    seeing.run()
    end = seeing.end("sees")
    assert isinstance(end, RequestError)
    assert end.code == "bad_request"
    assert "PNG" in end.message
    assert isinstance(seeing.end("reads"), Finished)


def test_a_picture_of_which_the_cache_has_a_part_is_computed_whole(
    seeing: Seeing, alone: Seeing
) -> None:
    parts = ("Look:", eyes.png(1, width=64, height=32), "what?")
    seeing.show("first", *parts)
    seeing.run()
    (picture,) = seeing.read(*parts).pictures
    for slot, held in seeing.scheduler.kv_cache.tokens.items():
        if len(held) > picture.start:
            seeing.scheduler.kv_cache.truncate(slot, picture.end - 1)
    seeing.show("again", *parts)
    seeing.run()
    assert seeing.text("again") == alone.asked(*parts)
