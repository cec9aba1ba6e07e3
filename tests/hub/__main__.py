"""Serve the folders DIR/ORG/NAME as repositories: `python -m tests.hub DIR --port N`.

The first line on stdout is the endpoint, as soon as it answers.
"""

import argparse
import signal
import sys
import threading
from pathlib import Path

from tests.hub.server import FakeHub


def folder(root: Path) -> dict[str, Path]:
    """The files of one repository, by their names in it."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path for path in files}


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.hub", description=__doc__)
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--cdn-port", type=int, default=0)
    given = arguments.parse_args()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with FakeHub(port=given.port, cdn_port=given.cdn_port) as hub:
        for root in sorted(given.directory.glob("*/*")):
            if root.is_dir():
                hub.add_repo(root.relative_to(given.directory).as_posix(), folder(root))
        sys.stdout.write(f"{hub.endpoint}\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
