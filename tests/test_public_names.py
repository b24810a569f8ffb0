"""Each package says what is public, and says all of it."""

import ast
import importlib
import re
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGES = {
    ".".join(path.parent.relative_to(SRC).parts): path
    for path in sorted((SRC / "presurge").rglob("__init__.py"))
    if "__all__" in path.read_text()
}


def bound_in(path: Path) -> set[str]:
    """The public names that the text of a package binds: what it imports from itself, defines or assigns."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("presurge")):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def in_the_order_of_the_linter(name: str) -> tuple[int, list[str | int]]:
    """Constants, then classes, then the rest, numbers by value: what `make format` writes."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_complete(package: str) -> None:
    public = importlib.import_module(package).__all__
    listed = [name for name in public if not name.startswith("_")]
    assert listed == sorted(set(listed), key=in_the_order_of_the_linter)
    assert bound_in(PACKAGES[package]) <= set(listed)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_listed_is_there(package: str) -> None:
    """Also the names that a package only loads when they are asked for."""
    module = importlib.import_module(package)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing
