"""A fleet of very different items in one model, against one model an item, on the same windows of every item."""

from dataclasses import replace
from typing import Any

import numpy as np
from series import FLEET, load

from presurge.evaluation.fit import fit_model
from presurge.evaluation.metrics import ScoreSums
from presurge.evaluation.walk import usable_origins, walk
from presurge.models.forecaster import Forecaster
from presurge.series.dataset import Dataset
from presurge.series.spans import Span

Row = dict[str, Any]
COVERED = (0.72, 0.88)


def measure() -> list[Row]:
    """One row an item and channel: scores of the pooled model, of its own model and of the last value."""
    dataset, shape = load(FLEET), {"context": FLEET.context, "horizon": FLEET.horizon}
    pooled = {name: fit_model(name, dataset, **shape).model for name in ("auto", "last-value")}
    rows = []
    for number, item in enumerate(dataset.panel.items):
        own = item_of(dataset, number)
        models = {
            "pooled": pooled["auto"],
            "own": fit_model("auto", own, **shape).model,
            "last": pooled["last-value"],
        }
        scores = scores_of(models, own)
        for c, channel in enumerate(FLEET.channels):
            found = {
                f"{score}_{name}": float(values[score][:, c].mean())
                for name, values in scores.items()
                for score in ("wape", "rmse", "coverage_80", "wql")
                if score in values
            }
            ratios = {f"{s}_ratio": found[f"{s}_pooled"] / found[f"{s}_own"] for s in ("wape", "rmse")}
            rows.append({"item": item, "channel": channel, "rows": len(own.panel), **found, **ratios})
    return rows


def item_of(dataset: Dataset, number: int) -> Dataset:
    """The part of a data set that belongs to one item."""
    panel = dataset.panel
    begin, end = int(panel.indptr[number]), int(panel.indptr[number + 1])

    def part(span: Span) -> Span:
        return Span(span.first[number : number + 1] - begin, span.last[number : number + 1] - begin)

    alone = panel.replace(
        values=panel.values[begin:end],
        indptr=np.array([0, end - begin]),
        start=panel.start[number : number + 1],
        items=panel.items[number : number + 1],
    )
    spans = {name: part(getattr(dataset, name)) for name in ("train", "validation", "test")}
    return replace(dataset, panel=alone, **spans)


def scores_of(models: dict[str, Forecaster], dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Scores on the windows that every model can forecast from."""
    panel, scale = dataset.panel, np.ones(len(FLEET.channels))
    longest = max(models.values(), key=lambda model: model.context)
    origins = usable_origins(longest, panel, dataset.test)
    found = {}
    for name, model in models.items():
        sums = ScoreSums(model.horizon, model.calibration.levels if model.calibration else (), scale)
        for piece in walk([model], panel, origins):
            sums.add(piece.actual(), piece.mean_BHC, piece.median_BHC, piece.quantiles_BHQC)
        found[name] = sums.scores()
    return found


def show(rows: list[Row]) -> None:
    """One line an item and channel, and how far the pooled model is behind."""
    print("\nfleet, 5 minutes, 288->3: one model for all items against one model an item")
    print(
        f"  {'item':<6} {'channel':<8} {'rows':>6} {'WAPE pooled':>11} {'own':>7} {'last':>7} {'ratio':>6}  "
        f"{'RMSE ratio':>10} {'cov. 80':>8}"
    )
    for row in rows:
        coverage = row["coverage_80_pooled"]
        marks = "*" if row["wape_ratio"] > 1.05 else " ", " " if COVERED[0] <= coverage <= COVERED[1] else "*"
        print(
            f"  {row['item']:<6} {row['channel']:<8} {row['rows']:>6,} {row['wape_pooled']:>11.4f} "
            f"{row['wape_own']:>7.4f} {row['wape_last']:>7.4f} {row['wape_ratio']:>6.3f}{marks[0]} "
            f"{row['rmse_ratio']:>10.3f} {coverage:>8.3f}{marks[1]}"
        )
    worst = max(rows, key=lambda row: row["wape_ratio"])
    behind = sum(row["wape_ratio"] > 1.05 for row in rows)
    outside = sum(not COVERED[0] <= row["coverage_80_pooled"] <= COVERED[1] for row in rows)
    print(
        f"  pooled is more than 5 % worse on {behind} of {len(rows)}, worst {worst['wape_ratio']:.3f} "
        f"(item {worst['item']}, {worst['channel']}); coverage outside 0.72 to 0.88 on {outside}"
    )
