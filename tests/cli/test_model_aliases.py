"""What `serve` serves, and by which names: `--alias`, `--pin`, and what the settings say."""

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.cli.pool_models import PoolOptions, pool_models
from localllm.core.sizing.load import KvType, Lora
from localllm.errors import UsageError
from localllm.library.files.settings import Settings
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.pool_model import DEFAULT_KEEP_ALIVE_S, FOREVER, PoolModels
from localllm.runtime.runtime import Runtime
from tests.cli.test_serve import runtime_with

NOTHING = Settings()


@pytest.fixture
def runtime(tmp_path: Path, smollm2: Path, gemma3: Path) -> Runtime:
    """A runtime with two models, model-0 and model-1."""
    return runtime_with(tmp_path / "data", None, smollm2, gemma3)


def pooled(
    runtime: Runtime, served: str, user: Settings = NOTHING, **options: object
) -> PoolModels:
    chosen = tuple(map(runtime.resolve, served.split()))
    return pool_models(runtime, chosen, replace(PoolOptions(), **options), user)  # type: ignore[arg-type]  # each is a field


def aliases(
    runtime: Runtime, served: str, *given: str, only: bool = True, **saved: str
) -> dict[str, str]:
    """The aliases and the models that requests find by them."""
    user = Settings(aliases=tuple(saved.items()))
    models = pooled(runtime, served, user, aliases=given, only=only)
    names = {model.name for model in models.all()}
    return {alias: models.find(alias).name for alias in models.ids() if alias not in names}


def test_an_alias_belongs_to_the_model_it_names_or_to_the_only_one(
    runtime: Runtime, smollm2: Path
) -> None:
    assert aliases(runtime, "model-0", "gpt-4o", "x = model-0", f"a={smollm2}") == {
        "gpt-4o": "model-0",
        "x": "model-0",
        "a": "model-0",
    }
    both = aliases(runtime, "model-0", "gpt-4o=model-1", "small=model-0", only=False)
    assert both == {"gpt-4o": "model-1", "small": "model-0"}


def test_the_command_line_comes_before_the_settings(runtime: Runtime) -> None:
    both = "model-0 model-1"
    assert aliases(runtime, both, "a=model-1", a="model-0", b="model-0", none="nobody") == {
        "a": "model-1",
        "b": "model-0",
    }
    assert aliases(runtime, "model-0", a="model-1") == {}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("a=model-1", "not served here: model-0"),
        ("a=nobody", "not served here"),
        ("", "not NAME=MODEL"),
        ("=model-0", "not NAME=MODEL"),
        ("a=", "not NAME=MODEL"),
        ("x" * 513, "not NAME=MODEL"),
        ("model-0=model-0", "name of a model already"),
    ],
)
def test_an_alias_that_cannot_be_is_said(runtime: Runtime, given: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        aliases(runtime, "model-0", given)


def test_an_alias_of_nothing_needs_a_model_when_there_are_several(runtime: Runtime) -> None:
    with pytest.raises(UsageError, match="Write NAME=MODEL with one of model-0, model-1"):
        aliases(runtime, "model-0 model-1", "a")
    with pytest.raises(UsageError, match="given for two models"):
        aliases(runtime, "model-0 model-1", "a=model-0", "a=model-1")


def test_how_long_models_stay(runtime: Runtime) -> None:
    kept = {model.name: model.keep_alive_s for model in pooled(runtime, "model-0").all()}
    assert kept == {"model-0": FOREVER, "model-1": DEFAULT_KEEP_ALIVE_S}
    for models in (
        pooled(runtime, "model-0", keep_alive_s=7.0),
        pooled(runtime, "model-0", Settings(keep_alive="7s")),
        pooled(runtime, "model-0", Settings(keep_alive="9s"), keep_alive_s=7.0),
    ):
        assert [model.keep_alive_s for model in models.all()] == [7, 7]
    pinned = pooled(runtime, "model-0", Settings(pin=("model-0", "gone")), pins=("model-1",))
    assert [model.pinned for model in pinned.all()] == [True, True]


def test_what_belongs_to_the_named_models_is_not_for_others(runtime: Runtime) -> None:
    choice = LoadChoice(
        context=512, kv_type=KvType.Q8_0, embeddings=True, loras=(Lora(path="a.gguf"),), draft="d"
    )
    named, other = pooled(runtime, "model-0", choice=choice).all()
    assert named.choice == choice
    assert other.choice == LoadChoice(context=512, kv_type=KvType.Q8_0)
