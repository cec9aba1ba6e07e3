"""One row says everything about an architecture; nobody else knows one by its name."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import localllm
from localllm.core.catalogue.blueprint import layers
from localllm.core.model import architectures
from localllm.core.model.architecture import Memory, TensorLayout
from localllm.core.model.architectures import ARCHITECTURES, architecture_of

PACKAGE = Path(localllm.__file__).parent
TABLE = PACKAGE / "core/model/architectures.py"


def is_architecture(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "architecture"


def name_tests(tree: ast.AST) -> Iterator[int]:
    """Lines that compare an `.architecture` with anything but another one, look it up in a table,
    or ask it for a part of its text."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [side for side in (left, *others) if ast.unparse(side) != "None"]
                if any(map(is_architecture, sides)) and not all(map(is_architecture, sides)):
                    yield node.lineno
            case ast.Subscript(slice=key) if is_architecture(key):
                yield node.lineno
            case ast.Call(func=ast.Attribute(value=value, attr=method), args=arguments):
                looked_up = method == "get" and any(map(is_architecture, arguments[:1]))
                if is_architecture(value) or looked_up:
                    yield node.lineno
            case ast.Match(subject=subject) if is_architecture(subject):
                yield node.lineno


def test_only_the_table_tests_an_architectures_name() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != TABLE
        for line in name_tests(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_guard_sees_every_way_to_test_a_name() -> None:
    for text in (
        "spec.architecture == 'llama'",
        "'llama' != self.shape.architecture",
        "spec.architecture in NAMES",
        "'vl' in spec.architecture",
        "spec.architecture.startswith('gemma')",
        "TABLE[spec.architecture]",
        "TABLE.get(spec.architecture, 0)",
        "match spec.architecture:\n    case _: pass",
    ):
        assert list(name_tests(ast.parse(text))), text
    for text in (
        "a.architecture == b.architecture",
        "header.architecture is None",
        "architecture_of(spec.architecture)",
    ):
        assert not list(name_tests(ast.parse(text))), text


def test_no_architecture_has_two_rows() -> None:
    tree = ast.parse(TABLE.read_text(encoding="utf-8"))
    rows = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_ROWS"
    )
    assert isinstance(rows, ast.Dict)
    names = [key.value for key in rows.keys if isinstance(key, ast.Constant)]
    names += architectures._COMMON_CASE.split() + architectures._OTHER_MEMORY.split()
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert set(names) == set(ARCHITECTURES)


def test_an_architecture_without_a_row_is_taken_for_plain_attention_and_unknown() -> None:
    unknown = architecture_of("nobody-knows-it")
    assert not unknown.known
    assert unknown.memory is Memory.ATTENTION
    assert all(row.known for row in ARCHITECTURES.values())


def test_every_tensor_layout_is_built_and_used() -> None:
    assert set(layers._LAYOUTS) == set(TensorLayout)
    assert {row.layout for row in ARCHITECTURES.values()} - {None} == set(TensorLayout)
