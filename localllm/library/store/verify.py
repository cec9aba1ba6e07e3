"""Hash installed models again and compare them with the recorded checksums.

Needs no network: the digest that the Hub, a cache or an earlier import stated was recorded when the
files came.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from localllm.errors import LocalLLMError, StoreError
from localllm.library.files.checksum import sha256_of
from localllm.library.files.names import printable
from localllm.library.store.installed import FileState, InstalledFile, InstalledModel
from localllm.library.store.store import Store, remedy

_MATCHES = "matches the recorded SHA-256"
_FIRST = "first digest recorded, nothing to compare it with"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result for one model.

    `ok` is None for a file outside the library, for which there is no digest to compare with.
    `unrecorded` says why the result could not be recorded; None when it was.
    """

    model: InstalledModel
    ok: bool | None
    detail: str
    unrecorded: str | None = None


def verify(
    model: InstalledModel,
    store: Store,
    *,
    on_read: Callable[[InstalledFile, int], None] = lambda _file, _count: None,
) -> Verification:
    """Hash every file of a model, compare the digests, and record the result.

    `on_read` gets the file and the number of bytes after each read. A first digest is recorded;
    with other bytes the model is no longer verified. Raises nothing for a bad file.
    """
    hashed: list[InstalledFile] = []
    problems: list[str] = []
    for part in model.all_files:
        now, problem = _hash(part, on_read)
        hashed.append(now)
        problems += [problem] if problem else []
    first = any(part.sha256 is None for part in model.all_files)
    if problems:
        detail = f"{'. '.join(problems)}. {remedy(model)}"
        return _recorded(store, model, tuple(hashed), ok=False, detail=detail)
    if model.source == "path" and first:
        digests = ", ".join(part.sha256 or "" for part in hashed)
        return Verification(
            model=_with(model, tuple(hashed)),
            ok=None,
            detail=f"not in the library: nothing to compare SHA-256 {digests} with",
        )
    detail = _FIRST if first else _MATCHES
    return _recorded(store, model, tuple(hashed), ok=True, detail=detail)


def _hash(
    part: InstalledFile, on_read: Callable[[InstalledFile, int], None]
) -> tuple[InstalledFile, str | None]:
    """Hash a file; return it with its digest and modification time, and what is wrong with it.

    The problem is a sentence without its end. A file of another size is not read: it cannot be the
    recorded one.
    """
    state, problem = replace(part, damaged=False).check()
    try:
        now = part.path.stat()
        other = now.st_size != part.size_bytes or part.sha256 is None
        if state is FileState.MISSING or (state is FileState.CHANGED and other):
            return part, problem
        digest = sha256_of(part.path, on_read=lambda count: on_read(part, count))
    except LocalLLMError as error:
        return part, str(error).rstrip(".")
    except OSError as error:
        return part, problem or f"{printable(part.path)} cannot be read: {error.strerror}"
    if part.sha256 is not None and digest != part.sha256.lower():
        # With the time of now, so that `damaged` and not the time decides from here on.
        return replace(part, mtime_ns=now.st_mtime_ns, damaged=True), (
            f"{printable(part.path)} is not what was recorded: its SHA-256 is {digest} and should"
            f" be {part.sha256}"
        )
    return replace(part, sha256=digest, mtime_ns=now.st_mtime_ns, damaged=False), None


def _recorded(
    store: Store, model: InstalledModel, files: tuple[InstalledFile, ...], *, ok: bool, detail: str
) -> Verification:
    """Record a result, where that is possible."""
    if model.source == "path":
        return Verification(model=_with(model, files), ok=ok, detail=detail)
    try:
        return Verification(
            model=store.record_verification(model, files, ok=ok), ok=ok, detail=detail
        )
    except StoreError as error:
        if detail == _FIRST:
            detail = "no digest was recorded to compare it with"
        return Verification(model=_with(model, files), ok=ok, detail=detail, unrecorded=str(error))


def _with(model: InstalledModel, files: tuple[InstalledFile, ...]) -> InstalledModel:
    parts = files[: len(model.files)]
    return replace(model, parts=parts, sha256=parts[0].sha256 if len(parts) == 1 else None)
