"""Files on network drives are recognised by the file system that they lie on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.machine.mounts import (
    filesystem_of,
    linux_mounts,
    macos_mounts,
    network_filesystem,
    windows_network_drive,
)

LINUX = r"""
21 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
30 21 0:26 / /mnt/nas\040of\040us rw - cifs //nas/models rw,vers=3.1.1
31 21 0:27 / /home/me/far rw,nosuid - fuse.sshfs me@host:/ rw
32 21 0:28 / /data rw - nfs4 server:/data rw
33 32 8:1 / /data/local rw - xfs /dev/sda1 rw
34 21 0:30 / /mnt/c rw - 9p drvfs rw,aname=drvfs
35 21 0:31 / /media/sf_share rw - vboxsf share rw
36 21 8:17 / /media/stick rw - fuseblk /dev/sdb1 rw
37 21 0:32 / /twice rw - nfs a:/ rw
38 37 8:33 / /twice rw - btrfs /dev/sdc1 rw
nonsense
"""
MACOS = """
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled)
//me@nas._smb._tcp.local/My%20Models on /Volumes/My Models (smbfs, nodev, nosuid, mounted by me)
server:/x on /private/x (nfs)
me@host: on /Users/me/far (macfuse, nodev)
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/m.gguf", "ext4"),
        ("/mnt/nas of us/m.gguf", "cifs"),
        ("/mnt/nas of us2/m.gguf", "ext4"),
        ("/home/me/far/deep/m.gguf", "fuse.sshfs"),
        ("/data/m.gguf", "nfs4"),
        ("/data/local/m.gguf", "xfs"),
        ("/mnt/c/m.gguf", "9p"),
        ("/media/sf_share/m.gguf", "vboxsf"),
        ("/media/stick/m.gguf", "fuseblk"),
        ("/twice/m.gguf", "btrfs"),
    ],
)
def test_the_deepest_and_last_mount_of_linux_counts(path: str, kind: str) -> None:
    assert filesystem_of(path, linux_mounts(LINUX)) == kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/Users/me/m.gguf", "apfs"),
        ("/Volumes/My Models/m.gguf", "smbfs"),
        ("/private/x/m.gguf", "nfs"),
        ("/Users/me/far/m.gguf", "macfuse"),
    ],
)
def test_the_mounts_of_macos_are_read(path: str, kind: str) -> None:
    assert filesystem_of(path, macos_mounts(MACOS)) == kind


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        (r"C:\models\m.gguf", False),
        (r"Z:\m.gguf", True),
        (r"\\nas\models\m.gguf", True),
        ("//nas/models/m.gguf", True),
        (r"\\wsl.localhost\Ubuntu\home\m.gguf", True),
        (r"\\?\C:\models\m.gguf", False),
        (r"\\?\Z:\m.gguf", True),
        (r"\\?\UNC\nas\models\m.gguf", True),
        (r"models\m.gguf", False),
    ],
)
def test_shares_and_network_drives_of_windows_are_recognised(path: str, remote: bool) -> None:
    def drive_type(root: str) -> int:
        return {"Z:\\": 4, "C:\\": 3}[root]

    assert (windows_network_drive(path, drive_type) is not None) is remote


@given(st.text(max_size=120))
def test_any_table_of_mounts_is_read(text: str) -> None:
    for mounts in (linux_mounts(text), macos_mounts(text)):
        filesystem_of("/a/b", mounts)


def test_this_machines_own_disk_is_local(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    assert network_filesystem(tmp_path / "m") is None
    assert network_filesystem(tmp_path / "is-not-there") is None
