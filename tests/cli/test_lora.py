"""`--lora`: what it means, and that it changes the answer."""

import os
from pathlib import Path

import click
import pytest

from localllm.cli.options import parse_lora
from localllm.core.load import Lora


@pytest.mark.parametrize(
    ("value", "path", "scale"),
    [
        ("a.gguf", "a.gguf", 1.0),
        ("a.gguf:0.5", "a.gguf", 0.5),
        ("a.gguf:-1", "a.gguf", -1.0),
        ("a:b.gguf", "a:b.gguf", 1.0),
        ("a:b.gguf:2", "a:b.gguf", 2.0),
        (r"C:\models\a.gguf", r"C:\models\a.gguf", 1.0),
        (r"C:\models\a.gguf:0.5", r"C:\models\a.gguf", 0.5),
    ],
)
def test_a_scale_follows_the_last_colon(value: str, path: str, scale: float) -> None:
    assert parse_lora(value) == Lora(path=os.path.abspath(path), scale=scale)  # noqa: PTH100


def test_a_file_that_ends_like_a_scale_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:1").touch()
    assert parse_lora("a:1") == Lora(path=str(tmp_path / "a:1"))


@pytest.mark.parametrize("scale", ["nan", "inf", "1e9", "-101"])
def test_a_scale_out_of_range_is_refused(scale: str) -> None:
    with pytest.raises(click.BadParameter, match="-100 to 100"):
        parse_lora(f"a.gguf:{scale}")
