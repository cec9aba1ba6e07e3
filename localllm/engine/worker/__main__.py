"""`python -m localllm.engine.worker`: the entry point of the engine's process."""

import os
import sys
import traceback
from contextlib import suppress

from localllm.engine.worker.main import main


def run() -> None:
    """Run the worker, and exit without Python's shutdown.

    The reader thread may be inside a read of stdin, whose lock the shutdown wants: it would end
    in an abort instead of an exit status.
    """
    status = 1
    try:
        status = main()
    except Exception:  # noqa: BLE001 - the last line of this process; its log is all that is left
        with suppress(OSError):
            traceback.print_exc()
    finally:
        with suppress(OSError):  # a full disk
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    run()
