"""The names of tuner that the benchmarks import, also inside functions and inside the programs that they start."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
IMPORT = re.compile(r"^from (tuner[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each module and each name imported from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for module, names in IMPORT.findall(node.value):
                yield from ((module, name.partition(" as ")[0].strip()) for name in names.split(","))


def exists(module: str, name: str) -> bool:
    """Return whether a module of the repository has a submodule, or defines or imports a name."""
    folder = ROOT / module.replace(".", "/")
    if (folder / name).is_dir() or (folder / f"{name}.py").is_file():
        return True
    source = folder.with_suffix(".py") if folder.with_suffix(".py").is_file() else folder / "__init__.py"
    if not source.is_file():
        return False
    return any(name in names_of(node) for node in ast.walk(ast.parse(source.read_text())))


def names_of(node: ast.AST) -> list[str]:
    """Return the names that a statement defines."""
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Name(ctx=ast.Store()):
            return [node.id]
        case ast.ImportFrom() | ast.Import():
            return [alias.asname or alias.name for alias in node.names]
        case _:
            return []


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_benchmark_imports_only_names_that_exist(path: Path) -> None:
    found = {(module, name) for module, name in imports(path) if module.split(".")[0] in ("tuner", "benchmarks")}
    assert [f"{module}.{name}" for module, name in sorted(found) if not exists(module, name)] == []
