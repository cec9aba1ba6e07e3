"""What went wrong with a download in one line, and what to try: in the app's words.

The library's own messages name commands; here a key or a place of the app takes their part.
"""

from dataclasses import dataclass

from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.errors import (
    AccessDenied,
    DiskFull,
    DownloadFailed,
    GgufError,
    HubError,
    LocalLLMError,
    NotFound,
    Offline,
    StoreError,
)
from localllm.translation import _


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadProblem:
    """A failure: its cause, what to try, and the library's own words where they say more."""

    what: str
    hint: str
    detail: str = ""

    @property
    def line(self) -> str:
        return f"{self.what} {self.hint}".strip()


def describe_problem(error: LocalLLMError, repository: str) -> DownloadProblem:
    """Describe the error that ended a download."""
    detail = single_line(str(error))
    match error:
        case DiskFull():
            return DownloadProblem(
                what=_("The disk is full: {size} more are needed in {folder}.").format(
                    size=format_bytes(max(0, error.needed_bytes)), folder=error.directory
                ),
                hint=_("Make room, for example by removing a model, then resume."),
            )
        case Offline():
            return DownloadProblem(
                what=_("The network is switched off here."),
                hint=_("Switch it on in Settings, then resume; or import a file."),
                detail=detail,
            )
        case AccessDenied():
            return DownloadProblem(
                what=_("{repository} wants an account that accepted its terms.").format(
                    repository=repository
                ),
                hint=_("Accept them on its page and give a token, then retry."),
                detail=detail,
            )
        case NotFound():
            return DownloadProblem(
                what=_("{repository} does not have this file any more.").format(
                    repository=repository
                ),
                hint=_("Look for another one with a search of the Hub."),
                detail=detail,
            )
        case StoreError():
            return DownloadProblem(
                what=_("The folder of the models cannot be written."),
                hint=_("Look at the rights and the space of the disk, then retry."),
                detail=detail,
            )
        case GgufError():
            return DownloadProblem(
                what=_("What came is no model that can be used here."),
                hint=_("Take another file or repository."),
                detail=detail,
            )
        case DownloadFailed():
            # Its cause, where there is one, is without the words about the command line.
            return DownloadProblem(
                what=_("The connection was lost."),
                hint=_("What came is kept: resume when the network is back."),
                detail=single_line(str(error.__cause__ or error)),
            )
        case HubError():
            return DownloadProblem(
                what=_("The Hub cannot be reached."),
                hint=_("Look at the network or the proxy, then retry."),
                detail=detail,
            )
    return DownloadProblem(what=detail, hint="")
