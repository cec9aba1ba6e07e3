"""The accessible mode: where a screen reader reads the terminal, or nothing can be drawn on it,
everything is written in plain lines, without colours, bars and repainting (docs/accessibility.md).

What a person said comes first: the option, the variable ACCESSIBLE (as gh and huh have it), the
setting. Without that the environment is looked at, where it can be relied on. Windows' own flag
(SPI_GETSCREENREADER) is not: it is set on many machines without a screen reader, and Narrator does
not set it. On a machine that is reached over ssh nothing can be found out.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from localllm.library.files import paths
from localllm.translation import _

VARIABLE = "ACCESSIBLE"
_OFF = frozenset({"", "0", "false", "no", "off"})
_PROBE_TIMEOUT_S = 0.5
_ORCA = (
    "busctl", "--user", "--auto-start=no", "get-property", "org.a11y.Bus", "/org/a11y/bus",
    "org.a11y.Status", "ScreenReaderEnabled",
)  # fmt: skip
"""What Orca sets while it runs, and toolkits ask; nothing is started to answer."""
_VOICE_OVER = ("/usr/bin/defaults", "read", "com.apple.universalaccess", "voiceOverOnOffKey")
"""The switch of VoiceOver, as Chromium reads it."""
_WINDOW_CLASSES = {"NVDA": ("wxWindowClassNR", "NVDA"), "JAWS": ("JFWUI2", None)}
"""Class and title of the window that each of them has while it runs."""
_SYNCHRONIZE = 0x00100000

Run = Callable[[Sequence[str]], str]
"""Run a program and return what it prints; "" when there is none, or it takes too long."""


def accessible_because(
    *,
    setting: bool | None,
    looks: bool = True,
    environment: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
    run: Run | None = None,
) -> str | None:
    """Return why everything is written in plain lines, as a sentence; None: it is not.

    `setting` is what the settings say, None for nothing. `looks`: where nothing is said, look
    whether a screen reader runs.
    """
    if (chosen := chosen_by_variable(environment)) is not None:
        return _("This is the accessible mode.") if chosen else None
    if setting is not None:
        return _("This is the accessible mode: your settings say so.") if setting else None
    if not looks:
        return None
    if environment.get("TERM") == "dumb":
        return _("This is the accessible mode: the terminal cannot be drawn on (TERM is dumb).")
    reader = _screen_reader(environment, platform, run or _output_of)
    if reader is None:
        return None
    return _("This is the accessible mode: {reader} is running. --no-accessible leaves it.").format(
        reader=reader
    )


def accessible_setting() -> bool | None:
    """Return what the settings say, None for nothing. They are parsed only where they name it: the
    app's first picture would have to wait for that. Raises UsageError."""
    try:
        if b"accessible" not in paths.settings_file().read_bytes():
            return None
    except OSError:
        return None
    from localllm.library.files import settings

    return settings.load().accessible


def chosen_by_variable(environment: Mapping[str, str] = os.environ) -> bool | None:
    """Return what ACCESSIBLE says, None for nothing. The option --accessible sets it, so that
    everything that this process writes or starts obeys it."""
    value = environment.get(VARIABLE)
    return None if value is None else value.strip().lower() not in _OFF


def _screen_reader(environment: Mapping[str, str], platform: str, run: Run) -> str | None:
    """Name the screen reader that runs beside this process; None: none, or none that can be
    found."""
    if environment.get("SSH_CONNECTION"):
        return None
    if platform == "win32":
        return _on_windows()
    if platform == "darwin":
        return "VoiceOver" if run(_VOICE_OVER).strip() == "1" else None
    if environment.get("DBUS_SESSION_BUS_ADDRESS") and run(_ORCA).split() == ["b", "true"]:
        return "Orca"
    return None


def _on_windows() -> str | None:
    if sys.platform != "win32":
        return None
    import ctypes

    for name, (window_class, title) in _WINDOW_CLASSES.items():
        if ctypes.windll.user32.FindWindowW(window_class, title):
            return name
    # Narrator has no window of its own, but holds this mutex while it runs.
    if handle := ctypes.windll.kernel32.OpenMutexW(_SYNCHRONIZE, False, "NarratorRunning"):
        ctypes.windll.kernel32.CloseHandle(handle)
        return "Narrator"
    return None


def _output_of(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
