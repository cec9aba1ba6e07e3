"""The index on the disk.

It is replaced as a whole under a lock, so two processes and a crash at any point leave a library
that can be read; reading takes no lock and works on a read-only disk.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from localllm.errors import LocalLLMError, StoreError
from localllm.library import disk, paths
from localllm.library.index import Damaged, Index, TooNew
from localllm.library.installed import InstalledModel
from localllm.library.recovered import with_own_files


class IndexFile:
    """The entries of the library in `data`; `warn` gets a sentence when one had to be mended."""

    def __init__(self, data: Path, *, warn: Callable[[str], None]) -> None:
        self._data = data
        self._index = Index(data)
        self._warn = warn

    def entries(self) -> tuple[InstalledModel, ...]:
        """Every entry; a damaged index is mended first, where it can be. Raises StoreError."""
        data = self._read()
        try:
            return self._parse(data)
        except Damaged:
            pass
        try:
            with self.changing() as models:
                return tuple(models.values())
        except StoreError as error:
            saved = self._index.salvage(data)
            self._warn(
                f"The library's index {paths.index_file(self._data)} is damaged and cannot be"
                f" mended: {error} {len(saved)} of its models can be read."
            )
            return saved

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, InstalledModel]]:
        """Hold the library alone; what the caller makes of its entries is written at the end.

        Raises StoreError when it is in use, cannot be read or cannot be written.
        """
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            with disk.locked(paths.lock_file(self._data)):
                models = {model.name: model for model in self._mended()}
                before = dict(models)
                yield models
                if models != before:
                    self._write(models)
        except TimeoutError as error:
            raise StoreError(f"The library is in use: {error}. Try again.") from error
        except LocalLLMError:
            raise
        except OSError as error:
            raise StoreError(
                f"The library in {self._data} cannot be changed: {_why(error)}."
                " Its index is as it was."
            ) from error

    def _mended(self) -> tuple[InstalledModel, ...]:
        """Read the index; set a damaged one aside and write what can be read of it."""
        data = self._read()
        try:
            return self._parse(data)
        except Damaged as damage:
            path = paths.index_file(self._data)
            aside = _unused_path(path.with_suffix(".damaged.json"))
            saved = with_own_files(self._index.salvage(data), self._data)
            disk.write_atomically(aside, data)
            self._write({model.name: model for model in saved})
            self._warn(
                f"The library's index {path} was damaged ({damage}): it is kept as {aside.name},"
                f" and {len(saved)} of its models were read back. Import again what is missing."
            )
            return saved

    def _read(self) -> bytes:
        path = paths.index_file(self._data)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return self._index.dump(())
        except OSError as error:
            raise StoreError(
                f"The library's index {path} cannot be read: {_why(error)}."
            ) from error

    def _parse(self, data: bytes) -> tuple[InstalledModel, ...]:
        """Raises Damaged, and StoreError for an index that a later version wrote."""
        try:
            return self._index.parse(data)
        except TooNew as error:
            path = paths.index_file(self._data)
            raise StoreError(
                f"{path} was written by a later localllm: {error}. Update localllm."
            ) from error

    def _write(self, models: dict[str, InstalledModel]) -> None:
        disk.write_atomically(paths.index_file(self._data), self._index.dump(models.values()))


def _unused_path(path: Path) -> Path:
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(each for each in itertools.chain((path,), numbered) if not each.exists())


def _why(error: OSError) -> str:
    return error.strerror or str(error)
