"""A Unix socket that only this user's processes reach, and how a connection shows whose it is.

The file's mode keeps others out on Linux and macOS. That is not all that is relied on: the system
says which user has connected, and any other than this one, or root, is refused.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from localllm.errors import ServeError, UsageError
from localllm.library.files.file_lock import locked

_MAX_PATH_BYTES = 103
"""sun_path has 108 bytes on Linux and 104 on macOS, with the zero at its end."""
_BACKLOG = 512
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
"""macOS, sys/un.h: `struct xucred { u_int cr_version; uid_t cr_uid; short cr_ngroups; ... }`."""
_XUCRED_BYTES = 76


class SocketOptions(Protocol):
    """What is needed of a socket: asyncio has no whole one to give."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_uid(sock: SocketOptions) -> int:
    """Return the user of the process that has connected, as the system says.

    Raises ServeError where it does not.
    """
    try:
        if sys.platform == "linux":
            size = struct.calcsize("iII")
            peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            _, uid, _ = struct.unpack("iII", peer)
            return int(uid)
        if sys.platform == "darwin":
            return parse_xucred(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES))
    except (OSError, struct.error) as error:
        raise ServeError(f"The system does not say who has connected: {error}.") from error
    raise ServeError("This system does not say who has connected to a Unix socket.")


def parse_xucred(value: bytes) -> int:
    """Read the user out of macOS's `struct xucred`. Raises struct.error."""
    version, uid = struct.unpack_from("=II", value)
    if version != 0:  # XUCRED_VERSION
        raise struct.error(f"version {version} of xucred")
    return int(uid)


def is_allowed(uid: int) -> bool:
    """Tell whether a process of the user `uid` may connect: of this one, or root."""
    return sys.platform != "win32" and uid in (os.geteuid(), 0)


@contextlib.contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Listen on a socket at `path`, mode 0600, and remove it afterwards.

    A socket that a killed server has left is replaced. Raises UsageError for a place where others
    could put theirs instead, ServeError when another server listens or it cannot be made.
    """
    if sys.platform not in ("linux", "darwin"):
        raise UsageError(
            "--socket needs a system that says who has connected to a Unix socket: Linux or macOS. "
            "Listen on 127.0.0.1 instead."
        )
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link
    _check_place(path)
    try:
        with locked(path.with_name(f".{path.name}.lock")):
            _remove_stale(path)
            sock = _bind(path)
    except TimeoutError as error:
        raise ServeError(f"Cannot listen on {path}: another server is starting there.") from error
    except ServeError:
        raise
    except OSError as error:
        raise ServeError(f"Cannot listen on {path}: {error.strerror or error}.") from error
    own = path.lstat()
    try:
        yield sock
    finally:
        sock.close()
        with contextlib.suppress(OSError):
            there = path.lstat()
            if (there.st_ino, there.st_dev) == (own.st_ino, own.st_dev):
                path.unlink()


def _check_place(path: Path) -> None:
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise UsageError(
            f"The path of a Unix socket has at most {_MAX_PATH_BYTES} bytes; {path} has "
            f"{len(os.fsencode(path))}."
        )
    try:
        status = path.parent.stat()
    except OSError as error:
        raise UsageError(
            f"The directory of the socket {path} cannot be used: {error.strerror or error}."
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{path.parent} is no directory.")
    if (problem := directory_problem(status.st_mode, status.st_uid)) is not None:
        raise UsageError(
            f"{path.parent} {problem}: another user could put a socket of theirs at {path}. Take a "
            "directory of your own, such as $XDG_RUNTIME_DIR."
        )


def directory_problem(mode: int, owner: int) -> str | None:
    """Say why others could replace a socket in a directory; None when they could not. In one like
    /tmp (root's, sticky) they cannot rename or remove what is ours."""
    if sys.platform == "win32":
        return "is on Windows"
    if owner not in (os.geteuid(), 0):
        return "belongs to another user"
    if mode & 0o022 and not mode & stat.S_ISVTX:
        return f"can be written by others (mode {stat.S_IMODE(mode):04o})"
    return None


def _remove_stale(path: Path) -> None:
    """Remove a socket of this user that nobody listens on. Raises ServeError for anything else."""
    if sys.platform == "win32":
        return
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise ServeError(
            f"Cannot listen on {path}: what is there is no socket of this user. It was left alone."
        )
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINPROGRESS):  # a full backlog: it lives
                raise
    raise ServeError(
        f"Cannot listen on {path}: another server listens there. Stop it, or take another --socket."
    )


def _bind(path: Path) -> socket.socket:
    if sys.platform == "win32":
        raise ServeError("There are no Unix sockets on Windows.")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # the file has its mode from the start
    try:
        sock.bind(str(path))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock
