"""What is installed: names, files and where they came from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """One model on disk.

    `source` says where it came from ("starter", "import", later "hub:org/repo@commit").
    `sha256` and `verified_at` (ISO 8601, UTC) are None until it was hashed. The file may have
    been moved since: see `missing`.
    """

    name: str
    quant: str | None
    path: Path
    size_bytes: int
    sha256: str | None = None
    license: str | None = None
    source: str = "import"
    verified_at: str | None = None

    @property
    def missing(self) -> bool:
        return not self.path.is_file()


class Store:
    """The library on disk (bodies follow)."""

    def installed(self) -> tuple[InstalledModel, ...]:
        """Every installed model, by name; the starter model too when its package is here."""
        raise NotImplementedError

    def resolve(self, name: str) -> InstalledModel:
        """A path to a GGUF file, an installed name, or a unique prefix of one. Raises NotFound."""
        raise NotImplementedError
