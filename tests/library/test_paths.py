import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from localllm.library.files import paths


def test_each_directory_follows_its_variable(home: Path) -> None:
    assert paths.data_dir() == home / "data"
    assert paths.settings_file() == home / "config" / "settings.toml"
    assert paths.key_file().parent == home / "config"
    assert paths.log_dir() == home / "cache" / "logs"


def test_without_variables_each_system_has_its_own_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "CONFIG", "CACHE"):
        monkeypatch.delenv(f"LOCALLLM_{name}_DIR")
    places = {paths.data_dir(), paths.config_dir(), paths.cache_dir()}
    assert all(place.is_absolute() and "localllm" in place.parts for place in places)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALLLM_DATA_DIR", "")
    assert paths.data_dir() != Path.cwd()


def test_a_relative_directory_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCALLLM_DATA_DIR", "a/../b")
    assert paths.data_dir() == tmp_path / "b"


def test_asking_for_a_path_creates_nothing(home: Path) -> None:
    before = sorted(home.rglob("*"))
    for ask in (paths.log_dir, paths.key_file, paths.settings_file, paths.data_dir):
        ask()
    assert sorted(home.rglob("*")) == before


def test_the_catalogue_is_found_in_the_repository() -> None:
    assert paths.catalogue_path().name == "models.toml"
    assert paths.catalogue_path().is_file()


def test_the_catalogue_is_found_beside_the_modules_of_a_wheel(tmp_path: Path) -> None:
    package = Path(paths.__file__).parents[2]
    site = tmp_path / "site"
    with zipfile.ZipFile(tmp_path / "wheel.zip", "w") as wheel:  # what hatchling puts there
        for module in ("__init__.py", "library/__init__.py", "library/files/paths.py"):
            wheel.write(package / module, f"localllm/{module}")
        wheel.writestr("localllm/models.toml", "")
        wheel.extractall(site)
    code = "from localllm.library.files import paths; print(paths.catalogue_path())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=site
    )
    assert Path(done.stdout.strip()) == (site / "localllm" / "models.toml")
