"""What `serve` serves, and by which names: `--alias`, `--pin`, and what the settings say."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.sizing.load import KvType, Lora
from localllm.core.units import parse_keep_alive
from localllm.errors import UsageError
from localllm.library.files.settings import Settings, parse
from localllm.runtime.load_policy import CHAT, LoadChoice, choice_for_model
from localllm.runtime.model_pool.pool_model import DEFAULT_KEEP_ALIVE_S, FOREVER, PoolModels
from localllm.runtime.runtime import Runtime
from localllm.server.local.model_aliases import names_without_effect
from localllm.server.local.pool_models import PoolOptions, pool_models
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
    runtime: Runtime, served: str, *names: str, only: bool = True, **saved: str
) -> dict[str, str]:
    """The aliases and the models that requests find by them."""
    user = Settings(aliases=tuple(saved.items()))
    models = pooled(runtime, served, user, aliases=names, only=only)
    own = {model.name for model in models.all()}
    return {alias: models.find(alias).name for alias in models.ids() if alias not in own}


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


def test_names_of_the_settings_that_lead_nowhere_are_reported(runtime: Runtime) -> None:
    user = parse(
        'aliases = { a = "model-1", b = "c", c = "b", "model-0" = "model-1", gone = "nobody" }\n'
        '[models.ok]\nmodel = "model-0"\n[models.twice]\nmodel = "ok"\n[models.model-1]\npin = true'
    )
    notes = list(names_without_effect(pooled(runtime, "model-0", user), user))
    assert [note.split("'")[1] for note in notes] == ["b", "c", "model-0", "gone", "twice"]


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


def test_a_model_has_options_of_its_own_and_profiles(runtime: Runtime) -> None:
    user = parse(
        """
[models.model-0]
context = 1024
kv_type = "q8_0"
keep_alive = "1m"
pin = true

[models.writer]
model = "model-1"
context = 2048
keep_alive = "-1"

[models.broken]
model = "nobody"
"""
    )
    named, writer, other = pooled(runtime, "model-0", user).all()
    assert (named.keep_alive_s, named.pinned) == (60, True)
    assert (writer.name, writer.model.path) == ("writer", other.model.path)
    assert (writer.keep_alive_s, other.keep_alive_s) == (FOREVER, DEFAULT_KEEP_ALIVE_S)
    choice = choice_for_model(named.choice, named.name, user)
    assert (choice.context, choice.kv_type) == (1024, KvType.Q8_0)
    assert choice_for_model(writer.choice, writer.name, user).context == 2048
    assert choice_for_model(other.choice, other.name, user) == other.choice
    explicit = LoadChoice(context=512, given=frozenset({"context", "kv_type"}))
    assert choice_for_model(explicit, "model-0", user) == explicit
    assert (
        choice_for_model(CHAT, "model-0", Settings(models=(("model-0", (("parallel", 4),)),)))
        == CHAT
    )


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("context = 1", "context is 1 and must be from 16"),
        ('kv_type = "q3"', "kv_type must be one of f32"),
        ('keep_alive = "soon"', "keep_alive is not allowed"),
        ("contxt = 1", "'contxt' is none of model, keep_alive"),
        ('pin = "yes"', "pin must be true or false"),
    ],
)
def test_a_wrong_option_of_a_model_is_said(table: str, match: str) -> None:
    with pytest.raises(UsageError, match=f"of mine: {match}"):
        parse(f"[models.mine]\n{table}")


@given(st.floats(0, 1e6), st.sampled_from(["", "s", "m", "h"]))
def test_a_time_to_keep_a_model_is_read_as_it_is_written(number: float, unit: str) -> None:
    text = f"{number:.3f}{unit}"
    seconds = float(f"{number:.3f}") * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]
    assert parse_keep_alive(text) == pytest.approx(seconds)
    assert parse_keep_alive(f"-{text}") == (FOREVER if seconds else 0)
    for wrong in (f"{text}x", f"x{text}", "m", ""):
        with pytest.raises(UsageError):
            parse_keep_alive(wrong)
