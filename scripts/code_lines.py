"""Count the code lines of each room against its budget: `python scripts/code_lines.py`.

A code line holds code: docstrings, comments and blank lines do not count. The exit status is 1 where a room, or all of
them together, passed the budget.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "src" / "presurge"

GROUND = "ground"
"""The files beside the rooms: errors, files, config, store and the package itself."""

BUDGETS = {
    GROUND: 650,
    "series": 850,
    "sources": 1600,
    "training": 950,
    "models": 2700,
    "evaluation": 1250,
    "workflows": 1450,
    "predictor": 750,
    "export": 350,
    "kapacity": 1100,
    "kronos": 1500,
    "power": 900,
    "explain": 1200,
    "planning": 900,
    "serving": 1100,
    "cli": 1500,
}
TOTAL = 10_700
"""What the rooms that exist may hold together; each new system raises it by its own budget."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> int:
    """Count the lines of a Python file that hold code."""
    strings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                strings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - strings)


def count(root: Path) -> Counter[str]:
    """Return the code lines of each room under ``root``; generated files (`*_pb2*`) are left out."""
    rooms: Counter[str] = Counter()
    for file in sorted(root.rglob("*.py")):
        if "_pb2" not in file.name:
            room, *inside = file.relative_to(root).parts
            rooms[room if inside else GROUND] += code_lines(file.read_text(encoding="utf-8"))
    return rooms


def report(rooms: Counter[str]) -> tuple[list[str], bool]:
    """Return the table of the rooms, from the ground up, and whether all are within their budgets."""
    lines, within = [], True
    counted = [
        (room, rooms[room], BUDGETS.get(room)) for room in dict.fromkeys([*BUDGETS, *rooms]) if rooms[room]
    ]
    for room, found, budget in [*counted, ("total", rooms.total(), TOTAL)]:
        over = budget is None or found > budget
        remark = "no budget" if budget is None else f"{found - budget:,} over" if over else ""
        lines.append(f"{room:12}{found:8,}{budget or 0:8,}  {remark}".rstrip())
        within = within and not over
    return [f"{'room':12}{'lines':>8}{'budget':>8}", *lines], within


if __name__ == "__main__":
    table, fits = report(count(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
    print("\n".join(table))
    sys.exit(not fits)
