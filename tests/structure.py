"""Count what makes code hard to read: files, fragments, crowded folders, long functions, circles.

    python -m tests.structure [DIRECTORY]...     (default: localllm)

Prints one column a directory, so that two checkouts can be compared. tests/test_structure.py
asserts the limits on the package itself.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FRAGMENT_LINES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The shape of a package: lengths are in lines, sorted; `circles` are sets of packages that
    import each other at the level of one folder's children."""

    files: Mapping[str, int]
    functions: Mapping[str, int]
    folders: Mapping[str, int]
    circles: tuple[frozenset[str], ...]

    @property
    def fragments(self) -> tuple[str, ...]:
        """Modules of fewer than FRAGMENT_LINES lines; `__init__.py` and `__main__.py` are no
        modules of their own."""
        return tuple(
            name
            for name, lines in self.files.items()
            if lines < FRAGMENT_LINES and Path(name).stem not in ("__init__", "__main__")
        )


def measure(root: Path) -> Structure:
    """Measure the package at `root`. Empty files do not count."""
    files: dict[str, int] = {}
    functions: dict[str, int] = {}
    folders: Counter[str] = Counter()
    imports: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        text = path.read_text("utf-8")
        if not text.strip():
            continue
        name = path.relative_to(root).as_posix()
        files[name] = len(text.splitlines())
        if path.stem != "__init__":
            folders[path.relative_to(root).parent.as_posix()] += 1
        tree = ast.parse(text)
        functions |= {
            f"{name}:{node.name}:{node.lineno}": length for node, length in _functions(tree)
        }
        imports[_module(path, root)] = set(_imports(tree))
    return Structure(
        files=files, functions=functions, folders=folders, circles=tuple(_circles(imports))
    )


def _functions(
    tree: ast.AST,
) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Every function with its length, decorators left out: the options of a verb are data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            yield node, node.end_lineno - node.lineno + 1


def _module(path: Path, root: Path) -> str:
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _circles(imports: Mapping[str, set[str]]) -> Iterator[frozenset[str]]:
    """Folders in which children import each other in a circle, directly or through others."""
    parents = {name.rpartition(".")[0] for name in imports if "." in name}
    for parent in sorted(parents):
        graph: dict[str, set[str]] = {}
        for module, wanted in imports.items():
            child = _child(parent, module)
            if child is not None:
                found = {_child(parent, each) for each in wanted} - {None, child}
                graph.setdefault(child, set()).update(each for each in found if each is not None)
        yield from _strong_components(graph)


def _child(parent: str, module: str) -> str | None:
    """The child of `parent` that `module` is or lies in."""
    if not module.startswith(parent + "."):
        return None
    return f"{parent}.{module[len(parent) + 1 :].partition('.')[0]}"


def _strong_components(graph: Mapping[str, set[str]]) -> Iterator[frozenset[str]]:
    """Sets of two or more nodes that reach each other."""
    reach = {node: _reachable(graph, node) for node in graph}
    seen: set[str] = set()
    for node in graph:
        circle = frozenset(other for other in reach[node] if node in reach.get(other, ()))
        if len(circle | {node}) > 1 and node not in seen:
            seen |= circle | {node}
            yield circle | {node}


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for each in graph.get(waiting.pop(), set()) - found:
            found.add(each)
            waiting.append(each)
    return found


def _quantile(values: Iterable[int], part: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def rows(found: Structure) -> dict[str, object]:
    """The table: label -> value."""
    lengths, functions = found.files.values(), found.functions.values()
    crowded = max(found.folders, key=lambda each: found.folders[each])
    return {
        "files": len(found.files),
        "lines": sum(lengths),
        f"modules under {FRAGMENT_LINES} lines": len(found.fragments),
        "most modules in a folder": f"{found.folders[crowded]} ({crowded})",
        "file p50 / p90 / max": " / ".join(str(_quantile(lengths, q)) for q in (0.5, 0.9, 1)),
        "function p50 / p90 / p99 / max": " / ".join(
            str(_quantile(functions, q)) for q in (0.5, 0.9, 0.99, 1)
        ),
        "circles": len(found.circles),
    }


def main() -> None:
    """Print the table of each directory that is named."""
    roots = [Path(each) for each in sys.argv[1:]] or [Path("localllm")]
    tables = [rows(measure(root.resolve())) for root in roots]
    for label in tables[0]:
        print(f"{label:34}", *(f"{table[label]!s:>24}" for table in tables))
    for root, found in zip(roots, map(measure, (each.resolve() for each in roots)), strict=True):
        for circle in found.circles:
            print(f"circle in {root}: {', '.join(sorted(circle))}")


if __name__ == "__main__":
    main()
