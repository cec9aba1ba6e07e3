"""The administrator's file: where it lies, who may own it, and what stands in it.

Closed, not open: a file that is there and cannot be read, that somebody else could have written, or
in which anything is wrong raises PolicyUnusable. Only where there is none, there is no policy.
"""

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PureWindowsPath

from localllm.core.policy.document import MAX_BYTES, PolicyDocument, parse
from localllm.core.policy.policy import NO_POLICY, Policy
from localllm.errors import PolicyUnusable
from localllm.policy.rights import OwnedPath, posix_problem, windows_problem
from localllm.policy.windows_rights import read_sddl

VARIABLE = "LOCALLLM_POLICY_FILE"
"""Names another policy file, which holds beside the machine's own."""

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def machine_file(platform: str) -> str:
    """Return the place of the machine's policy file.

    On Windows not below %ProgramData%: a user can change that variable.
    """
    if platform == "win32":
        return str(PureWindowsPath(r"C:\ProgramData") / "localllm" / "policy.toml")
    if platform == "darwin":
        return "/Library/Application Support/localllm/policy.toml"
    return "/etc/localllm/policy.toml"


def read_policy(
    environment: Mapping[str, str] = os.environ, *, machine: str | None = None
) -> Policy:
    """Read every policy file of this machine. Raises PolicyUnusable.

    `machine` replaces the machine's file, for tests.
    """
    documents: list[PolicyDocument] = []
    own = machine_file(sys.platform) if machine is None else machine
    if (document := read_document(own)) is not None:
        documents.append(document)
    named = environment.get(VARIABLE, "").strip()
    if named and named != own:
        if (document := read_document(named)) is None:
            raise PolicyUnusable(
                f"{VARIABLE} names the policy {named}, which is not there. Nothing runs without it:"
                " unset the variable, or ask the administrator for the file."
            )
        documents.append(document)
    if not documents:
        return NO_POLICY
    return Policy(
        enforced=tuple(each.enforced for each in documents),
        recommended=tuple(each.recommended for each in documents),
    )


def read_document(place: str) -> PolicyDocument | None:
    """Read one policy file that nobody but root could have written; None when there is none.

    Raises PolicyUnusable.
    """
    path = Path(place)
    try:
        if not path.is_absolute():
            raise _unusable(place, "it is no absolute path")
        text = _read_checked(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise _unusable(place, "it is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unusable(place, f"it cannot be read ({reason})") from error
    document = parse(text, place=place)
    if document.mistakes:
        raise _unusable(
            place, f"{document.mistakes[0]} (`localllm policy check FILE` lists every mistake)"
        )
    return document


def read_text(path: Path) -> str:
    """Read a regular file as text. Raises OSError, UnicodeDecodeError, ValueError when it is too
    large or no file."""
    with os.fdopen(os.open(path, _OPEN_FLAGS), "rb") as stream:
        _require_regular(os.fstat(stream.fileno()))
        return _text_of(stream.read(MAX_BYTES + 1))


def rights_of(path: Path) -> str | None:
    """Say why a file would be refused for who could have written it; None: it would not be. Raises
    OSError for one that is gone."""
    return _rights_problem(path, path.stat())


def _read_checked(path: Path) -> str:
    """Read the file, and see that nobody but root could have written just these bytes."""
    with os.fdopen(os.open(path, _OPEN_FLAGS), "rb") as stream:
        status = os.fstat(stream.fileno())
        _require_regular(status)
        if (problem := _rights_problem(path, status)) is not None:
            raise _unusable(str(path), problem)
        return _text_of(stream.read(MAX_BYTES + 1))


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")


def _text_of(raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    return raw.decode("utf-8-sig")


def _rights_problem(path: Path, status: os.stat_result) -> str | None:
    whole = path.resolve(strict=True)
    if sys.platform == "win32":
        for each in (whole, whole.parent):
            try:
                sddl = read_sddl(str(each))
            except OSError as error:
                return f"who may write {each} cannot be found out ({error})"
            if (problem := windows_problem(sddl, str(each))) is not None:
                return problem
        return None
    # Of the file itself as it is open: the path may lead to another one by now.
    file = OwnedPath(path=str(whole), owner=status.st_uid, mode=status.st_mode)
    return posix_problem((file, *_owned(whole.parents)))


def _owned(directories: Iterable[Path]) -> Iterator[OwnedPath]:
    for each in directories:
        status = each.stat()
        yield OwnedPath(path=str(each), owner=status.st_uid, mode=status.st_mode)


def _unusable(place: str, reason: str) -> PolicyUnusable:
    return PolicyUnusable(
        f"The policy {place} cannot be used: {reason}. Nothing runs without it; ask the"
        " administrator of this machine to mend it."
    )
