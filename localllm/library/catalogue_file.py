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
