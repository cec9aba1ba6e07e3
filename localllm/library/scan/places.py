"""Find the folders of other programs' models: from their settings, else each one's default."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.library.files.paths import absolute
from localllm.library.scan import hugging_face, ollama
from localllm.library.scan.found import FoundModel, SkippedFile, read_json, read_small
from localllm.library.scan.gguf_folders import llama_cpp_models, lm_studio_models

_MAX_POINTER_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder of another program, and the function that reads its models."""

    runner: str
    path: Path
    models: Callable[[Path], Iterator[FoundModel | SkippedFile]]


def places_here() -> tuple[Place, ...]:
    """Return the folders of the four programs that this user has."""
    return places(os.environ, Path.home())


def places(
    environment: Mapping[str, str],
    home: Path,
    *,
    system: Path = Path("/"),
    platform: str = sys.platform,
) -> tuple[Place, ...]:
    """Return every folder of the four programs that exists. `system` is the root of the disk."""
    listed = [
        ("Hugging Face", hugging_face.models, _hugging_face(environment, home)),
        ("LM Studio", lm_studio_models, _lm_studio(home)),
        ("Ollama", ollama.models, _ollama(environment, home, system)),
        ("llama.cpp", llama_cpp_models, _llama_cpp(environment, home, platform)),
    ]
    found: dict[tuple[str, Path], Place] = {}
    for runner, models, paths in listed:
        for path in paths:
            if path.is_dir():
                place = Place(runner=runner, path=path, models=models)
                found.setdefault((runner, path.resolve()), place)
    return tuple(found.values())


def _hugging_face(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    """huggingface_hub, `constants.py`."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        yield from _stated(environment, variable)
    for hf_home in _stated(environment, "HF_HOME"):
        yield hf_home / "hub"
    for cache in _stated(environment, "XDG_CACHE_HOME"):
        yield cache / "huggingface" / "hub"
    yield home / ".cache" / "huggingface" / "hub"


def _lm_studio(home: Path) -> Iterator[Path]:
    """Its home is `~/.lmstudio`, was `~/.cache/lm-studio`, or is in a pointer file; its settings
    have the folder when the user chose another."""
    homes = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    try:
        pointer = read_small(home / ".lmstudio-home-pointer", _MAX_POINTER_BYTES)
        text = pointer.decode("utf-8", "replace").strip()
        homes += [absolute(Path(text))] if text and "\0" not in text else []
    except ValueError:
        pass
    for each in homes:
        yield each / "models"
        try:
            chosen = read_json(each / "settings.json").get("downloadsFolder")
        except ValueError:
            continue
        if isinstance(chosen, str) and chosen and "\0" not in chosen:
            yield absolute(Path(chosen))


def _ollama(environment: Mapping[str, str], home: Path, system: Path) -> Iterator[Path]:
    """As a service Ollama runs as the user `ollama`, with a home of its own (its install.sh)."""
    yield from _stated(environment, "OLLAMA_MODELS")
    yield home / ".ollama" / "models"
    for owner in ("usr/share/ollama", "var/lib/ollama"):
        yield system / owner / ".ollama" / "models"
    yield system / "var" / "lib" / "ollama" / "models"


def _llama_cpp(environment: Mapping[str, str], home: Path, platform: str) -> Iterator[Path]:
    """llama.cpp, `fs_get_cache_directory` in `common/common.cpp`."""
    yield from _stated(environment, "LLAMA_CACHE")
    if platform == "darwin":
        yield home / "Library" / "Caches" / "llama.cpp"
    elif platform == "win32":
        for local in _stated(environment, "LOCALAPPDATA"):
            yield local / "llama.cpp"
    for cache in _stated(environment, "XDG_CACHE_HOME"):
        yield cache / "llama.cpp"
    yield home / ".cache" / "llama.cpp"


def _stated(environment: Mapping[str, str], variable: str) -> Iterator[Path]:
    if value := environment.get(variable):
        yield absolute(Path(value))
