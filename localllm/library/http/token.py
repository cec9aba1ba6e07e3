"""The user's Hub token: from the environment, huggingface_hub's own file, or the keyring.

It is looked up when a request to an endpoint is about to be sent, and not before: a keyring may
ask for a password. No message contains a token, an error neither.
"""

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from localllm.core.text import single_line
from localllm.errors import UsageError
from localllm.library.files import paths

SERVICE = "localllm"
"""The keyring's entry has this service and the user name `USER`."""
USER = "huggingface"

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # the second is huggingface_hub's older name
_MAX_LENGTH = 1024


def find(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the user's token, or None. Raises UsageError for one that no header can carry."""
    for variable in _VARIABLES:
        if token := environment.get(variable, "").strip():
            return _checked(token, variable)
    file = paths.hf_token_file(environment)
    if token := _read(file):
        return _checked(token, single_line(str(file)))
    if token := from_keyring():
        return _checked(token, "the keyring")
    return None


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_LENGTH * 2).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""  # public repositories need none


@functools.cache  # each question may show the user a password prompt
def from_keyring() -> str:
    """Read the token from the system's keyring; "" when there is no keyring or no entry.

    A backend's failure counts as no entry: on machines without a session some of them fail while
    being imported.
    """
    try:
        import keyring

        return (keyring.get_password(SERVICE, USER) or "").strip()
    except Exception as error:  # noqa: BLE001  # a backend raises what it likes
        logging.getLogger(__name__).debug("no keyring: %s", type(error).__name__)
        return ""


def _checked(token: str, origin: str) -> str:
    if token.isascii() and token.isprintable() and " " not in token and len(token) <= _MAX_LENGTH:
        return token
    raise UsageError(
        f"The Hub's token in {origin} cannot be one: a token is one word of plain letters and"
        " digits, like hf_abc. Get one at https://huggingface.co/settings/tokens."
    )
