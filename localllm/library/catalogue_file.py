"""The catalogue that came with this installation, read from its file."""

from localllm.core import catalogue
from localllm.core.catalogue import Entry
from localllm.errors import UsageError
from localllm.library import paths


def read_catalogue() -> tuple[Entry, ...]:
    """Read and check the catalogue. Raises UsageError when it is damaged or not there."""
    path = paths.catalogue_path()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The catalogue {path} cannot be read ({error}). Install localllm again."
        ) from error
    return catalogue.parse(text)


def find_entry(name: str) -> Entry | None:
    """The catalogue's entry of this name, or of the only name that begins so."""
    wanted = name.lower()
    entries = read_catalogue()
    starting = [entry for entry in entries if wanted and entry.name.startswith(wanted)]
    exact = [entry for entry in starting if entry.name == wanted]
    if exact or len(starting) == 1:
        return (exact or starting)[0]
    return None
