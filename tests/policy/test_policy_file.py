"""The policy file: who could have written it, what is read of it, and that it closes."""

import os
import stat
import sys
from pathlib import Path

import pytest

from localllm.errors import PolicyUnusable
from localllm.policy.policy_file import VARIABLE, machine_file, read_document, read_policy
from localllm.policy.rights import OwnedPath, posix_problem, windows_problem
from localllm.policy.windows_rights import read_sddl

is_root = sys.platform != "win32" and os.geteuid() == 0
as_root = pytest.mark.skipif(not is_root, reason="only root makes what a policy trusts")
GOOD = "schema = 1\n[enforced]\noffline = true\n"


def owned(mode: int, owner: int = 0, kind: int = stat.S_IFREG) -> OwnedPath:
    return OwnedPath(path="/p", owner=owner, mode=kind | mode)


def test_nobody_but_root_may_write_the_file_or_a_folder_above_it() -> None:
    assert posix_problem([owned(0o644), owned(0o755, kind=stat.S_IFDIR)]) is None
    assert posix_problem([owned(0o644), owned(0o1777, kind=stat.S_IFDIR)]) is None
    for wrong in (owned(0o644, owner=1000), owned(0o664), owned(0o646), owned(0o1666)):
        assert "/p" in (posix_problem([wrong]) or "")
    assert posix_problem([owned(0o644), owned(0o775, kind=stat.S_IFDIR)]) is not None


@pytest.mark.parametrize(
    ("sddl", "trusted"),
    [
        ("O:BAG:SYD:PAI(A;;FA;;;SY)(A;;FA;;;BA)(A;;0x1200a9;;;BU)", True),
        ("O:SYG:SYD:(A;OICIIO;GA;;;CO)(A;;FR;;;WD)", True),
        ("O:SYD:(D;;FA;;;BU)(A;;FA;;;S-1-5-32-544)", True),
        ("O:SYD:", True),  # nobody has any right
        ("O:S-1-5-21-1-2-3-1001G:SYD:(A;;FA;;;SY)", False),
        ("G:SYD:(A;;FA;;;SY)", False),
        ("O:BAG:SY", False),  # no list at all
        ("O:BAD:NO_ACCESS_CONTROL", False),
        ("O:BAD:(A;;FA;;;BU)", False),
        ("O:BAD:(A;;0x1301bf;;;AU)", False),  # "modify"
        ("O:BAD:(A;;DCLC;;;BU)", False),  # may add files to the folder
        ("O:BAD:(A;;WD;;;BU)", False),
        ("O:BAD:(A;;??;;;BU)", False),
        ("O:BAD:(A;;FA)", False),
    ],
)
def test_on_windows_only_the_system_and_administrators_may_write(sddl: str, trusted: bool) -> None:
    assert (windows_problem(sddl, "p") is None) is trusted


def test_each_system_has_its_place() -> None:
    assert machine_file("linux") == "/etc/localllm/policy.toml"
    assert machine_file("darwin").startswith("/Library/")
    assert machine_file("win32") == r"C:\ProgramData\localllm\policy.toml"
    if sys.platform != "win32":
        with pytest.raises(OSError, match="only Windows"):
            read_sddl("/")


def test_without_a_file_there_is_no_policy_and_without_the_named_one_nothing_runs(
    tmp_path: Path,
) -> None:
    nowhere = str(tmp_path / "none" / "policy.toml")
    assert read_policy({}, machine=nowhere).enforced == ()
    for named in (str(tmp_path / "other.toml"), "policy.toml"):
        with pytest.raises(PolicyUnusable):
            read_policy({VARIABLE: named}, machine=nowhere)


@as_root
def test_only_what_root_has_written_holds_and_two_files_hold_together(tmp_path: Path) -> None:
    machine, named = tmp_path / "policy.toml", tmp_path / "more.toml"
    machine.write_text(GOOD, "utf-8")
    named.write_text("schema = 1\n[enforced]\noffline = false\nhistory = 'off'\n", "utf-8")
    policy = read_policy({VARIABLE: str(named)}, machine=str(machine))
    assert policy.enforced_keys == ("offline", "history")
    for owner, mode in ((1234, 0o644), (0, 0o664)):
        os.chown(named, owner, 0)
        named.chmod(mode)
        with pytest.raises(PolicyUnusable, match=r"more\.toml"):
            read_policy({VARIABLE: str(named)}, machine=str(machine))
    link = tmp_path / "link.toml"
    link.symlink_to(named)
    with pytest.raises(PolicyUnusable, match="others than root"):
        read_document(str(link))


@as_root
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    for content in (b"", b"\xff", b"schema = 1\n[enforced]\nx = 1\n", b"#" * (2**20 + 1)):
        file.write_bytes(content)
        with pytest.raises(PolicyUnusable, match="Nothing runs without it") as caught:
            read_document(str(file))
        assert "\n" not in str(caught.value)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(PolicyUnusable, match="no regular file"):
        read_document(str(file))
    with pytest.raises(PolicyUnusable):
        read_document(str(tmp_path))
