"""`localllm` without a verb."""

import subprocess
import sys

import pytest

from localllm.cli.main import run_app
from localllm.errors import UsageError


def test_without_a_terminal_it_points_to_the_verbs() -> None:
    with pytest.raises(UsageError, match="localllm run starter"):
        run_app()  # under pytest, stdin is no terminal


def test_the_front_door_says_so_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "localllm"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "needs a terminal" in done.stderr
    assert "Traceback" not in done.stderr
