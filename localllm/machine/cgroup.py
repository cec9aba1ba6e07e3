"""The control groups of this process: Linux's limits on memory and processor time.

Both `memory.py` and `cpu.py` walk the same directories. A group is limited by itself and by every
ancestor, so a whole chain is given. Versions 1 and 2 differ in where the chain starts and in what
the files are called; this module knows the first, its callers the second.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED = 2**62
"""Version 1 writes "no limit" as a huge number (2**63 rounded down to a page)."""

_LONGEST_NUMBER = 20  # digits of 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One directory of the control group tree; `version` says how its files are named."""

    directory: Path
    version: int


def groups(root: Path, controller: str) -> tuple[Group, ...]:
    """Find the groups that limit this process, its own first and then every ancestor.

    `root` is where /proc and /sys are. A container sees its part of the tree only: what lies
    above its mount is not visible and is not reported. Nothing readable gives ().
    """
    found: list[Group] = []
    memberships = _memberships(root)
    for version, mounted_root, mount_point in _mounts(root, controller):
        path = memberships.get(controller if version == 1 else "")
        if path is None:
            continue
        found += _chain(root / mount_point.lstrip("/"), _below(path, mounted_root), version)
    return tuple(found)


def read_number(file: Path) -> int | None:
    """Read a file that holds one number; "max", a missing file and nonsense are None."""
    try:
        value = int(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
    return value if 0 <= value < UNLIMITED else None


def read_fields(file: Path) -> dict[str, int]:
    """Read a file of "name number" lines, such as memory.stat; what cannot be read is left out."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.split() for line in lines)
    return {
        pair[0]: int(pair[1])
        for pair in pairs
        if len(pair) == 2 and pair[1].isdecimal() and len(pair[1]) <= _LONGEST_NUMBER
    }


def _memberships(root: Path) -> dict[str, str]:
    """Map controllers to the path of this process's group; version 2 has the empty name."""
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    paths: dict[str, str] = {}
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _mounts(root: Path, controller: str) -> list[tuple[int, str, str]]:
    """List (version, root of the mount inside the tree, mount point) of /proc/self/mountinfo."""
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return []
    mounts: list[tuple[int, str, str]] = []
    for line in lines:
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not separator or len(left) < 5 or len(right) < 3:
            continue
        if right[0] == "cgroup2":
            mounts.append((2, left[3], left[4]))
        elif right[0] == "cgroup" and controller in right[2].split(","):
            mounts.append((1, left[3], left[4]))
    return mounts


def _below(path: str, mounted_root: str) -> str:
    """Turn a group's path into one below the mount.

    In a container the mount may already start at the group (a bind mount of "/docker/abc"), and
    a path outside it is shown with ".."; both mean the mount point itself.
    """
    if ".." in PurePosixPath(path).parts:
        return "/"
    inside = PurePosixPath(path)
    try:
        return f"/{inside.relative_to(mounted_root)}"
    except ValueError:
        return path


def _chain(mount_point: Path, path: str, version: int) -> list[Group]:
    """List the group's directory and its ancestors up to the mount point.

    Some may not exist or not be readable: their files then say nothing, which is no limit.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    directories = [mount_point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return [Group(directory=directory, version=version) for directory in directories]
