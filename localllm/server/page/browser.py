"""The link of the page, and this user's browser."""

import asyncio
import os
import sys
from collections.abc import Mapping

_OPEN = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.stdin.read()))"
_OPENS_WITHIN_S = 15.0


def page_link(url: str, token: str | None) -> str:
    """Return the link of the page of the server at `url`. What stands behind # stays in the
    browser: no server, log or Referer has it."""
    return f"{url}/" if token is None else f"{url}/#t={token}"


async def open_in_browser(link: str) -> bool:
    """Open a link in a window; return False where none opens."""
    return has_window_system(sys.platform, os.environ) and await _open(link)


def has_window_system(platform: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a browser can have a window. Without one `webbrowser` would start a browser in
    this terminal."""
    if platform in ("win32", "darwin"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


async def _open(link: str) -> bool:
    """Open it from a process of its own: a browser writes to stdout, and Ctrl+C must not end it.

    The link goes there over a pipe: the arguments of a process can be read by others.
    """
    arguments = (sys.executable, "-P", "-c", _OPEN)
    null = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=null,
            stderr=null,
            start_new_session=True,
        )
    except OSError:
        return False
    try:
        async with asyncio.timeout(_OPENS_WITHIN_S):
            await process.communicate(link.encode())
    except TimeoutError:
        return True  # it is there: a browser that was not running before stays with its starter
    return process.returncode == 0
