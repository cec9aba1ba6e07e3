"""Downloads that always finish: resumable, verified, one file or many. See docs/download.md."""

from localllm.library.download.run import download as download
from localllm.library.download.wanted import Conditions as Conditions
from localllm.library.download.wanted import Downloaded as Downloaded
from localllm.library.download.wanted import Progress as Progress
from localllm.library.download.wanted import Wanted as Wanted
