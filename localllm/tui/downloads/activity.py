"""The downloads and the network as the frame of every place shows them: pure functions."""

from collections.abc import Sequence
from dataclasses import replace

from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.library.http.connection_file import Connection
from localllm.library.http.hosts import is_loopback
from localllm.library.http.ledger import NetworkActivity
from localllm.translation import _, ngettext
from localllm.tui.downloads.queue import ACTIVE, Download, DownloadState
from localllm.tui.figures import bar
from localllm.tui.frame_state import NetworkTruth

_CELLS = 12


def activity_text(items: Sequence[Download]) -> str:
    """Write "↓ quince Q4_K_M ▓▓▓▓▓▓▓░░░░░ 62 % 41 MiB/s 44 s · 2 wait"; without a download that
    runs, what else there is to know of the queue; "" for nothing."""
    running = [item for item in items if item.state in ACTIVE]
    waiting = sum(item.state is DownloadState.WAITING for item in items)
    failed = sum(item.state is DownloadState.FAILED for item in items)
    paused = sum(item.state is DownloadState.PAUSED for item in items)
    parts = [download_text(item) for item in running[:1]]
    if len(running) > 1:
        parts.append(_("{count} more").format(count=len(running) - 1))
    if waiting:
        parts.append(ngettext("{count} waits", "{count} wait", waiting).format(count=waiting))
    if failed:
        text = ngettext("{count} download failed", "{count} downloads failed", failed)
        parts.append(text.format(count=failed))
    if paused and not running:
        text = ngettext(
            "{count} download was stopped and can go on",
            "{count} downloads were stopped and can go on",
            paused,
        )
        parts.append(text.format(count=paused))
    return " · ".join(parts)


def download_text(item: Download) -> str:
    """Write one download that runs."""
    title = single_line(item.request.title)
    if item.state is DownloadState.ASKING:
        return _("↓ {title} asks the Hub").format(title=title)
    parts = [f"↓ {title}", bar(item.fraction, _CELLS), f"{item.fraction:.0%}"]
    if (progress := item.progress) is not None:
        if progress.rate_bytes_per_s is not None:
            parts.append(f"{format_bytes(int(progress.rate_bytes_per_s))}/s")
        if progress.remaining_s is not None:
            parts.append(format_duration(progress.remaining_s))
    return " ".join(parts)


def network_truth(
    truth: NetworkTruth,
    items: Sequence[Download],
    activity: NetworkActivity,
    connections: Sequence[Connection],
) -> NetworkTruth:
    """Return the truth about the network as the ledger has it; while a download runs, with its host
    and its own rate, which counts no other request."""
    running = [item for item in items if item.state in ACTIVE and item.host]
    contacted = [
        each.host
        for each in reversed(connections)  # oldest first
        if each.bytes_out and not is_loopback(each.host)
    ]
    if running:
        host = running[0].host
        contacted.append(host)
        progress = [item.progress for item in running if item.progress is not None]
        rates = [each.rate_bytes_per_s for each in progress if each.rate_bytes_per_s is not None]
        rate = sum(rates) if rates else None
    else:
        host = activity.host or ""
        rate = (activity.rate_bytes_per_s or None) if host else None
    every = tuple(dict.fromkeys((*truth.contacted, *contacted)))
    return replace(truth, host=host, bytes_per_s=rate, contacted=every)
