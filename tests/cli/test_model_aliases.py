"""`serve --alias` and `serve.aliases`: which other name is which model's."""

from pathlib import Path

import pytest

from localllm.cli.model_aliases import resolve_aliases
from localllm.errors import UsageError
from localllm.runtime.runtime import Runtime
from tests.cli.test_serve import runtime_with


@pytest.fixture
def runtime(tmp_path: Path, smollm2: Path, gemma3: Path) -> Runtime:
    """A runtime with two models, model-0 and model-1."""
    return runtime_with(tmp_path / "data", None, smollm2, gemma3)


def aliases(
    runtime: Runtime, served: str, given: tuple[str, ...] = (), saved: tuple[str, ...] = ()
) -> dict[str, str]:
    return resolve_aliases(runtime, tuple(map(runtime.resolve, served.split())), given, saved)


def test_an_alias_belongs_to_the_model_it_names_or_to_the_only_one(runtime: Runtime) -> None:
    assert aliases(runtime, "model-0", ("gpt-4o", "x = model-0")) == {
        "gpt-4o": "model-0",
        "x": "model-0",
    }
    both = aliases(runtime, "model-0 model-1", ("gpt-4o=model-1", "small=model-0"))
    assert both == {"gpt-4o": "model-1", "small": "model-0"}


def test_a_model_is_found_as_serve_finds_it(runtime: Runtime, smollm2: Path) -> None:
    assert aliases(runtime, "model-0", (f"a={smollm2}",)) == {"a": "model-0"}
    assert aliases(runtime, "model-1", saved=("a=model-1", "b=model-0")) == {"a": "model-1"}


def test_the_command_line_comes_before_the_settings(runtime: Runtime) -> None:
    served = "model-0 model-1"
    assert aliases(runtime, served, ("a=model-1",), ("a=model-0", "b=model-0")) == {
        "a": "model-1",
        "b": "model-0",
    }


def test_of_the_settings_what_is_not_served_is_left_out(runtime: Runtime) -> None:
    saved = ("a=model-1", "b=nobody", "c=model-0", "model-0=model-1")
    assert aliases(runtime, "model-0", saved=saved) == {"c": "model-0"}
    with pytest.raises(UsageError, match=r"serve\.aliases .* not NAME=MODEL"):
        aliases(runtime, "model-0", saved=("=",))


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
        aliases(runtime, "model-0", (given,))


def test_an_alias_of_nothing_needs_a_model_when_there_are_several(runtime: Runtime) -> None:
    with pytest.raises(UsageError, match="Write NAME=MODEL with one of model-0, model-1"):
        aliases(runtime, "model-0 model-1", ("a",))
    with pytest.raises(UsageError, match="given for two models"):
        aliases(runtime, "model-0 model-1", ("a=model-0", "a=model-1"))
