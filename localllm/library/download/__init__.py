"""Downloads that always finish: resumable, verified, one file or many. See docs/download.md."""

from localllm.library.download.downloader import download as download
from localllm.library.download.target import Conditions as Conditions
from localllm.library.download.target import Downloaded as Downloaded
from localllm.library.download.target import DownloadTarget as DownloadTarget
from localllm.library.download.target import Progress as Progress
