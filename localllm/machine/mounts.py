"""The file system that a file lies on, where that decides how it should be read.

llama.cpp maps a model's file: each page is fetched when it is first touched. On a file system that
is reached over a network, or shared by a virtual machine's host, each such fetch is a round trip of
its own, and the pages may be given up again; reading the file from end to end asks for megabytes at
a time. Which file systems are such is known by their names.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

_LINUX_REMOTE = {
    *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "gpfs", "lustre"),
    *("ncpfs", "nfs", "nfs4", "prl_fs", "smb3", "smbfs", "vboxsf", "vmhgfs"),
}
_FUSE_REMOTE = {
    *("afp", "ceph", "cephfs", "curlftpfs", "davfs", "gcsfuse", "glusterfs", "gvfsd-fuse"),
    *("google-drive-ocamlfuse", "httpfs", "jmtpfs", "juicefs", "kio-fuse", "mountpoint-s3"),
    *("onedrive", "rclone", "s3fs", "simple-mtpfs", "smbnetfs", "sshfs", "vmhgfs-fuse"),
}
_MACOS_REMOTE = {"afpfs", "fuse-t", "macfuse", "nfs", "osxfuse", "smbfs", "webdav"}
_REMOTE_TYPES = _LINUX_REMOTE | _MACOS_REMOTE | {f"fuse.{name}" for name in _FUSE_REMOTE}
"""Types in Linux's mountinfo and in what macOS's mount prints."""

_DRIVE_REMOTE = 4  # GetDriveTypeW (fileapi.h)
_ESCAPED = re.compile(r"\\([0-7]{3})")
_MACOS_MOUNT = re.compile(r"^.* on (?P<point>/.*) \((?P<type>[^,)]+)", re.MULTILINE)
_MOUNT_TIMEOUT_S = 5.0


def network_filesystem(path: Path) -> str | None:
    """Name the file system of a file that is reached over a network or shared by a virtual
    machine's host; None for a local one, or where nothing is known. Follows links."""
    real = os.path.realpath(path)
    if sys.platform == "win32":
        return windows_network_drive(real, _drive_type)
    if sys.platform == "darwin":
        return _remote(filesystem_of(real, macos_mounts(_mount_output())))
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return _remote(filesystem_of(real, linux_mounts(text)))


def linux_mounts(mountinfo: str) -> list[tuple[str, str]]:
    """List (mount point, type) of /proc/self/mountinfo, in the order in which they were made."""
    mounts = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if separator and len(left) > 4 and right[0]:
            mounts.append((_ESCAPED.sub(lambda match: chr(int(match[1], 8)), left[4]), right[0]))
    return mounts


def macos_mounts(text: str) -> list[tuple[str, str]]:
    """List (mount point, type) of what `mount` prints ("//me@nas/x on /Volumes/x (smbfs, ...)")."""
    return [(match["point"], match["type"]) for match in _MACOS_MOUNT.finditer(text)]


def filesystem_of(path: str, mounts: list[tuple[str, str]]) -> str | None:
    """Find the type of the file system that an absolute path lies on: that of the deepest mount
    point above it, the last one where several are made on the same; None when there is none."""
    found: tuple[int, str] | None = None
    for point, kind in mounts:
        inside = point in ("/", path) or path.startswith(f"{point}/")
        if inside and (found is None or len(point) >= found[0]):
            found = (len(point), kind)
    return found[1] if found is not None else None


def windows_network_drive(path: str, drive_type: Callable[[str], int]) -> str | None:
    r"""Name the kind of a path on a share: \\server\share, or a drive letter that stands for one.

    `drive_type` is GetDriveTypeW, for the root of a drive.
    """
    plain = path.replace("/", "\\")
    if plain[:8].upper() == "\\\\?\\UNC\\":
        return "a network share"
    plain = plain.removeprefix("\\\\?\\").removeprefix("\\\\.\\")
    drive = PureWindowsPath(plain).drive
    if drive.startswith("\\\\"):
        return "a network share"
    if drive and drive_type(f"{drive}\\") == _DRIVE_REMOTE:
        return f"the network drive {drive}"
    return None


def _remote(kind: str | None) -> str | None:
    return kind if kind is not None and kind.lower() in _REMOTE_TYPES else None


def _drive_type(root: str) -> int:
    if sys.platform == "win32":
        import ctypes

        return int(ctypes.windll.kernel32.GetDriveTypeW(root))
    return 0


def _mount_output() -> str:
    try:
        done = subprocess.run(
            ("/sbin/mount",),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_MOUNT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
