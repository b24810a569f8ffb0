"""The architecture, held: imports only run downwards, the ground floors stay light, files and functions short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"

# Bottom to top. A room may import the rooms of lower floors.
FLOORS = (
    {"errors", "progress"},
    {"files", "config"},
    {"series"},
    {"store"},
    {"sources", "training"},
    {"models"},
    {"evaluation"},
    {"workflows"},
    {"predictor", "serving", "planning", "explain", "export", "kapacity", "kronos", "power"},
    {"cli"},
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

NEIGHBOURS: dict[tuple[str, str], str] = {}

# The ground floors work in an environment without these; only `training`, `models/networks` and the floors above may
# need torch.
GROUND = {"errors", "progress", "files", "config", "series", "sources", "store", "models", "evaluation"}
HEAVY = {"torch", "pandas", "matplotlib"}
DRAWS = "presurge.evaluation.plots"
LEARNS = "presurge.models.networks"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

FILES = sorted((SRC / "presurge").rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))


def module_of(path: Path) -> str:
    """`src/presurge/series/panel.py` is `presurge.series.panel`; a package is named by its folder."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The second part of the dotted name: `series` of `presurge.series.panel`."""
    return [*module.split("."), ""][1]


def draws(module: str) -> bool:
    """Whether the module is one of `evaluation/plots*.py`, where matplotlib lives."""
    return module.startswith(DRAWS)


def learns(module: str) -> bool:
    """Whether the module is one of `models/networks/`, which are imported when such a model is asked for."""
    return module.startswith(LEARNS)


def imported(nodes: Iterator[ast.AST], path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import; `from a import b` gives `a.b`, since b may be a module."""
    package = module_of(path.parent / "__init__.py").split(".")
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def run_on_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not inside functions, not for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from run_on_import(node)


@each_file
def test_imports_only_run_downwards(path: Path) -> None:
    room = room_of(module_of(path))
    if room in {"", "__main__"}:
        return  # the package itself and `python -m presurge` stand above the floors
    assert room in HEIGHT, f"{room} has no floor: give it one in FLOORS"
    wrong = []
    for line, name in imported(ast.walk(ast.parse(path.read_text())), path):
        other = room_of(name)
        if not name.startswith("presurge.") or other in {room, "__version__"} or (room, other) in NEIGHBOURS:
            continue
        if HEIGHT.get(other, len(FLOORS)) >= HEIGHT[room]:
            wrong.append(f"{path}:{line} imports {name}: {other} is not below {room}")
    assert not wrong, "\n".join(wrong)


@each_file
def test_the_ground_floors_import_nothing_heavy(path: Path) -> None:
    module = module_of(path)
    names = [name for _, name in imported(run_on_import(ast.parse(path.read_text())), path)]
    if room_of(module) in GROUND:
        allowed = {"matplotlib"} if draws(module) else {"torch"} if learns(module) else set()
        heavy = {name.split(".")[0] for name in names} & (HEAVY - allowed)
        assert not heavy, f"{module} imports {heavy} when it is imported"
    for kind in (draws, learns):
        if not kind(module):
            late = [name for name in names if kind(name)]
            assert not late, f"{module} imports {late} when it is imported: do so inside the function"


def test_the_ground_floors_load_without_the_heavy_libraries() -> None:
    """What the text of one file cannot show: an import that an import brings along."""
    modules = [m for m in map(module_of, FILES) if room_of(m) in GROUND and not draws(m) and not learns(m)]
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(HEAVY)!r}: sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "presurge", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in lines}
    assert "typer" in loaded, "the import log was not understood"
    assert not loaded & {"torch", "pandas", "matplotlib", "polars", "lightning"}


@each_file
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES, f"{path} has more than {MAX_FILE_LINES} lines"
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [f.name for f in functions if f.end_lineno and f.end_lineno - f.lineno >= MAX_FUNCTION_LINES]
    assert not long, f"{path}: more than {MAX_FUNCTION_LINES} lines in {long}"
