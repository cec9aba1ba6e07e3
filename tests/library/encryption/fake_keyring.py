"""A keyring in memory, and one that cannot be used."""

from pathlib import Path

from localllm.errors import KeyUnavailable


class FakeKeyring:
    """Keeps keys in a dict. While `is_broken` it can do nothing."""

    name = "Fake Keyring"

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.is_broken = False

    def read(self, entry: str) -> bytes:
        self._check()
        if entry not in self.entries:
            raise KeyUnavailable(f"no entry {entry}")
        return self.entries[entry]

    def write(self, entry: str, key: bytes) -> None:
        self._check()
        self.entries[entry] = key

    def delete(self, entry: str) -> None:
        self._check()
        self.entries.pop(entry, None)

    def _check(self) -> None:
        if self.is_broken:
            raise KeyUnavailable("The keyring is locked.")


class FileKeyring(FakeKeyring):
    """Keeps keys in files, for tests of several processes."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        directory.mkdir(exist_ok=True)

    def read(self, entry: str) -> bytes:
        try:
            return (self._directory / entry).read_bytes()
        except FileNotFoundError:
            raise KeyUnavailable(f"no entry {entry}") from None

    def write(self, entry: str, key: bytes) -> None:
        (self._directory / entry).write_bytes(key)

    def delete(self, entry: str) -> None:
        (self._directory / entry).unlink(missing_ok=True)
