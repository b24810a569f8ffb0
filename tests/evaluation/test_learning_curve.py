"""The learning curve: both losses, the epoch that was kept, a log scale where it helps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from presurge.evaluation.report.plots import best_epoch, learning_figure
from presurge.series.plots_style import NARROW, WIDE, Layout, styled

History = list[dict[str, float]]


@pytest.fixture(autouse=True)
def drawn_wide() -> Iterator[None]:
    with styled(WIDE):
        yield


def history(train: Any, validation: Any = None) -> History:
    rows = [{"epoch": float(i), "train_loss": float(loss)} for i, loss in enumerate(train)]
    for row, loss in zip(rows, validation if validation is not None else (), strict=False):
        row["validation_loss"] = float(loss)
    return rows


def curves(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> x and y of everything with a label."""
    lines = figure.axes[0].get_lines()
    return {
        str(line.get_label()): (list(np.asarray(line.get_xdata())), list(np.asarray(line.get_ydata())))
        for line in lines
        if not str(line.get_label()).startswith("_")
    }


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_both_losses_and_the_best_epoch_are_drawn(layout: Layout) -> None:
    rows = history([0.9, 0.5, 0.4], [0.8, 0.6, 0.7])
    figure = learning_figure(rows, best_epoch(rows), layout)
    drawn = curves(figure)
    assert drawn["training"] == ([1, 2, 3], [0.9, 0.5, 0.4])
    assert drawn["validation"] == ([1, 2, 3], [0.8, 0.6, 0.7])
    assert drawn["best epoch: 2 (0.6)"] == ([2], [0.6])
    assert figure.axes[0].get_yscale() == "linear"


def test_losses_far_apart_get_a_log_scale_unless_one_is_not_positive() -> None:
    falling = np.geomspace(50, 0.1, 30)
    wide = learning_figure(history(falling, falling), 30)
    assert wide.axes[0].get_yscale() == "log"
    assert "logarithmic" in wide.axes[0].get_title(loc="left")
    assert learning_figure(history(falling - 1, falling), 30).axes[0].get_yscale() == "linear"


def test_without_validation_the_training_loss_decides() -> None:
    rows = history([-1.0, -3.0, -2.0])
    assert best_epoch(rows) == 2
    assert curves(learning_figure(rows, 2)).keys() == {"training", "best epoch: 2 (−3)"}


def test_the_epoch_that_the_fit_kept_is_marked() -> None:
    """With a least improvement it need not be the one of the least loss."""
    rows = history([3, 2, 1], [0.5, 0.4999, 0.6])
    assert best_epoch(rows) == 2
    assert best_epoch(rows, 1) == 1
