"""The text of a PDF file, page by page, read by a process that can be ended (`pdf_worker.py`)."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from localllm.core.text import single_line
from localllm.engine.client.child_process import ChildProcess
from localllm.errors import StoreError, UsageError
from localllm.translation import _, ngettext

PDF_WORKER = (sys.executable, "-P", "-m", "localllm.chat.attachments.pdf_worker")
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PdfLimits:
    """What reading one PDF may cost. `timeout_s` is for the whole file."""

    max_pages: int = 3000
    timeout_s: float = 60.0
    memory_bytes: int = 2 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class PdfText:
    """The text of the pages that were read, "" where a page has none; `remark` says in a sentence
    what is missing, "" for nothing."""

    pages: tuple[str, ...]
    page_count: int
    remark: str = ""


async def read_pdf(
    path: Path, limits: PdfLimits | None = None, *, program: tuple[str, ...] = PDF_WORKER
) -> PdfText:
    """Read the text of a PDF file. Cancelling the call ends the process.

    Raises UsageError for one that is encrypted, broken or without any text, StoreError where no
    process can be started.
    """
    limits = limits or PdfLimits()
    task = {
        "path": str(path),
        "max_pages": limits.max_pages,
        "memory_bytes": limits.memory_bytes,
    }
    reading = _Reading()
    try:
        process = await ChildProcess.start(
            program, log_path=None, environment={**os.environ, "PYTHONUTF8": "1"}
        )
    except OSError as error:
        raise StoreError(
            _("No process to read the PDF can be started: {reason}.").format(
                reason=error.strerror or error
            )
        ) from error
    try:
        process.send(json.dumps(task).encode() + b"\n")
        async with asyncio.timeout(limits.timeout_s):
            async for line in process.lines():
                reading.take(line)
            reading.exit_reason = await process.exit_reason(grace_s=_CLOSE_S)
    except TimeoutError:
        reading.timed_out = True
    except ValueError:  # a line that is longer than any that the worker writes
        reading.error, reading.reason = "broken", _("a page is too long")
    finally:
        process.kill()
        await process.close(grace_s=_CLOSE_S)
    return reading.result(limits)


class _Reading:
    """What came of the process so far."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.page_count = 0
        self.failed = 0
        self.error = ""
        self.reason = ""
        self.exit_reason = ""
        self.ended = False
        self.timed_out = False

    def take(self, line: bytes) -> None:
        match json.loads(line):
            case {"pages": int(count)}:
                self.page_count = count
            case {"page": int(), "text": str(text), "failed": int(failed)}:
                self.pages.append(text)
                self.failed += failed
            case {"error": str(error), **rest}:
                self.error, self.reason = error, single_line(str(rest.get("reason", "")))
            case {"end": _end}:
                self.ended = True

    def result(self, limits: PdfLimits) -> PdfText:
        if not self.pages or not any(text.strip() for text in self.pages):
            raise UsageError(self._failure(limits))
        return PdfText(
            pages=tuple(self.pages),
            page_count=max(self.page_count, len(self.pages)),
            remark=self._remark(limits),
        )

    def _failure(self, limits: PdfLimits) -> str:
        if self.error == "encrypted":
            return _(
                "The PDF is encrypted: it opens with a password only. Save a copy without one."
            )
        if self.error == "memory":
            return _("The PDF needs more than {size} GiB to be read, and was given up.").format(
                size=f"{limits.memory_bytes / 2**30:.1f}"
            )
        if self.timed_out:
            return _("The PDF was given up: after {seconds} s no page of it was read.").format(
                seconds=f"{limits.timeout_s:.0f}"
            )
        if self.error or not self.ended:
            reason = _(self.reason) or self.exit_reason
            return _("The PDF cannot be read: it is damaged ({reason}).").format(reason=reason)
        if self.failed:
            return _("The PDF cannot be read: all of its pages with text are damaged.")
        return _(
            "The PDF has no text: its pages are pictures, as a scanner makes them. Run a text "
            "recognition (OCR) over it first."
        )

    def _remark(self, limits: PdfLimits) -> str:
        """Say what is missing of a file of which some pages were read."""
        read, count = len(self.pages), max(self.page_count, len(self.pages))
        if read < count:
            missing = _("Only {read} of {count} pages were read").format(read=read, count=count)
            if self.timed_out:
                return _("{missing}: it took longer than {seconds} s.").format(
                    missing=missing, seconds=f"{limits.timeout_s:.0f}"
                )
            if self.error:
                return _("{missing}: the file is damaged.").format(missing=missing)
            return missing + "."
        if self.failed:
            return ngettext(
                "{failed} of {count} pages is damaged and was left out.",
                "{failed} of {count} pages are damaged and were left out.",
                self.failed,
            ).format(failed=self.failed, count=count)
        if empty := sum(not text.strip() for text in self.pages):
            return ngettext(
                "{empty} of {count} pages has no text, only pictures.",
                "{empty} of {count} pages have no text, only pictures.",
                empty,
            ).format(empty=empty, count=count)
        return ""
