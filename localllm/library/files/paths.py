"""Every path that the program uses. No other module builds one of its own.

`LOCALLLM_DATA_DIR`, `LOCALLLM_CONFIG_DIR` and `LOCALLLM_CACHE_DIR` move a whole directory; without
them each system's own places are used (platformdirs). Nothing here creates anything: who writes
makes the directory it writes to.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from platformdirs import PlatformDirs

_DIRS = PlatformDirs("localllm", appauthor=False)
_PACKAGE = Path(__file__).resolve().parents[2]


def data_dir() -> Path:
    """Return the library's directory: its index, downloads and hard links."""
    return _directory("LOCALLLM_DATA_DIR", _DIRS.user_data_path)


def config_dir() -> Path:
    """Return the directory of the settings and the server's key."""
    return _directory("LOCALLLM_CONFIG_DIR", _DIRS.user_config_path)


def cache_dir() -> Path:
    """Return the directory of files that may be deleted at any time."""
    return _directory("LOCALLLM_CACHE_DIR", _DIRS.user_cache_path)


def batch_dir() -> Path:
    """Return the directory of the files and batches of the API."""
    return data_dir() / "batches"


def log_dir() -> Path:
    """Return the directory of the engines' logs: what llama.cpp prints."""
    return cache_dir() / "logs"


def session_cache_dir() -> Path:
    """Return the directory of saved KV caches of sessions."""
    return cache_dir() / "states"


def swap_dir() -> Path:
    """Return the directory of the encrypted conversations of models that a server has unloaded."""
    return cache_dir() / "swap"


def encryption_keys_file() -> Path:
    """Return the file of the keys of everything that is kept encrypted."""
    return data_dir() / "private" / "keys"


def conversations_dir() -> Path:
    """Return the directory of the conversations of the app, encrypted."""
    return data_dir() / "private" / "chats"


def collections_dir() -> Path:
    """Return the directory of the collections of documents, encrypted."""
    return data_dir() / "private" / "collections"


def bandwidth_file() -> Path:
    """Return the cache of the measured memory bandwidth."""
    return cache_dir() / "bandwidth.json"


def engine_verdicts_file() -> Path:
    """Return what examinations of builds of llama.cpp have found."""
    return cache_dir() / "engines.json"


def kernels_file() -> Path:
    """Return what was measured of the engines' kernels on this processor."""
    return cache_dir() / "kernels.json"


def threads_file() -> Path:
    """Return the cache of the thread counts that were found best."""
    return cache_dir() / "threads.json"


def gpu_verdicts_file() -> Path:
    """Return what tests of GPUs have found."""
    return cache_dir() / "gpus.json"


def catalogue_cache_file() -> Path:
    """Return the cache of the parsed catalogue."""
    return cache_dir() / "catalogue.json"


def starter_cache_file() -> Path:
    """Return the cache of the place of the starter model."""
    return cache_dir() / "starter.json"


def settings_file() -> Path:
    """Return the user's settings.toml."""
    return config_dir() / "settings.toml"


def saved_text(key: str, file: Path | None = None) -> str:
    """Read a text at the top of the user's settings, "" for none.

    Only this key is read, for the first picture of the app and its language; what is wrong in the
    file is said when all of it is read (settings.load).
    """
    import tomllib  # most of what asks for a path reads no settings

    with suppress(OSError, UnicodeError, tomllib.TOMLDecodeError):
        text = (file or settings_file()).read_text("utf-8")
        if isinstance(value := tomllib.loads(text).get(key), str):
            return value
    return ""


def presets_file() -> Path:
    """Return the named settings of conversations."""
    return config_dir() / "presets.json"


def prompts_dir() -> Path:
    """Return the directory of the user's own prompts: `prompts_dir/NAME.md`."""
    return config_dir() / "prompts"


def duels_file() -> Path:
    """Return the counts of the duels between models: no question and no answer."""
    return data_dir() / "duels.json"


def key_file() -> Path:
    """Return the file with the key of the local API."""
    return config_dir() / "api-key"


def keys_file() -> Path:
    """Return the file with the hashes of the named keys of the local API."""
    return config_dir() / "keys.json"


def keys_used_file() -> Path:
    """Return the file that says when each named key was last used."""
    return config_dir() / "keys-used.json"


def server_file(name: str) -> Path:
    """Return the file in which a running server says where it listens; `name` tells servers of one
    user apart. It stands with the keys: the library may be shared, this is not."""
    return config_dir() / "run" / f"{name}.json"


def server_log_file(name: str) -> Path:
    """Return the log of a server without a terminal."""
    return log_dir() / f"serve-{name}.log"


def hub_headers_dir(cache: Path) -> Path:
    """Return the directory of headers that were read from the Hub, in the cache directory."""
    return cache / "hub-headers"


def header_cache_file(cache: Path, number: int) -> Path:
    """Return the cached header of an installed model, in the cache directory."""
    return cache / "sized" / f"{number:08x}.json"


def architectures_file(cache: Path) -> Path:
    """Return the file of the architectures that the installed engine runs, in the cache
    directory."""
    return cache / "architectures.json"


def used_engine_file(cache: Path) -> Path:
    """Return the file that names the engine that ran last, in the cache directory; each
    installation of localllm has its own."""
    return cache / "engine-used" / f"{crc32(sys.prefix.encode()):08x}.json"


def hf_token_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the file to which `hf auth login` writes the token (its `constants.py`)."""
    if chosen := environment.get("HF_TOKEN_PATH"):
        return absolute(Path(os.path.expandvars(chosen)))
    home = environment.get("HF_HOME") or os.path.join(  # noqa: PTH118
        environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return absolute(Path(os.path.expandvars(home)) / "token")


def catalogue_path() -> Path:
    """Return the catalogue of known models.

    `localllm/models.toml` in a wheel, the file at the root of the repository in an editable
    install.
    """
    packaged = _PACKAGE / "models.toml"
    return packaged if packaged.is_file() else _PACKAGE.parent / "models.toml"


def index_file(data: Path) -> Path:
    """Return the index of the library in `data`."""
    return data / "library.json"


def lock_file(data: Path) -> Path:
    """Return the file that a process locks while it changes the library in `data`."""
    return data / "library.lock"


def measurements_file(data: Path) -> Path:
    """Return the measurements of `bench`, in the library in `data`."""
    return data / "measurements.json"


def engine_rates_file(data: Path) -> Path:
    """Return the measurements of `engine bench`, in the library in `data`."""
    return data / "engine-rates.json"


def connections_file(data: Path) -> Path:
    """Return the file of the connections to other machines that were made, in the library in
    `data`."""
    return data / "connections.json"


def models_dir(data: Path) -> Path:
    """Return the directory of the library's own hard links."""
    return data / "models"


def hub_dir(data: Path) -> Path:
    """Return the directory of downloads from the Hub: `hub_dir/ORG/REPO/FILE`."""
    return data / "hub"


def downloads_file(data: Path) -> Path:
    """Return the list of the app's downloads that are not done."""
    return data / "downloads.json"


def absolute(path: Path) -> Path:
    """Make a path absolute, without `..` and with `~` expanded, but do not follow links.

    A cache's link (`model-00001-of-00002.gguf`) has a name that its target (`blobs/4f2a...`) lacks.
    """
    # Not pathlib's: absolute() keeps "..", and expanduser() raises for "~nobody".
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111


def _directory(variable: str, default: Path) -> Path:
    chosen = os.environ.get(variable)
    return absolute(Path(chosen)) if chosen else default
