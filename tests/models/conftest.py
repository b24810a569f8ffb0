"""Series that the tests of the models share."""

from collections.abc import Callable

import numpy as np
import pytest

from presurge.series.frequency import HOUR
from presurge.series.panel import Channel, Panel

MakePanel = Callable[..., Panel]


@pytest.fixture
def make_panel() -> MakePanel:
    """Build a panel from an array of rows (and channels), its channels gauges unless told otherwise."""

    def build(
        values: object, *, kinds: str = "", lengths: tuple[int, ...] | None = None, step: int = HOUR
    ) -> Panel:
        array = np.asarray(values, np.float32)
        table = array if array.ndim == 2 else array[:, None]
        kinds = kinds or "g" * table.shape[1]
        lengths = lengths or (len(table),)
        return Panel(
            values=table,
            channels=tuple(
                Channel(f"c{i}", kind="count" if kind == "c" else "gauge") for i, kind in enumerate(kinds)
            ),
            step=step,
            start=np.zeros(len(lengths), np.int64),
            items=tuple(f"item{i}" for i in range(len(lengths))),
            indptr=np.concatenate([[0], np.cumsum(lengths)]),
        )

    return build


@pytest.fixture
def load(make_panel: MakePanel) -> Panel:
    """Two items, hourly: a Poisson count with a daily rhythm, a bursty count, a gauge that wanders."""
    rng = np.random.default_rng(7)
    rows = np.arange(1000)
    rate = 30 + 20 * np.sin(2 * np.pi * rows / 24)
    columns = [rng.poisson(rate), rng.negative_binomial(0.5, 0.01, 1000), 50 + rng.normal(size=1000).cumsum()]
    return make_panel(np.stack(columns, 1), kinds="ccg", lengths=(600, 400))
