"""The file that is taken on a machine, from fake repositories of published models."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from localllm.core import gguf
from localllm.core.catalogue import catalogue
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend import Goal, Machine, Preferences, plans
from localllm.core.recommend.repository import offers_of
from localllm.core.sizing.load import Mmproj
from localllm.core.sizing.placement import Budget
from localllm.core.speed import DeviceSpeed
from localllm.errors import DoesNotFit, HubError, NotFound, UsageError
from localllm.library.files import paths
from localllm.library.hub.file_list import HubFile
from localllm.library.hub.hub import HubRepo
from localllm.runtime.hub_models import (
    HubModels,
    NoSuchQuant,
    hub_models_of,
    offer_of,
    repo_files,
)
from localllm.runtime.pull import PullPlan, plan_from
from tests.engine import fake_vision

GIB = 2**30
QUANTS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q2_K")


@cache
def entry(name: str) -> catalogue.Entry:
    entries = catalogue.parse(paths.catalogue_path().read_text("utf-8"))
    return next(each for each in entries if each.name == name)


def hub_models(*quants: str, model: str = "qwen3-8b", more: tuple[HubFile, ...] = ()) -> HubModels:
    """A repository with these quants of a published model."""
    known = entry(model)
    files = tuple(
        HubFile(name=f"M-{quant}.gguf", size_bytes=known.file_bytes(quant), sha256="0" * 64)
        for quant in quants
    )
    repo = HubRepo(
        name="acme/M-GGUF", commit="c" * 40, files=(*files, *more), gated=False,
        license="apache-2.0", tags=(), downloads=None, updated=None, endpoint="http://hub",
    )  # fmt: skip
    header = known.spec(quants[0])
    offers = offers_of(repo.name, header, repo_files(repo))
    return HubModels(repo=repo, header=header, contents=offers)


def machine(gib: float, *, bandwidth: float = 200e9) -> Machine:
    speed = DeviceSpeed(bandwidth_bytes_per_s=bandwidth, cores=16)
    return Machine(budget=Budget(host_bytes=int(gib * GIB)), host=speed)


def chosen(
    found: HubModels, gib: float, quant: str | None = None, goal: Goal = Goal.BALANCED
) -> PullPlan:
    return plan_from(found, quant, machine(gib), Preferences(goal=goal))


@pytest.mark.parametrize("gib", [5.6, 6, 7, 9, 16])
@pytest.mark.parametrize("goal", Goal)
def test_without_a_quant_it_is_the_one_that_suggest_takes(gib: float, goal: Goal) -> None:
    found = hub_models(*QUANTS)
    suggested = plans(
        found.contents.candidates, Preferences(goal=goal), machine(gib), limit=8
    ).plans
    choice = chosen(found, gib, goal=goal)
    assert choice.quant == suggested[0].candidate.quant
    assert choice.reasons == suggested[0].reasons
    assert choice.warning is None


def test_more_memory_never_gets_a_smaller_file_when_quality_is_the_goal() -> None:
    found = hub_models(*QUANTS)
    sizes = [chosen(found, gib, goal=Goal.QUALITY).size_bytes for gib in (5.6, 6.5, 7, 8, 12)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_when_nothing_fits_the_smallest_change_is_named() -> None:
    found = hub_models("Q8_0", "Q4_K_M")
    with pytest.raises(DoesNotFit) as caught:
        chosen(found, 5.1)
    message = str(caught.value)
    assert "acme/M-GGUF Q4_K_M" in message
    assert "Try --ctx" in message
    assert "acme/M-GGUF:Q4_K_M" in message  # how to fetch it all the same
    with pytest.raises(DoesNotFit, match="take a smaller model"):
        chosen(found, 1)


def test_a_quant_that_costs_too_much_is_not_taken_unasked() -> None:
    found = hub_models("Q2_K", model="qwen3-0.6b")
    with pytest.raises(DoesNotFit, match="perplexity"):
        chosen(found, 16)
    named = chosen(found, 16, "Q2_K")
    assert named.quant == "Q2_K"
    assert "perplexity" in (named.warning or "")


def test_a_quant_that_was_named_is_taken_with_a_warning_when_it_does_not_fit() -> None:
    choice = chosen(hub_models(*QUANTS), 4, "q8_0")
    assert choice.quant == "Q8_0"
    assert "acme/M-GGUF Q8_0" in (choice.warning or "")
    assert chosen(hub_models(*QUANTS), 32, "Q8_0").warning is None


def test_without_a_machine_the_usual_quant_is_taken() -> None:
    assert plan_from(hub_models(*QUANTS), None, None, Preferences()).quant == "Q4_K_M"
    assert plan_from(hub_models("Q8_0", "Q6_K"), None, None, Preferences()).quant == "Q6_K"
    assert plan_from(hub_models(*QUANTS), "Q8_0", None, Preferences()).quant == "Q8_0"


def test_a_quant_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(NoSuchQuant) as caught:
        chosen(hub_models("Q8_0", "Q4_K_M"), 16, "Q5_K_M")
    assert "Q8_0" in str(caught.value)
    assert "Q4_K_M" in str(caught.value)


def test_two_files_of_a_quant_are_told_apart_by_their_names() -> None:
    twin = HubFile(
        name="old/M-Q8_0.gguf", size_bytes=entry("qwen3-8b").file_bytes("Q8_0"), sha256=None
    )
    found = hub_models("Q8_0", "Q4_K_M", more=(twin,))
    with pytest.raises(UsageError, match=r"old/M-Q8_0\.gguf"):
        offer_of(found, "Q8_0")
    assert offer_of(found, "old/M-Q8_0.gguf").files == ("old/M-Q8_0.gguf",)


def test_a_file_that_cannot_be_what_it_is_called_says_why() -> None:
    odd = HubFile(name="M-Q6_K.gguf", size_bytes=entry("qwen3-0.6b").file_bytes("Q6_K"), sha256="")
    with pytest.raises(UsageError, match="another model"):
        offer_of(hub_models("Q8_0", more=(odd,)), "Q6_K")


def test_a_repository_of_encoders_alone_holds_no_model() -> None:
    found = hub_models("Q8_0")
    empty = HubModels(
        repo=found.repo, header=found.header,
        contents=offers_of("acme/M-GGUF", found.header, []),
    )  # fmt: skip
    with pytest.raises(NotFound, match="no model"):
        chosen(empty, 16)


def test_an_encoder_goes_with_every_quant() -> None:
    encoders = tuple(
        HubFile(name=f"mmproj-{kind}.gguf", size_bytes=100, sha256="1" * 64)
        for kind in ("F32", "F16", "Q8_0")
    )
    choice = chosen(hub_models(*QUANTS, more=encoders), 16)
    assert choice.mmproj == encoders[1]
    assert choice.all_files[-1] == encoders[1]
    assert choice.size_bytes == choice.files[0].size_bytes + 100


class HeadersOnly:
    """Answers for the headers of one repository; a name without one cannot be reached."""

    def __init__(self, headers: dict[str, ModelSpec]) -> None:
        self._headers = headers

    def header(self, repo: HubRepo, name: str) -> ModelSpec:
        if name not in self._headers:
            raise HubError(f"{repo.name} does not send {name}.")
        return self._headers[name]


def test_the_encoder_is_sized_by_its_header_else_by_its_file_and_not_at_all_when_it_is_none(
    tmp_path: Path,
) -> None:
    found = hub_models("Q8_0", more=(HubFile(name="mmproj-F16.gguf", size_bytes=123, sha256=None),))
    path = fake_vision.llava(tmp_path / "mmproj.gguf", embedding=found.header.embedding)
    with path.open("rb") as stream:
        eyes = gguf.read(stream, path.stat().st_size)
    model = {found.contents.offers[0].files[0]: found.header}
    other = replace(eyes, metadata={**eyes.metadata, "clip.has_vision_encoder": False})

    def mmproj(headers: dict[str, ModelSpec]) -> Mmproj | None:
        read = hub_models_of(HeadersOnly(model | headers), found.repo)  # type: ignore[arg-type]
        return read.contents.offers[0].candidate.mmproj

    sized = mmproj({"mmproj-F16.gguf": eyes})
    assert sized is not None
    assert sized.weights_bytes == sum(tensor.size_bytes for tensor in eyes.tensors)
    assert sized.compute_bytes > 0
    unread = mmproj({})
    assert unread is not None
    assert unread.size_bytes == 123
    assert mmproj({"mmproj-F16.gguf": other}) is None
