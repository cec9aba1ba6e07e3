"""A process that changes a library, for the tests that kill it or run two of it.

Arguments: the library's directory, "adopt", "link", "download", "verify", "scan" or "remove",
"once" or "killed", and what to adopt, verify or remove, or the home to scan. With "killed" a child
does it again and again and kills itself one system event later each time, until it ends well;
after each a line says how it ended, and the next begins when a line is answered.
"""

import hashlib
import itertools
import os
import signal
import sys
from pathlib import Path

from localllm.library.scan.places import places
from localllm.library.scan.sweep import sweep
from localllm.library.store.store import Store
from localllm.library.store.verify import verify

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


def _kill_everywhere(store: Store, verb: str, subject: str) -> None:
    for number in itertools.count(1):
        child = os.fork()
        if child == 0:
            _kill_at(number)
            _change(store, verb, subject)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
        if not sys.stdin.readline():
            return


def main(data: str, verb: str, how: str, *subjects: str) -> None:
    store = Store(Path(data), find_starter=lambda: None)
    store.installed()
    for subject in subjects:
        if how == "killed":
            _kill_everywhere(store, verb, subject)
        else:
            _change(store, verb, subject)


if __name__ == "__main__":
    main(*sys.argv[1:])
