"""`--lora`: what it means, and that it changes the answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import gguf
import pytest

from localllm.cli.options import parse_lora
from localllm.core.sizing.load import Lora
from tests.engine import forged_lora, tiny


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


def test_an_adapter_of_another_model_is_one_message_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    adapter = forged_lora.forge(tmp_path / "small.gguf", tiny.plain(tmp_path / "plain.gguf"))
    for file, message in (
        (adapter, b"another model's"),
        (tmp_path / "plain.gguf", b"not an adapter"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "localllm", "run", "starter", "Hi", "--lora", str(file)],
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count(b"\n") == 1
        assert not done.stdout


def test_size_counts_adapters(tmp_path: Path, smollm2: Path) -> None:
    adapter = forged_lora.forge(tmp_path / "adapter.gguf", smollm2)
    done = subprocess.run(
        [sys.executable, "-m", "localllm", "size", "starter", "--json", "--lora", f"{adapter}:0.5"],
        capture_output=True,
        timeout=120,
        check=True,
    )
    footprint = json.loads(done.stdout)["footprint"]
    tensors = gguf.GGUFReader(adapter).tensors
    assert footprint["adapter_bytes"] == sum(int(tensor.n_bytes) for tensor in tensors)
