"""Hash installed models again and compare them with what was recorded. Needs no network: the
digest that the Hub, a cache or an earlier import stated was recorded when the files came."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from localllm.errors import LocalLLMError, StoreError
from localllm.library.files.checksum import sha256_of
from localllm.library.files.names import printable
from localllm.library.store.installed import InstalledModel, Part, State
from localllm.library.store.store import Store, remedy

_MATCHES = "matches the recorded SHA-256"
_FIRST = "first digest recorded, nothing to compare it with"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What came of one model. `ok` is None for a file that is not in the library and states no
    digest; `unrecorded` says why the result could not be written down, None when it was."""

    model: InstalledModel
    ok: bool | None
    detail: str
    unrecorded: str | None = None


def verify(
    model: InstalledModel, store: Store, *, read: Callable[[Part, int], None] = lambda _p, _n: None
) -> Checked:
    """Hash every file of a model, and record when it was found as it should be.

    `read` is told of the bytes as they are read. Where there was no digest the first is recorded;
    where the bytes differ the model counts as verified no more. Raises nothing for a bad file.
    """
    hashed: list[Part] = []
    problems: list[str] = []
    for part in model.all_files:
        now, problem = _hash(part, read)
        hashed.append(now)
        problems += [problem] if problem else []
    first = any(part.sha256 is None for part in model.all_files)
    if problems:
        detail = f"{'. '.join(problems)}. {remedy(model)}"
        return _recorded(store, model, tuple(hashed), ok=False, detail=detail)
    if model.source == "path" and first:
        digests = ", ".join(part.sha256 or "" for part in hashed)
        return Checked(
            model=_with(model, tuple(hashed)),
            ok=None,
            detail=f"not in the library: nothing to compare SHA-256 {digests} with",
        )
    detail = _FIRST if first else _MATCHES
    return _recorded(store, model, tuple(hashed), ok=True, detail=detail)


def _hash(part: Part, read: Callable[[Part, int], None]) -> tuple[Part, str | None]:
    """The file with its digest and its time of now; what is wrong with it, without a full stop.

    A file that cannot be the recorded one, as its size says, is not read.
    """
    state, problem = replace(part, damaged=False).look()
    try:
        now = part.path.stat()
        other = now.st_size != part.size_bytes or part.sha256 is None
        if state is State.MISSING or (state is State.CHANGED and other):
            return part, problem
        digest = sha256_of(part.path, read=lambda count: read(part, count))
    except LocalLLMError as error:
        return part, str(error).rstrip(".")
    except OSError as error:
        return part, problem or f"{printable(part.path)} cannot be read: {error.strerror}"
    if part.sha256 is not None and digest != part.sha256.lower():
        return replace(part, mtime_ns=now.st_mtime_ns, damaged=True), (
            f"{printable(part.path)} is not what was recorded: its SHA-256 is {digest} and should"
            f" be {part.sha256}"
        )
    return replace(part, sha256=digest, mtime_ns=now.st_mtime_ns, damaged=False), None


def _recorded(
    store: Store, model: InstalledModel, files: tuple[Part, ...], *, ok: bool, detail: str
) -> Checked:
    """Write down what came of it, where that can be."""
    if model.source == "path":
        return Checked(model=_with(model, files), ok=ok, detail=detail)
    try:
        return Checked(model=store.record(model, files, ok=ok), ok=ok, detail=detail)
    except StoreError as error:
        if detail == _FIRST:
            detail = "no digest was recorded to compare it with"
        return Checked(model=_with(model, files), ok=ok, detail=detail, unrecorded=str(error))


def _with(model: InstalledModel, files: tuple[Part, ...]) -> InstalledModel:
    parts = files[: len(model.files)]
    return replace(model, parts=parts, sha256=parts[0].sha256 if len(parts) == 1 else None)
