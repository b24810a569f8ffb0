"""Series and a finished run that the tests of the evaluation share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from presurge.evaluation.backtest import evaluate
from presurge.evaluation.fit import fit_model
from presurge.evaluation.report import write_report
from presurge.evaluation.report.summary import RunSummary
from presurge.series.dataset import Dataset
from presurge.series.frequency import HOUR
from presurge.series.panel import Channel, Panel

MakePanel = Callable[..., Panel]


def panel_of(
    values: object, *, names: tuple[str, ...] = (), kinds: str = "", lengths: tuple[int, ...] | None = None,
    step: int = HOUR, start: int = 0,
) -> Panel:  # fmt: skip
    """A panel of an array of rows (and channels), gauges unless told otherwise."""
    array = np.asarray(values, np.float32)
    table = array if array.ndim == 2 else array[:, None]
    names = names or tuple(f"c{i}" for i in range(table.shape[1]))
    kinds = kinds or "g" * table.shape[1]
    lengths = lengths or (len(table),)
    return Panel(
        values=table,
        channels=tuple(
            Channel(name, unit="1/h", kind="count" if kind == "c" else "gauge")
            for name, kind in zip(names, kinds, strict=True)
        ),
        step=step,
        start=np.full(len(lengths), start, np.int64),
        items=tuple(f"item{i}" for i in range(len(lengths))),
        indptr=np.concatenate([[0], np.cumsum(lengths)]),
    )


@pytest.fixture(scope="session")
def make_panel() -> MakePanel:
    """Build a panel from an array."""
    return panel_of


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunSummary]:
    """Fit, score and sum up a run on 600 rows of load with a daily rhythm."""

    def build(
        directory: Path, *, names: tuple[str, ...] = ("requests", "cpu"), path: str = "load.csv"
    ) -> RunSummary:
        rng = np.random.default_rng(0)
        rate = 40 + 25 * np.sin(2 * np.pi * np.arange(600) / 24)
        panel = panel_of(
            np.stack([rng.poisson(rate), rng.normal(rate / 100, 0.05)], 1), names=names, kinds="cg"
        )
        whole, test = panel.full_span().cut_tail("0.3")
        train, validation = whole.cut_tail("0.2")
        data = Dataset(
            panel=panel, train=train, validation=validation, test=test, validation_given=False,
            source={"path": path, "format": "table"}, notes=("buckets without a row: 3",),
        )  # fmt: skip
        fitted = [fit_model(name, data, context=24, horizon=3) for name in ("linear", "last-value")]
        return RunSummary(
            directory=directory,
            fitted=fitted[0],
            dataset=data,
            config={"model": "linear"},
            evaluation=evaluate([one.model for one in fitted], panel, test, train=data.fit_span),
        )

    return build


@pytest.fixture(scope="session")
def run(make_run: Callable[..., RunSummary], tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A run whose report and pictures are written."""
    summary = make_run(tmp_path_factory.mktemp("run"))
    write_report(summary.directory, summary)
    return summary
