"""A process that changes a library, for the tests that kill it or run two of it.

Arguments: the library's directory, "adopt", "link", "download", "verify", "scan" or "remove", the
number of the system event at which the process kills itself (0: never), and what to adopt, verify
or remove, or the home to scan.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import localllm.library.download.notes  # noqa: F401  # else its import counts as events
from localllm.library.scan.places import places
from localllm.library.scan.sweep import sweep
from localllm.library.store import Store
from localllm.library.verify import verify

COMMIT = "c" * 40
_EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "fcntl.flock")


def _kill_at(number: int) -> None:
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, _arguments: tuple[object, ...]) -> None:
        if event in _EVENTS:
            count()

    sys.addaudithook(hook)
    really = os.fsync

    def fsync(descriptor: int) -> None:  # Python audits none: a chance to die before and after
        count()
        really(descriptor)
        count()

    os.fsync = fsync  # type: ignore[assignment]  # nothing here syncs but by descriptor


def _change(store: Store, verb: str, subject: str) -> None:
    path = Path(subject)
    match verb:
        case "remove":
            store.remove(subject)
        case "verify":
            verify(store.named(subject), store)
        case "scan":
            for _ in sweep(store, places({}, path, system=path)):
                pass
        case "download":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            store.add_download([path], repo="org/repo", commit=COMMIT, sha256s={path: digest})
        case _:
            store.adopt(path, link=verb == "link")


def main(data: str, verb: str, crash_at: str, *subjects: str) -> None:
    store = Store(Path(data), find_starter=lambda: None)
    store.installed()
    _kill_at(int(crash_at))
    for subject in subjects:
        _change(store, verb, subject)


if __name__ == "__main__":
    main(*sys.argv[1:])
