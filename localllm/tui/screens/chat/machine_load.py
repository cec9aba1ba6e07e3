"""How busy the machine is while an answer is written: read now and then, never at rest."""

import time
from collections.abc import Callable

from localllm.machine.load import LoadReader, SystemLoad

READ_S = 2.0


class LoadWatch:
    """Decides when the load is read, and reads it. Blocks: `read` runs in a thread."""

    def __init__(self, read: Callable[[bool], SystemLoad] | None = None) -> None:
        """`read` gets whether the GPU is asked; None: this machine is read."""
        self._read = read
        self._read_s = 0.0

    def due(self) -> bool:
        """Tell whether it is time to read again."""
        return time.monotonic() - self._read_s >= READ_S

    def read(self, *, gpu: bool) -> SystemLoad:
        """Read what the system tells; of the GPU only when the model uses one."""
        self._read_s = time.monotonic()
        if self._read is None:
            self._read = LoadReader().read
        return self._read(gpu)
