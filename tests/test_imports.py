"""The import contracts at run time: what a verb does not need is not loaded."""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import localllm
from localllm.library.files.settings import Settings

HEAVY = (
    "textual", "fastapi", "starlette", "uvicorn", "llama_cpp", "huggingface_hub", "httpx2",
    "keyring", "numpy",
)  # fmt: skip

WORKER = "localllm.engine.worker"


def loaded_after(code: str) -> set[str]:
    """The packages that a fresh interpreter holds after `code`, and the engine's worker."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    names = done.stdout.splitlines()[-1].split()
    return {name.split(".")[0] for name in names} | {WORKER}.intersection(names)


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not loaded_after("import localllm.cli.main").intersection({*HEAVY, "rich", "psutil"})


@pytest.mark.parametrize(
    "verb",
    [
        "hardware",
        "suggest",
        "size",
        "import_",
        "ls",
        "show",
        "rm",
        "run",
        "server.key",
        "server.batch",
    ],
)
def test_a_verb_without_a_screen_or_a_server_loads_neither(verb: str) -> None:
    assert not loaded_after(f"import localllm.cli.commands.{verb}").intersection(HEAVY)


def test_the_server_does_not_load_the_screen_and_neither_loads_the_engine() -> None:
    assert not loaded_after("import localllm.server.app").intersection({"textual", WORKER})
    assert not loaded_after("import localllm.tui.app").intersection({"uvicorn", WORKER})


def test_the_core_loads_the_standard_library_only() -> None:
    code = "import importlib, pkgutil, localllm.core\nfor m in pkgutil.walk_packages("
    code += "localllm.core.__path__, 'localllm.core.'): importlib.import_module(m.name)"
    ours = loaded_after(code) - loaded_after("pass")
    outside = {name for name in ours if name not in sys.stdlib_module_names} - {"localllm"}
    assert outside == set()


def test_every_setting_is_read_by_something() -> None:
    root = Path(localllm.__file__).parent
    attributes = {
        node.attr
        for file in root.rglob("*.py")
        if file != root / "library" / "files" / "settings.py"
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert {field.name for field in fields(Settings)} <= attributes


def test_version_and_help_work_without_a_traceback() -> None:
    for arguments in (["--version"], ["--help"], ["run", "--help"], ["serve", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "localllm", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0
        assert "localllm" in done.stdout
