"""The architecture, enforced: imports only run downwards, heavy libraries stay out, files and functions stay short."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"

# Bottom to top. A room may import the rooms of lower floors, and none on its own floor.
FLOORS = (
    {"errors", "progress"},
    {"files", "config"},
    {"store", "series"},
    {"sources", "training"},
    {"models"},
    {"evaluation"},
    {"workflows"},
    {"frames"},
    {"door"},
    {"predictor", "export", "kapacity", "kronos", "power", "explain", "planning"},
    {"serving"},
    {"cli"},
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

THE_PACKAGE = HEIGHT["door"] + 0.5
"""`presurge/__init__.py` hands out what the Python door offers; only its version may be used from below."""

# Everything below the doors works in an environment without these, except `training` and `models/networks`, which
# need torch, and the plots, which need matplotlib.
HEAVY = {"torch", "pandas", "matplotlib"}
WITHOUT_HEAVY = {room for room, height in HEIGHT.items() if height <= HEIGHT["door"]} - {"training"}

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60

FILES = sorted((SRC / "presurge").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def module_of(path: Path) -> str:
    """`src/presurge/series/panel.py` is `presurge.series.panel`; a package is named by its folder."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The second part of the dotted name: `series` of `presurge.series.panel`."""
    return [*module.split("."), ""][1]


def draws(module: str) -> bool:
    """Whether the module is one of `plots*.py` in `series` and `evaluation`, where matplotlib lives."""
    return room_of(module) in {"series", "evaluation"} and module.rpartition(".")[2].startswith("plots")


def learns(module: str) -> bool:
    """Whether the module is in `models/networks/`, which is imported when such a model is asked for."""
    return module.startswith("presurge.models.networks")


def imported(nodes: Iterable[ast.AST], path: Path) -> Iterator[tuple[int, str]]:
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


def test_imports_only_run_downwards() -> None:
    wrong = []
    for path, tree in TREES.items():
        room = room_of(module_of(path))
        if room == "__main__":
            continue
        if room and room not in HEIGHT:
            wrong.append(f"{path}: the room {room} has no floor: give it one in FLOORS")
            continue
        height = HEIGHT[room] if room else THE_PACKAGE
        for line, name in imported(ast.walk(tree), path):
            other = room_of(name)
            if not name.startswith("presurge.") or other in {room, "__version__"}:
                continue
            if HEIGHT.get(other, THE_PACKAGE) >= height:
                wrong.append(f"{path}:{line} imports {name}: {other} is not below {room or 'the package'}")
    assert not wrong, "\n".join(wrong)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    wrong = []
    for path, tree in TREES.items():
        module = module_of(path)
        names = list(imported(run_on_import(tree), path))
        allowed = {"matplotlib"} if draws(module) else {"torch"} if learns(module) else set()
        for line, name in names:
            if room_of(module) in WITHOUT_HEAVY and name.split(".")[0] in HEAVY - allowed:
                wrong.append(f"{path}:{line} imports {name}: do so inside the function")
            if any(kind(name) and not kind(module) for kind in (draws, learns)):
                wrong.append(f"{path}:{line} imports {name}: do so inside the function")
    assert not wrong, "\n".join(wrong)


def test_what_lies_below_the_doors_loads_without_the_heavy_libraries() -> None:
    """Catch what the text of one file cannot show: an import that an import brings along."""
    modules = [
        m for m in map(module_of, FILES) if room_of(m) in WITHOUT_HEAVY and not draws(m) and not learns(m)
    ]
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


def test_files_and_functions_are_short() -> None:
    wrong = []
    for path, tree in TREES.items():
        if (lines := path.read_text().count("\n")) > MAX_FILE_LINES:
            wrong.append(f"{path}: {lines} lines, more than {MAX_FILE_LINES}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    wrong.append(f"{path}:{node.lineno} {node.name}: {lines} lines, not {MAX_FUNCTION_LINES}")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_names_its_flags() -> None:
    """An error names the setting (`horizon`); each door spells it in its own way."""
    flag = re.compile(r"(?<![\w(-])--[a-z]")
    wrong = [
        f"{path}:{number}: {line.strip()}"
        for path in [*FILES, *sorted((SRC / "presurge").rglob("*.toml"))]
        if room_of(module_of(path)) != "cli"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if flag.search(line.replace("pip install --upgrade", ""))  # which is not ours
    ]
    assert not wrong, "\n".join(wrong)
