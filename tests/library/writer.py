"""A process that changes a library, for the tests that kill it or run two of it.

Arguments: the library's directory, "adopt", "link" or "remove", the number of the system event at
which the process kills itself (0: never), and what to adopt or remove.
"""

import os
import signal
import sys
from pathlib import Path

from localllm.library.store import Store

_EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "fcntl.flock")


def _kill_at(number: int) -> None:
    seen = 0

    def count(event: str, _arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _EVENTS:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main(data: str, verb: str, crash_at: str, *subjects: str) -> None:
    store = Store(Path(data), find_starter=lambda: None)
    store.installed()
    _kill_at(int(crash_at))
    for subject in subjects:
        if verb == "remove":
            store.remove(subject)
        else:
            store.adopt(Path(subject), link=verb == "link")


if __name__ == "__main__":
    main(*sys.argv[1:])
