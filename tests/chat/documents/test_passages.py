import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.documents.folder_scan import Skipped, scan_folder, skipped_sentence
from localllm.chat.documents.fusion import reciprocal_rank_fusion
from localllm.chat.documents.ignore_rules import IgnoreRules
from localllm.chat.documents.keyword_index import IndexedText, KeywordIndex, match_query
from localllm.chat.documents.passages import MAX_CHARS, passages_of_pages, passages_of_text
from localllm.chat.documents.vector_index import VectorIndex, unit_rows
from localllm.errors import UsageError

MARKDOWN = (
    """# Server

How to start it, and what it needs.

## Keys

A key is made with `key add`.

```sh
# not a heading

localllm key add
```

## Limits

"""
    + "A sentence about limits that is long enough to be counted. " * 40
)

LINES = st.lists(
    st.text(st.characters(exclude_categories=["C"], exclude_characters="\n\r"), max_size=300)
    | st.sampled_from(["", "# Head", "## Sub", "```", "def f():", "    x = 1", "a,b,c"]),
    max_size=60,
)


def test_markdown_is_cut_at_its_sections() -> None:
    passages = passages_of_text(MARKDOWN, ".md")
    assert (passages[0].line, passages[0].headings) == (1, "Server")  # with the short next section
    assert "localllm key add" in passages[0].text
    assert {each.headings for each in passages[1:]} == {"Server > Limits"}
    assert all(each.text.startswith(("## Limits", "A sentence")) for each in passages[1:])


def test_code_is_cut_between_functions_and_a_table_keeps_its_columns() -> None:
    functions = "".join(f"def f{n}():\n    a = {n}\n\n    return a\n\n\n" for n in range(60))
    passages = passages_of_text(functions, ".py")
    assert len(passages) > 1
    assert all(each.text.startswith("def f") for each in passages)
    lines = functions.split("\n")
    assert all(lines[each.line - 1] == each.text.split("\n")[0] for each in passages)
    table = "name,price\n" + "".join(f"thing {n},{n}\n" for n in range(200))
    rows = passages_of_text(table, ".csv")
    assert all(each.text.startswith("name,price\nthing ") for each in rows)
    assert [each.line for each in rows] == [
        int(each.text.split("\n")[1].split(",")[1]) + 2 for each in rows
    ]


@settings(max_examples=100, deadline=None)
@given(LINES, st.sampled_from([".md", ".py", ".txt", ".pdf"]))
def test_passages_lose_nothing_and_know_their_place(lines: list[str], suffix: str) -> None:
    text = "\n".join(lines)
    passages = passages_of_text(text, suffix)
    assert "".join("".join(each.text for each in passages).split()) == "".join(text.split())
    assert all(len(each.text) <= MAX_CHARS and each.text.strip() for each in passages)
    for each in passages:
        first = each.text.split("\n")[0].split()
        assert not first or first[0] in lines[each.line - 1]
    assert [each.line for each in passages] == sorted(each.line for each in passages)


def test_a_passage_of_a_pdf_is_on_one_page() -> None:
    passages = passages_of_pages(["one\n\ntwo", "", "three"])
    assert [(each.page, each.line, each.text) for each in passages] == [
        (1, 1, "one\n\ntwo"),
        (3, 1, "three"),
    ]


@pytest.mark.parametrize(
    ("rules", "path", "ignored"),
    [  # each as `git check-ignore` has it
        ("*.log", "a/b.log", True),
        ("*.log\n!keep.log", "a/keep.log", False),
        ("/build", "a/build", None),
        ("/build", "build", True),
        ("docs/*.md", "docs/a/b.md", None),
        ("docs/**/x", "docs/x", True),
        ("docs/**", "docs", None),
        ("**/cache/", "a/b/cache", True),
        ("cache/", "cache", True),
        ("a[!b]c", "axc", True),
        ("a[^b]c", "abc", None),
        ("# comment\n\n \\#x", "#x", None),
        ("\\#x", "#x", True),
        ("foo?", "foo/", None),
        ("[z-a]*", "b", None),
    ],
)
def test_gitignore_files_are_read_as_git_reads_them(
    rules: str, path: str, ignored: bool | None
) -> None:
    assert IgnoreRules.parse(rules).verdict(path, is_folder=True) is ignored


def test_a_folder_is_scanned_with_a_reason_for_all_that_is_left_out(tmp_path: Path) -> None:
    files = {
        "a.md": "x", ".env": "secret", "b.png": "x", "empty.txt": "", "sub/.gitignore": "*.tmp\n",
        "sub/c.txt": "x", "sub/d.tmp": "x", "node_modules/e.js": "x", "sub/deep/f.py": "x",
        "sub/deep/g.tmp": "x",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    scan = scan_folder(tmp_path / "root")
    assert [each.path for each in scan.files] == ["a.md", "sub/c.txt", "sub/deep/f.py"]
    assert scan.skipped == {
        Skipped.HIDDEN: 2, Skipped.NOT_TEXT: 1, Skipped.EMPTY: 1, Skipped.IGNORED: 3,
        Skipped.LINK: 1,
    }  # fmt: skip
    assert "3 left out by .gitignore" in skipped_sentence(scan.skipped)
    with pytest.raises(UsageError, match="cannot be read"):
        scan_folder(tmp_path / "none")
    assert scan_folder(tmp_path / "root", stopped=lambda: True).files == ()


def test_words_are_found_in_any_form_and_names_of_programs_by_their_parts() -> None:
    index = KeywordIndex()
    index.add(
        [
            IndexedText(id=1, path="a.md", headings="", text="Das Kätzchen schläft"),
            IndexedText(id=2, path="b.py", headings="", text="maxTokens limits the answers"),
            IndexedText(id=3, path="keys.md", headings="Keys", text="nothing"),
        ]
    )
    assert index.search("katzchen", 9) == [1]
    assert index.search("What is the limit of tokens?", 9) == [2]
    assert index.search("a key", 9) == [3]
    assert index.search('AND ( " NEAR * ^', 9) == []
    assert match_query("what is it") == '"what" OR "is" OR "it"'


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_any_question_is_a_valid_query(question: str) -> None:
    index = KeywordIndex()
    index.search(question, 3)
    index.close()


def test_the_nearest_vectors_come_first() -> None:
    rows = unit_rows(np.array([[2, 0], [0, 0], [1, 1], [np.nan, 1]], dtype=np.float32))
    index = VectorIndex([10, 11, 12, 13], rows)
    assert index.search(np.array([1, 0], dtype=np.float32), 2) == [10, 12]
    assert index.search(np.array([1, 0, 0], dtype=np.float32), 2) == []
    assert VectorIndex([], rows[:0]).search(np.array([1, 0], dtype=np.float32), 2) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.permutations(range(6)), min_size=1, max_size=3))
def test_fusion_ranks_everything_once_and_keeps_what_all_agree_on(
    rankings: list[list[int]],
) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert sorted(fused) == list(range(6))
    for a in range(6):
        for b in range(6):
            if all(each.index(a) < each.index(b) for each in rankings):
                assert fused.index(a) < fused.index(b)


@pytest.mark.skipif(os.name == "nt", reason="names of bytes that are no text are of POSIX")
def test_a_name_that_cannot_be_shown_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a\x1b[2Jb.txt").write_text("x")
    scan = scan_folder(root)
    assert (scan.files, scan.skipped) == ((), {Skipped.UNREADABLE: 1})
