"""Names that come from the network, and the only way they become paths."""

import itertools
import os
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from localllm.errors import StoreError
from localllm.library.files import names

HOSTILE_FILES = [
    "",
    ".",
    "..",
    "/",
    "../x.gguf",
    "a/../../x.gguf",
    "a/./x.gguf",
    "a//x.gguf",
    "a/",
    "/etc/passwd",
    "//server/share/x.gguf",
    "\\\\server\\share\\x.gguf",
    "a\\..\\x.gguf",
    "C:\\x.gguf",
    "C:x.gguf",
    "x.gguf:stream",
    "a\0.gguf",
    "a\n.gguf",
    "a\x7f.gguf",
    "\x1b]0;owned\x07.gguf",
    "\u202efugg.x",
    "\ud800.gguf",
    "zero\u200bwidth.gguf",
    "x" * 4000,
    "x" * 241,
    "模" * 81,
    "/".join("abcdefghij"),
    "con",
    "CON.gguf",
    "nul .gguf",
    "aux.x/y.gguf",
    "COM1.gguf",
    "com¹.gguf",
    "LPT9",
    "x.gguf.",
    "x.gguf ",
    "a /x.gguf",
    "a./x.gguf",
    ".git/config",
    ".hidden.gguf",
    "~root/x.gguf",
    "-rf.gguf",
    "a|b.gguf",
    "a*b.gguf",
    "a?b.gguf",
    'a"b.gguf',
    "a<b>.gguf",
    "$(reboot).gguf",
    "`x`.gguf",
    "x.gguf.part",
    "x.gguf.part.json",
    "x.gguf.PART.LOCK",
    "x.tmp",
    unicodedata.normalize("NFD", "é.gguf"),
]
HOSTILE_REPOS = [
    "",
    "..",
    "../org",
    "org/..",
    "org/repo/more",
    "/repo",
    "org/",
    "org//repo",
    "a..b/c",
    "org\\repo",
    "org/re po",
    "org/repo@main",
    "C:/repo",
    "org/\0",
    "org/repo\n",
    "con/repo",
    "org/nul",
    "org/repo.",
    "org/repo.part",
    "x" * 97,
    "öorg/repo",
]


def short_id(text: str) -> str:
    """A test's name for a hostile name."""
    return ascii(text)[:40]


@pytest.mark.parametrize("file", HOSTILE_FILES, ids=short_id)
def test_a_hostile_file_is_refused_by_name(tmp_path: Path, file: str) -> None:
    root = tmp_path / "hub"
    with pytest.raises(StoreError, match=r"org/repo: .* cannot be a file here") as refused:
        names.hub_path(root, "org/repo", file)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 700
    assert not root.exists()


@pytest.mark.parametrize("repo", HOSTILE_REPOS, ids=short_id)
def test_a_hostile_repository_is_refused_by_name(tmp_path: Path, repo: str) -> None:
    with pytest.raises(StoreError, match="cannot be"):
        names.hub_path(tmp_path, repo, "x.gguf")


@pytest.mark.parametrize("commit", ["", "main", "../" * 4, "A" * 40, "a" * 65, "a\n" * 4])
def test_a_hostile_commit_is_refused(tmp_path: Path, commit: str) -> None:
    with pytest.raises(StoreError, match="no usable commit"):
        names.hub_path(tmp_path, "org/repo", "x.gguf", commit=commit)


@pytest.mark.parametrize(
    "file",
    [
        "Qwen3-8B-Q4_K_M.gguf",
        "UD-Q4_K_XL/DeepSeek-R1-UD-Q4_K_XL-00001-of-00009.gguf",
        "Llama 3 (8B) [v2], final+fixed.gguf",
        "通义千问-7B.gguf",
        "café.gguf",
        "x" * 235 + ".gguf",
    ],
)
def test_names_that_publishers_use_are_kept(tmp_path: Path, file: str) -> None:
    assert names.hub_path(tmp_path, "org/repo", file) == tmp_path / "org" / "repo" / file
    assert names.hub_path(tmp_path, "gpt2", file) == tmp_path / "gpt2" / file
    other_place = names.hub_path(tmp_path, "org/repo", file, commit="c0ffee" * 6)
    assert other_place == tmp_path / "org" / "repo@c0ffeec0ffee" / file
    assert names.below(tmp_path, other_place.relative_to(tmp_path).as_posix()) == other_place


PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "\0", "C:", "a", "x.gguf", " ", "~", "@", "-", "\n", "é", "CON", ".part"]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=8).map("".join))


