"""Downloads of the app: where they come from, the queue of them, and what went wrong in words."""

from localllm.tui.downloads.problems import DownloadProblem
from localllm.tui.downloads.queue import Download, Downloads, DownloadState
from localllm.tui.downloads.source import (
    DownloadPreview,
    DownloadRequest,
    DownloadSource,
    HubSource,
    request_of,
)

__all__ = [
    "Download",
    "DownloadPreview",
    "DownloadProblem",
    "DownloadRequest",
    "DownloadSource",
    "DownloadState",
    "Downloads",
    "HubSource",
    "request_of",
]
