"""One small private JSON file of the user's, changed under a lock and replaced atomically.

A file that cannot be read is never overwritten: it may have been written by hand, or by a newer
version.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from localllm.errors import StoreError
from localllm.library.files.atomic_write import write_atomically
from localllm.library.files.file_lock import locked
from localllm.library.files.names import printable
from localllm.translation import _

MAX_FILE_BYTES = 8 * 2**20

Document = TypeVar("Document")


class PrivateFile(Generic[Document]):
    """The document of type `kind` at `path`; `empty` where there is none yet."""

    def __init__(self, path: Path, kind: type[Document], empty: Document) -> None:
        self.path = path
        self._kind = kind
        self._empty = empty

    def read(self) -> Document:
        """Read the document. Raises StoreError for a file that is damaged or not ours."""
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return self._empty
        except OSError as error:
            raise self._error(_("it cannot be read ({reason})"), error.strerror) from error
        try:
            return msgspec.json.decode(data, type=self._kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._error(_("it is damaged ({reason})"), str(error)) from None

    def change(self, change: Callable[[Document], Document]) -> Document:
        """Replace the document by what `change` makes of it. Raises StoreError, and whatever
        `change` raises; then nothing is written."""
        with self._locked():
            before = self.read()
            document = change(before)
            if document != before:
                data = msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
                try:
                    write_atomically(self.path, data, private=True)
                except OSError as error:
                    raise self._error(
                        _("it cannot be written ({reason})"), error.strerror
                    ) from error
            return document

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(f"{self.path.name}.lock")
        with contextlib.ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(lock))
            except (OSError, TimeoutError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise self._error(_("it cannot be locked ({reason})"), reason) from error
            yield

    def _error(self, what: str, reason: str | None) -> StoreError:
        text = what.format(reason=reason or "?")
        return StoreError(
            _("{file} stays as it is: {what}.").format(file=printable(self.path), what=text)
        )
