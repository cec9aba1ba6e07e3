"""The files of a load are read once, and a load that cannot be is refused before it starts."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.sizing.load import Lora, Speculate
from localllm.errors import GgufError, NotFound, UsageError
from localllm.library.files.settings import Settings
from localllm.library.store.store import Store
from localllm.runtime import load_plan
from localllm.runtime.load_plan import LoadPlan, plan_load, read_chat_template
from localllm.runtime.load_policy import AUTO_PARALLEL, CHAT, LoadChoice, NotGenerative
from localllm.runtime.runtime import ResidentModel
from tests.core import forge
from tests.core.forge_recurrent import ENCODER
from tests.engine.fake_vision import llava
from tests.runtime.fake_machine import FakeMachine


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "library")


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "library")


@pytest.fixture
def seeing(tmp_path: Path, smollm2: Path) -> Path:
    """A model with an mmproj beside it."""
    (tmp_path / "model.gguf").symlink_to(smollm2)
    llava(tmp_path / "mmproj-model.gguf", embedding=576)
    return tmp_path / "model.gguf"


def planned(store: Store, name: Path | str, choice: LoadChoice) -> LoadPlan:
    return plan_load(store.resolve(str(name)), choice, settings=Settings(), resolve=store.resolve)


@pytest.fixture
def file(tmp_path: Path, smollm2: Path) -> Path:
    return Path(shutil.copyfile(smollm2, tmp_path / "model.gguf"))


def damage(file: Path) -> None:
    file.write_bytes(b"no header any more")


async def test_a_header_is_read_once_for_sizing_and_loading(
    machine: FakeMachine, file: Path
) -> None:
    runtime = machine.runtime()
    plan = await runtime.plan(runtime.resolve(str(file)), LoadChoice(context=512))
    damage(file)
    assert (await runtime.fit(plan)).fits
    events = [event async for event in runtime.load(plan)]
    assert isinstance(events[-1], ResidentModel)
    await runtime.close()
    with pytest.raises(GgufError):
        await runtime.plan(runtime.resolve(str(file)), LoadChoice())


@pytest.mark.parametrize(("available_mib", "parallel"), [(1000, 4), (420, 2), (300, 1), (200, 1)])
async def test_as_many_sequences_as_fit_are_loaded(
    machine: FakeMachine, available_mib: int, parallel: int
) -> None:
    machine.available_bytes = available_mib * 2**20
    runtime = machine.runtime()
    plan = await runtime.plan(runtime.resolve("starter"), LoadChoice(context=4096))
    assert len(plan.candidates) == len(AUTO_PARALLEL)
    fit = await runtime.fit(plan)
    assert fit.settings.parallel == parallel
    assert fit.fits == (available_mib > 200)
    assert (await runtime.fit(plan.forced)).settings.parallel == AUTO_PARALLEL[0]


def test_an_mmproj_is_loaded_where_it_may_be_and_there_is_one(
    store: Store, seeing: Path, smollm2: Path
) -> None:
    for vision in (None, True):
        (settings,) = planned(store, seeing, replace(CHAT, vision=vision)).candidates
        assert settings.mmproj is not None
        assert settings.mmproj.weights_bytes > 0  # it passed the gatekeeper
    assert planned(store, seeing, CHAT).candidates[0].mmproj is None
    assert planned(store, smollm2, LoadChoice()).candidates[0].mmproj is None
    with pytest.raises(UsageError, match="has no image encoder here"):
        planned(store, smollm2, replace(CHAT, vision=True))


def test_an_mmproj_that_cannot_be_used_is_a_warning_unless_it_is_needed(
    store: Store, seeing: Path
) -> None:
    llava(seeing.with_name("mmproj-model.gguf"), embedding=64)
    plan = planned(store, seeing, LoadChoice())
    assert plan.candidates[0].mmproj is None
    assert len(plan.warnings) == 1
    assert "answers, but sees no images" in plan.warnings[0]
    with pytest.raises(GgufError):
        planned(store, seeing, replace(CHAT, vision=True))


def test_a_draft_model_is_read_and_must_answer(store: Store, tmp_path: Path) -> None:
    plan = planned(store, "starter", replace(CHAT, draft="starter"))
    assert plan.draft == plan.spec
    assert plan.candidates[0].active_draft == str(plan.model.path)
    off = planned(store, "starter", replace(CHAT, draft="starter", speculate=Speculate.OFF))
    assert off.candidates[0].active_draft is None
    forge.write(ENCODER, tmp_path / "encoder.gguf")
    with pytest.raises(NotGenerative, match="encoder"):
        planned(store, "starter", replace(CHAT, draft=str(tmp_path / "encoder.gguf")))
    with pytest.raises(NotFound):
        planned(store, "starter", replace(CHAT, draft="nonsense"))


def test_an_adapter_is_read_before_anything_is_loaded(store: Store, smollm2: Path) -> None:
    with pytest.raises(GgufError, match="not an adapter"):
        planned(store, "starter", replace(CHAT, loras=(Lora(path=str(smollm2)),)))


def test_a_model_that_does_not_answer_is_no_chat(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "encoder.gguf"
    forge.write(ENCODER, file)
    assert planned(store, file, LoadChoice()).candidates[0].embeddings
    with pytest.raises(NotGenerative, match="an embedding model"):
        planned(store, file, CHAT)


def test_a_template_is_the_options_else_the_settings_of_this_model(
    store: Store, file: Path, tmp_path: Path
) -> None:
    own, set_ = tmp_path / "own.jinja", tmp_path / "set.jinja"
    own.write_text("{{ messages }} own")
    set_.write_bytes(b"\xef\xbb\xbf{{ messages }} set")
    model = store.resolve(str(file))
    user = Settings(chat_templates=((model.name, str(set_)), ("other", "/nowhere")))

    def source(choice: LoadChoice, settings: Settings) -> str | None:
        plan = plan_load(model, choice, settings=settings, resolve=store.resolve)
        given = plan.candidates[0].chat_template
        return given.source if given is not None else None

    assert source(CHAT, Settings()) is None
    assert source(CHAT, user) == "{{ messages }} set"
    assert source(replace(CHAT, chat_template=str(own)), user) == "{{ messages }} own"


@pytest.mark.parametrize(
    ("content", "source"),
    [
        ('{"chat_template": "{{ messages }}"}', "{{ messages }}"),
        (
            '{"chat_template": [{"name": "default", "template": "D"}, {"name": "rag"}]}',
            "D",
        ),
        ("{{ messages }}", "{{ messages }}"),
        ('{"other": 1}', '{"other": 1}'),
        ('{"chat_template": 5}', '{"chat_template": 5}'),
    ],
)
def test_a_template_is_found_in_the_hubs_json(content: str, source: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(content)
    assert read_chat_template(tmp_path / "t").source == source


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, NotFound, "There is no file"),
        (b" \n", UsageError, "empty"),
        (b"\xff\xfe{", UsageError, "not UTF-8"),
        (b"x" * 600_000, UsageError, "more than 524288"),
    ],
)
def test_a_template_that_cannot_be_one_is_refused(
    content: bytes | None, error: type[Exception], says: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "t").write_bytes(content)
    with pytest.raises(error, match=says):
        read_chat_template(tmp_path / "t")


def test_a_load_for_embeddings_takes_no_template(store: Store, file: Path, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("{{ messages }}")
    choice = LoadChoice(embeddings=True, chat_template=str(tmp_path / "t"))
    with pytest.raises(UsageError, match="--chat-template"):
        planned(store, file, choice)


def test_threads_are_the_options_else_the_settings(store: Store, file: Path) -> None:
    model = store.resolve(str(file))
    for threads, expected in ((None, 3), (5, 5)):
        choice = LoadChoice(threads=threads)
        plan = plan_load(model, choice, settings=Settings(threads=3), resolve=store.resolve)
        assert plan.candidates[0].threads == expected


@pytest.mark.parametrize(
    ("drive", "given", "mapped"),
    [(None, None, True), ("nfs4", None, False), ("nfs4", True, True), (None, False, False)],
)
def test_a_model_on_a_network_drive_is_read_unless_it_is_to_be_mapped(
    drive: str | None,
    given: bool | None,
    mapped: bool,
    store: Store,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_plan, "network_filesystem", lambda _: drive)
    plan = planned(store, file, LoadChoice(mmap=given, vision=False))
    assert all(each.mmap is mapped for each in plan.candidates)
    read_by_itself = drive is not None and given is None
    assert [("nfs4" in warning) for warning in plan.warnings] == [True] * read_by_itself