@settings(deadline=None)
@example(repo="a/b", file="../../../etc/passwd")
@given(repo=TEXTS, file=TEXTS)
def test_whatever_the_names_are_the_path_is_inside_or_refused(repo: str, file: str) -> None:
    root = Path(ROOT.name)
    try:
        path = names.hub_path(root, repo, file)
    except StoreError as refused:
        assert str(refused).isprintable()
        return
    relative = path.relative_to(root)
    assert path.resolve() == root.resolve() / relative
    assert relative.as_posix() == f"{repo}/{file}"
    assert ".." not in relative.parts
    for part in relative.parts:
        assert len(os.fsencode(part)) <= 240
        assert part.isprintable()
        assert not part.endswith((".", " ", ".part", ".part.json", ".part.lock"))


@settings(deadline=None)
@given(st.lists(st.text(alphabet="aAbBéÉß", min_size=1, max_size=3), min_size=2, max_size=4))
def test_no_two_names_are_one_file_where_case_does_not_count(files: list[str]) -> None:
    with tempfile.TemporaryDirectory() as top:
        root = Path(top)
        paths: dict[str, str] = {}
        for file in files:
            folded = unicodedata.normalize("NFKC", file).casefold()
            if paths.get(folded, file) != file:
                with pytest.raises(StoreError, match="differs only in case"):
                    names.hub_path(root, "org/repo", file)
                continue
            paths[folded] = file
            path = names.hub_path(root, "org/repo", file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


ROOT = tempfile.TemporaryDirectory()  # hypothesis wants no fixture; nothing is ever made in it


@pytest.mark.parametrize(
    ("existing", "repo", "file"),
    [
        ("org/repo/Model.gguf", "org/repo", "model.gguf"),
        ("org/repo/Q4/x.gguf", "org/repo", "q4/x.gguf"),
        ("Org/repo/x.gguf", "org/repo", "x.gguf"),
        ("org/repo/X.gguf.part", "org/repo", "x.gguf"),
        ("org/repo/X.gguf.part.json", "org/repo", "x.gguf"),
        ("org/Repo/x.gguf", "org/repo", "x.gguf"),
        ("org/repo/stra\u00dfe.gguf", "org/repo", "STRASSE.gguf"),
    ],
)
def test_what_differs_only_in_case_from_what_is_there_is_refused(
    tmp_path: Path, existing: str, repo: str, file: str
) -> None:
    (tmp_path / existing).parent.mkdir(parents=True)
    (tmp_path / existing).touch()
    with pytest.raises(StoreError, match="differs only in case"):
        names.hub_path(tmp_path, repo, file)
    org, own, last = existing.split("/", 2)
    last = last.partition(".part")[0]
    assert names.hub_path(tmp_path, f"{org}/{own}", last) == tmp_path / org / own / last


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("link", ["org", "org/repo", "org/repo/Q4", "org/repo/Q4/x.gguf"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, link: str) -> None:
    root, outside = tmp_path / "hub", tmp_path / "outside"
    outside.mkdir()
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(outside)
    with pytest.raises(StoreError, match="cannot be a file here"):
        names.hub_path(root, "org/repo", "Q4/x.gguf")
    with pytest.raises(StoreError, match="cannot name a file"):
        names.below(root, "org/repo/Q4/x.gguf")
    (root / link).unlink()
    (root / link).symlink_to(root / link)
    with pytest.raises(StoreError, match="cannot be a file here"):
        names.hub_path(root, "org/repo", "Q4/x.gguf")


def test_a_file_where_a_folder_must_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "org").touch()
    with pytest.raises(StoreError, match="is a file"):
        names.hub_path(tmp_path, "org/repo", "x.gguf")
    (tmp_path / "two" / "repo" / "x.gguf").mkdir(parents=True)
    with pytest.raises(StoreError, match="is a directory"):
        names.hub_path(tmp_path, "two/repo", "x.gguf")


FOR_A_DIRECTORY = [file for file in HOSTILE_FILES if "/" not in file]


@pytest.mark.parametrize("file", [*FOR_A_DIRECTORY, "a/b.gguf"], ids=short_id)
def test_a_chosen_directory_takes_no_hostile_name_either(tmp_path: Path, file: str) -> None:
    with pytest.raises(StoreError, match="cannot be a file in"):
        names.plain_path(tmp_path, file)
    assert names.plain_path(tmp_path, "good.gguf") == tmp_path / "good.gguf"


def test_two_files_of_a_listing_that_differ_only_in_case_are_refused_at_the_second(
    tmp_path: Path,
) -> None:
    listing = ["model.gguf", "Model.gguf", "MODEL.GGUF"]
    places = []
    for file in listing:
        try:
            places.append(names.hub_path(tmp_path, "org/repo", file))
        except StoreError:
            continue
        places[-1].parent.mkdir(parents=True, exist_ok=True)
        places[-1].touch()
    assert [place.name for place in places] == ["model.gguf"]
    assert all(a.casefold() == b.casefold() for a, b in itertools.pairwise(listing))
