"""LoRA adapters in the worker: what they change, and that each answer is that of its own."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.sizing.load import BufferKind, Lora
from localllm.engine.messages import LoraScale, RequestError
from localllm.engine.worker.llama.lora import LoraKey, Rotation, lora_key
from localllm.errors import BadRequest, LoadFailed
from tests.engine import forged_lora, tiny
from tests.engine.stepped_scheduler import SteppedScheduler, settings

PROMPT = "thequickbrownfoxjumpsoverthelazydogandrunsaway"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.plain(tmp_path_factory.mktemp("lora") / "plain.gguf")


@pytest.fixture(scope="module")
def loras(model: Path) -> tuple[Lora, Lora]:
    first = forged_lora.forge(model.with_name("first.gguf"), model, seed=5)
    second = forged_lora.forge(model.with_name("second.gguf"), model, seed=6)
    return Lora(path=str(first), scale=0.0), Lora(path=str(second), scale=0.0)


@pytest.fixture
def stepped(model: Path, loras: tuple[Lora, Lora]) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(model, replace(settings(), loras=loras))
    yield stepped
    stepped.close()


def alone(model: Path, lora: Lora | None = None) -> SteppedScheduler:
    return SteppedScheduler(model, replace(settings(parallel=1), loras=(lora,) if lora else ()))


@pytest.mark.parametrize("names", [(), ("token_embd.weight",), ("output.weight",)])
def test_an_adapter_computes_what_the_merged_model_computes(
    model: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    adapter = forged_lora.forge(tmp_path / "adapter.gguf", model, *names)
    merged = Path(shutil.copy(model, tmp_path / "merged.gguf"))
    forged_lora.merge(merged, adapter, 0.5)
    with_adapter, by_hand, base = (
        alone(model, Lora(path=str(adapter), scale=0.5)), alone(merged), alone(model),
    )  # fmt: skip
    found, expected, without = (each.logits(PROMPT) for each in (with_adapter, by_hand, base))
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(expected - without).max() > 0.1
    for each in (with_adapter, by_hand, base):
        each.close()


def test_an_adapter_of_experts_has_a_pair_for_each(tmp_path: Path) -> None:
    model = tiny.experts(tmp_path / "experts.gguf")
    names = [f"blk.{i}.ffn_{part}_exps.weight" for i in (0, 1) for part in ("up", "down")]
    adapter = forged_lora.forge(tmp_path / "adapter.gguf", model, *names)
    merged = Path(shutil.copy(model, tmp_path / "merged.gguf"))
    forged_lora.merge(merged, adapter, 1.0)
    with_adapter, by_hand = alone(model, Lora(path=str(adapter))), alone(merged)
    assert np.abs(with_adapter.logits(PROMPT) - by_hand.logits(PROMPT)).max() < 1e-3
    for each in (with_adapter, by_hand):
        each.close()


@pytest.mark.parametrize("make", [tiny.windowed, tiny.recurrent, tiny.hybrid])
def test_every_kind_of_memory_keeps_adapters_apart(make: object, tmp_path: Path) -> None:
    model = make(tmp_path / "model.gguf")  # type: ignore[operator]  # a function of tiny's
    names = [name for name in forged_lora.weights_of(model) if name.endswith(_MULTIPLIED)]
    adapter = Lora(path=str(forged_lora.forge(tmp_path / "adapter.gguf", model, *names)))
    load = replace(settings(), loras=(adapter,))
    stepped, fresh = (
        SteppedScheduler(model, load),
        SteppedScheduler(model, replace(load, parallel=1)),
    )
    for i, chosen in enumerate(((), (LoraScale(id=0),)) * 2):
        stepped.submit(f"{i}", PROMPT, loras=chosen, max_tokens=12)
    stepped.run()
    for i, chosen in enumerate(((), (LoraScale(id=0),))):
        fresh.scheduler.kv_cache.clear(0)
        fresh.submit(f"{i}", PROMPT, loras=chosen, max_tokens=12)
        fresh.run()
    assert fresh.text("0") != fresh.text("1")
    assert [stepped.text(f"{i}") for i in range(4)] == [fresh.text("0"), fresh.text("1")] * 2
    stepped.close()
    fresh.close()


_MULTIPLIED = ("ssm_in.weight", "ssm_out.weight", "attn_q.weight", "ffn_down.weight")


def test_scale_zero_is_the_model_itself(stepped: SteppedScheduler, model: Path) -> None:
    base = alone(model)
    stepped.model.apply_loras(lora_key([LoraScale(id=0, scale=0), LoraScale(id=1, scale=0)]))
    assert np.array_equal(stepped.logits(PROMPT), base.logits(PROMPT))
    base.close()


def test_answers_with_other_adapters_at_the_same_time_are_those_of_each_alone(
    stepped: SteppedScheduler, loras: tuple[Lora, Lora], model: Path
) -> None:
    asked = {"base": (), "first": (LoraScale(id=0),), "second": (LoraScale(id=1),)}
    for name, chosen in asked.items():
        stepped.submit(name, PROMPT, max_tokens=30, loras=chosen)
    stepped.run()
    keys = {"base": None, "first": loras[0], "second": loras[1]}
    for name, lora in keys.items():
        single = alone(model, replace(lora, scale=1.0) if lora else None)
        assert stepped.text(name) == single.ask(PROMPT, max_tokens=30)
        single.close()
    assert len({stepped.text(name) for name in asked}) == 3


def test_cells_computed_with_an_adapter_are_used_by_its_own_requests_only(
    stepped: SteppedScheduler,
) -> None:
    chosen = (LoraScale(id=0),)
    stepped.submit("a", PROMPT, loras=chosen)
    stepped.run()
    stepped.submit("b", PROMPT, loras=())
    stepped.run()
    stepped.submit("c", PROMPT, loras=chosen)
    stepped.run()
    cached = [stepped.finished(name).cached_tokens for name in "abc"]
    assert cached == [0, 0, len(PROMPT) - 1]
    assert stepped.text("a") == stepped.text("c") != stepped.text("b")


def test_a_request_without_adapters_gets_those_of_the_load(model: Path, tmp_path: Path) -> None:
    adapter = forged_lora.forge(tmp_path / "adapter.gguf", model)
    loaded = alone(model, Lora(path=str(adapter), scale=0.5))
    loaded.submit("usual", PROMPT)
    loaded.submit("named", PROMPT, loras=(LoraScale(id=0, scale=0.5),))
    loaded.submit("none", PROMPT, loras=())
    loaded.run()
    assert loaded.text("usual") == loaded.text("named") != loaded.text("none")
    loaded.close()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ((LoraScale(id=2),), "There is no LoRA adapter 2; 0 to 1"),
        ((LoraScale(id=0), LoraScale(id=0, scale=0.5)), "twice"),
    ],
)
def test_an_adapter_that_is_not_there_is_an_error_of_that_request(
    stepped: SteppedScheduler, chosen: tuple[LoraScale, ...], said: str
) -> None:
    with pytest.raises(BadRequest, match=said):
        stepped.submit("wrong", PROMPT, loras=chosen)
    assert stepped.ask(PROMPT)


def test_a_file_that_llama_cpp_refuses_is_a_load_that_failed(model: Path) -> None:
    with pytest.raises(LoadFailed, match="refused the adapter"):
        alone(model, Lora(path=str(model)))


def test_the_read_back_names_the_adapters_memory(model: Path, tmp_path: Path) -> None:
    adapter = forged_lora.forge(tmp_path / "adapter.gguf", model, rank=64)
    loaded = alone(model, Lora(path=str(adapter)))
    (found,) = (a for a in loaded.model.allocations if a.kind is BufferKind.ADAPTERS)
    tensors = gguf.GGUFReader(adapter).tensors
    assert found.size_bytes == pytest.approx(sum(t.n_bytes for t in tensors), abs=2**14)
    loaded.close()


keys = st.sampled_from([(), ((0, 1.0),), ((1, 1.0),), ((0, 0.5), (1, 1.0))])


@given(st.lists(st.sets(keys, min_size=1), min_size=1, max_size=60), st.integers(1, 5))
def test_no_key_waits_longer_than_a_turn_of_each_other(
    steps: list[set[tuple[tuple[int, float], ...]]], turn: int
) -> None:
    rotation = Rotation[LoraKey](turn)
    waited: dict[object, int] = {}
    for running in steps:
        chosen = rotation.next(sorted(running))
        assert chosen in running
        waited = {key: waited.get(key, 0) + 1 for key in running if key != chosen}
        assert all(steps <= 3 * turn for steps in waited.values())


def test_one_key_alone_never_changes() -> None:
    rotation = Rotation[LoraKey](2)
    assert [rotation.next([((0, 1.0),)]) for _ in range(9)] == [((0, 1.0),)] * 9


def test_an_adapter_of_scale_zero_is_no_part_of_a_key() -> None:
    one = [LoraScale(id=1, scale=0.1), LoraScale(id=0, scale=0)]
    assert lora_key(one) == lora_key([LoraScale(id=1, scale=0.1)])
    assert lora_key([LoraScale(id=1), LoraScale(id=0)]) == ((0, 1.0), (1, 1.0))


def test_a_cancelled_request_of_another_key_leaves_the_others_alone(
    stepped: SteppedScheduler,
) -> None:
    stepped.submit("a", PROMPT, loras=(LoraScale(id=0),))
    stepped.submit("b", PROMPT, loras=(LoraScale(id=1),))
    stepped.step()
    stepped.scheduler.cancel("b")
    stepped.run()
    assert not isinstance(stepped.end("a"), RequestError)
    assert stepped.end("b").reason == "cancelled"  # type: ignore[union-attr]  # a Finished
