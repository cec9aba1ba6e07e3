"""What a running process takes of the machine now; the meters ask this several times a second."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """`rss_bytes` counts mapped model files in full as far as they are in memory; `pss_bytes`
    counts shared pages by share (Linux only, and dearer to read). `cpu_percent` is 100 for each
    busy core since the sample before, None in the first."""

    rss_bytes: int
    cpu_percent: float | None
    pss_bytes: int | None = None


class ProcessSampler:
    """Samples one process. A new process that got the same id is not mistaken for it."""

    def __init__(self, pid: int) -> None:
        try:
            self._process: psutil.Process | None = psutil.Process(pid)
        except (psutil.Error, OSError, ValueError):
            self._process = None
        self._sampled = False

    def sample(self, *, shared: bool = False) -> ProcessSample | None:
        """Measure now; `shared` asks for `pss_bytes` too. None when the process is gone."""
        process = self._process
        try:
            if process is None or not process.is_running():
                return None
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            with process.oneshot():
                rss = process.memory_info().rss
                cpu = process.cpu_percent()
                pss = _pss(process) if shared else None
        except (psutil.Error, OSError):
            return None
        first, self._sampled = not self._sampled, True
        return ProcessSample(rss_bytes=rss, cpu_percent=None if first else cpu, pss_bytes=pss)


def _pss(process: psutil.Process) -> int | None:
    """Proportional set size; None on systems that do not count it or keep it to the owner."""
    try:
        return getattr(process.memory_full_info(), "pss", None)
    except psutil.AccessDenied:
        return None
