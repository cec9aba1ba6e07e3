"""Lists of files that are rejected, and those that are usual."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import HubError, NotFound
from localllm.library.files import names
from localllm.library.http.client import Access
from localllm.library.hub.file_list import (
    MAX_BYTES,
    MAX_NAME,
    HubFile,
    parts,
    repo_problem,
    validated,
)
from localllm.library.hub.hub import Hub
from tests.hub import FakeHub

REPO = "org/quince-GGUF"
SHA256 = "ab" * 32
HOSTILE = [
    "../evil.gguf",
    "a/../../evil.gguf",
    "/etc/evil.gguf",
    "~/evil.gguf",
    "..\\evil.gguf",
    "\\\\server\\share\\evil.gguf",
    "C:evil.gguf",
    "C:\\evil.gguf",
    "evil\0.gguf",
    "evil\n.gguf",
    "\x1b]0;evil\x07.gguf",
    "evil\u202efugg.gguf",
    "evil\ud800.gguf",
    "e" * 4000 + ".gguf",
    "EVIL.GGUF/../../x",
]
AWKWARD = [".gitattributes", "-rf", "con", "a b ", "x" * 500, "../notes.txt", "a\nb.md", "n\0"]
"""Names that cannot be paths everywhere, of files that nobody wants."""


def files(*listed: str) -> tuple[HubFile, ...]:
    return tuple(HubFile(name=name, size_bytes=1, sha256=SHA256) for name in listed)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_condemns_the_listing_and_is_named(hub: FakeHub, name: str) -> None:
    hub.add_repo(REPO, {"good-Q4_0.gguf": b"x", name: b"y"})
    with pytest.raises(HubError, match=f"^{REPO} lists the file '.*Nothing of it is used") as bad:
        Hub(Access(endpoints=(hub.endpoint,))).repo(REPO)
    message = str(bad.value)
    assert message.isprintable()
    assert len(message) < 400
    assert "evil" in message.lower() or "e" * 50 in message


def test_names_that_are_one_file_on_some_systems_are_all_listed(hub: FakeHub) -> None:
    listing = ["m-Q4_0.gguf", "M-Q4_0.gguf", "stra\u00dfe.gguf", "STRASSE.gguf"]
    hub.add_repo(REPO, dict.fromkeys(listing, b"x"))
    repo = Hub(Access(endpoints=(hub.endpoint,))).repo(REPO)
    assert [each.name for each in repo.files] == listing


def test_a_model_that_is_listed_twice_condemns_the_listing() -> None:
    with pytest.raises(HubError, match=r"lists the file 'm\.gguf': it is listed twice"):
        validated(REPO, [("m.gguf", 1, SHA256), ("m.gguf", 2, SHA256)])


def test_a_file_with_an_awkward_name_is_left_out(hub: FakeHub) -> None:
    hub.add_repo(REPO, {"good-Q4_0.gguf": b"x", **dict.fromkeys(AWKWARD, b"y")})
    repo = Hub(Access(endpoints=(hub.endpoint,))).repo(REPO)
    assert [each.name for each in repo.files] == ["good-Q4_0.gguf"]


@pytest.mark.parametrize(
    ("size", "sha256"),
    [
        (None, SHA256), (-1, SHA256), (True, SHA256), (1.5, SHA256), ("7", SHA256),
        (MAX_BYTES + 1, SHA256), (7, "ab"), (7, SHA256.upper()), (7, 7), (7, ""), (7, SHA256 * 2),
    ],
)  # fmt: skip
def test_a_model_without_a_size_or_with_a_wrong_sum_condemns_the_listing(
    size: object, sha256: object
) -> None:
    with pytest.raises(HubError, match=r"'m\.gguf': its size or its SHA-256 is none"):
        validated(REPO, [("m.gguf", size, sha256)])
    assert validated(REPO, [("m.txt", size, sha256)]) == ()


@given(st.lists(st.tuples(st.text(max_size=30) | st.none(), st.integers() | st.none())))
def test_whatever_is_validated_can_be_a_path(entries: list[tuple[str | None, int | None]]) -> None:
    try:
        found = validated(REPO, [(name, size, None) for name, size in entries])
    except HubError as error:
        assert str(error).isprintable()
        return
    for each in found:
        assert names.path_problem(each.name) is None
        assert len(each.name) <= MAX_NAME
        assert 0 <= each.size_bytes <= MAX_BYTES


@pytest.mark.parametrize("name", ["org/m", "Org-1/m.x_y-GGUF", "a/b", "0/7"])
def test_usual_names_of_repositories_are_usable(name: str) -> None:
    assert repo_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "", "m", "/", "a/", "/b", "a/b/c", "../b", "a/..", "a/.", ".a/b", "a--b/c", "a/b..c",
        "a/b ", "a/b\n", "a/b.git", "a/ü", "-a/b", "a/b?x", "a/b#", "a/b%2f", "a\\b/c", "C:/b",
        "a/b.", "o/" + "x" * 95, None, 7,
    ],
)  # fmt: skip
def test_what_is_no_repositorys_name_is_not_taken_for_one(name: object) -> None:
    assert repo_problem(name) is not None


# --- parts of a split model ---


SPLIT = [f"q/m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize("requested", SPLIT)
def test_any_part_stands_for_all_in_their_order(requested: str) -> None:
    found = parts(files(*reversed(SPLIT), "other.gguf"), requested, REPO)
    assert [each.name for each in found] == SPLIT


def test_a_file_of_its_own_is_its_only_part() -> None:
    assert [each.name for each in parts(files(*SPLIT, "m.gguf"), "m.gguf", REPO)] == ["m.gguf"]


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ("none.gguf", "has no file 'none.gguf'"),
        ("q/m-00001-of-00004.gguf", "has no file 'q/m-00001-of-00004.gguf'"),
        ("m-00001-of-99999.gguf", "called a part of 99999"),
        ("m-00000-of-00000.gguf", "called a part of 0"),
        ("\x1b[2J.gguf", "has no file"),
    ],
)
def test_a_part_that_is_not_listed_is_named(requested: str, message: str) -> None:
    with pytest.raises(NotFound, match=message) as missing:
        parts(files(*SPLIT), requested, REPO)
    assert str(missing.value).isprintable()


def test_a_part_in_the_middle_that_is_missing_is_named() -> None:
    with pytest.raises(NotFound, match=r"has no file 'q/m-00002-of-00003\.gguf'"):
        parts(files(SPLIT[0], SPLIT[2]), SPLIT[0], REPO)
