"""The house stays in order: limits on files, fragments, folders, functions and circles."""

from pathlib import Path

import pytest

import localllm
from tests.structure import Structure, measure

LONGEST_FILE = 600
LONGEST_FUNCTION = 60
MOST_FRAGMENTS = 0.09
"""Of all modules."""
MOST_MODULES_IN_A_FOLDER = 15


@pytest.fixture(scope="module")
def package() -> Structure:
    return measure(Path(localllm.__file__).parent)


def test_no_file_is_too_long(package: Structure) -> None:
    assert {name: n for name, n in package.files.items() if n > LONGEST_FILE} == {}


def test_nine_of_ten_files_have_under_400_lines(package: Structure) -> None:
    lengths = sorted(package.files.values())
    assert lengths[len(lengths) * 9 // 10] < 400


def test_no_function_is_too_long(package: Structure) -> None:
    """The options of a verb count as a part of its function only below its name."""
    assert {name: n for name, n in package.functions.items() if n > LONGEST_FUNCTION} == {}


def test_few_modules_are_fragments(package: Structure) -> None:
    assert len(package.fragments) <= MOST_FRAGMENTS * len(package.files), package.fragments


def test_no_folder_is_crowded(package: Structure) -> None:
    assert {name: n for name, n in package.folders.items() if n > MOST_MODULES_IN_A_FOLDER} == {}


def test_no_folder_imports_in_a_circle(package: Structure) -> None:
    assert package.circles == ()
