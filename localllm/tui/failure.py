"""What is said of an error that ends the app: where it happened, and nothing of what was in it.

A message and the local variables of a traceback can be what somebody typed.
"""

import traceback
from pathlib import Path

from textual.worker import WorkerFailed


def failure_of(error: BaseException) -> str:
    """Name the kind of an error and the lines that it came from."""
    if isinstance(error, WorkerFailed):
        error = error.error
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    places = [_place(frames[-1])]
    ours = [frame for frame in frames[:-1] if "localllm" in Path(frame.filename).parts]
    if ours and "localllm" not in Path(frames[-1].filename).parts:
        places.append(_place(ours[-1]))
    return f"{type(error).__name__} at {', from '.join(places)}"


def lines_of(error: BaseException) -> str:
    """Write the traceback without its message: files, lines and source text only."""
    if isinstance(error, WorkerFailed):
        error = error.error
    return "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__


def _place(frame: traceback.FrameSummary) -> str:
    return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"
