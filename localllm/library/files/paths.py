"""Every path the program uses; the only module that knows them.

`LOCALLLM_DATA_DIR`, `LOCALLLM_CONFIG_DIR` and `LOCALLLM_CACHE_DIR` move a whole directory; without
them each system's own places are used (platformdirs). Nothing here creates anything: who writes
makes the directory it writes to.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from platformdirs import PlatformDirs

_DIRS = PlatformDirs("localllm", appauthor=False)
_PACKAGE = Path(__file__).resolve().parents[2]


def data_dir() -> Path:
    """Where the library is: its index and its own hard links."""
    return _directory("LOCALLLM_DATA_DIR", _DIRS.user_data_path)


def config_dir() -> Path:
    """Where settings and the server's key are."""
    return _directory("LOCALLLM_CONFIG_DIR", _DIRS.user_config_path)


def cache_dir() -> Path:
    """Where files are that may be deleted at any time."""
    return _directory("LOCALLLM_CACHE_DIR", _DIRS.user_cache_path)


def log_dir() -> Path:
    """Where each engine's own log goes: what llama.cpp prints."""
    return cache_dir() / "logs"


def states_dir() -> Path:
    """Where the cells of kept conversations are."""
    return cache_dir() / "states"


def bandwidth_file() -> Path:
    """The memory bandwidth that was measured here."""
    return cache_dir() / "bandwidth.json"


def catalogue_cache_file() -> Path:
    """What was read of the catalogue and checked; made again when it is not there."""
    return cache_dir() / "catalogue.json"


def starter_file() -> Path:
    """Where the starter model was found the last time."""
    return cache_dir() / "starter.json"


def settings_file() -> Path:
    """The user's settings."""
    return config_dir() / "settings.toml"


def key_file() -> Path:
    """The key of the local API."""
    return config_dir() / "api-key"


def hub_headers_dir(cache: Path) -> Path:
    """The headers that were read from models on the Hub, in the cache whose directory is
    `cache`."""
    return cache / "hub-headers"


def sized_file(cache: Path, number: int) -> Path:
    """What was kept of an installed model's header, in the cache whose directory is `cache`."""
    return cache / "sized" / f"{number:08x}.json"


def hf_token_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where huggingface_hub keeps the token that `hf auth login` writes (its constants.py)."""
    if chosen := environment.get("HF_TOKEN_PATH"):
        return absolute(Path(os.path.expandvars(chosen)))
    home = environment.get("HF_HOME") or os.path.join(  # noqa: PTH118
        environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return absolute(Path(os.path.expandvars(home)) / "token")


def catalogue_path() -> Path:
    """The catalogue of known models: `localllm/models.toml` in a wheel, the file at the root of
    the repository in an editable install."""
    packaged = _PACKAGE / "models.toml"
    return packaged if packaged.is_file() else _PACKAGE.parent / "models.toml"


def index_file(data: Path) -> Path:
    """The index of the library whose directory is `data`."""
    return data / "library.json"


def lock_file(data: Path) -> Path:
    """What a process locks while it changes the library."""
    return data / "library.lock"


def measurements_file(data: Path) -> Path:
    """What `bench` measured, in the library whose directory is `data`."""
    return data / "measurements.json"


def models_dir(data: Path) -> Path:
    """Where the library's own hard links are."""
    return data / "models"


def hub_dir(data: Path) -> Path:
    """Where downloads from the Hub lie: `hub_dir/ORG/REPO/FILE`."""
    return data / "hub"


def absolute(path: Path) -> Path:
    """An absolute path without `..`, `~` expanded, links kept.

    Links are kept because a cache's link (`model-00001-of-00002.gguf`) has a name that its target
    (`blobs/4f2a...`) has not.
    """
    # Not pathlib's: absolute() keeps "..", and expanduser() raises for "~nobody".
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111


def _directory(variable: str, default: Path) -> Path:
    chosen = os.environ.get(variable)
    return absolute(Path(chosen)) if chosen else default
