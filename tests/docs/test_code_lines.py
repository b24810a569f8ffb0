"""The count of code lines: what counts, and what passing a budget leads to."""

from collections import Counter
from pathlib import Path

from code_lines import BUDGETS, ROOT, code_lines, count, report

SAMPLE = '''\
"""A docstring of the module
over two lines."""

import os  # this counts

# this does not
LIMIT = 3
"""Neither does this."""


def double(x: int) -> int:
    """Nor this."""
    return sum(
        (x, x)
    )
'''


def test_docstrings_comments_and_blank_lines_do_not_count() -> None:
    assert code_lines(SAMPLE) == 6


def test_a_folder_is_a_room_and_files_beside_them_are_the_ground(tmp_path: Path) -> None:
    (tmp_path / "series" / "deep").mkdir(parents=True)
    for name in ("errors.py", "series/panel.py", "series/deep/more.py", "series/made_pb2.py"):
        (tmp_path / name).write_text("x = 1\ny = 2\n")
    assert count(tmp_path) == {"ground": 2, "series": 4}


def test_a_room_over_its_budget_is_named_and_so_is_one_without() -> None:
    assert report(Counter(series=850, cli=1500))[1]
    table, within = report(Counter(series=851))
    assert not within
    assert table[1].endswith("1 over")
    table, within = report(Counter(attic=1))
    assert not within
    assert table[1].endswith("no budget")
    assert not report(Counter(dict.fromkeys(BUDGETS, 700) | {"ground": 650, "export": 350}))[
        1
    ]  # all together


def test_every_room_of_the_house_has_a_budget() -> None:
    assert set(count(ROOT)) <= set(BUDGETS)
