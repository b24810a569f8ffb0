"""What the accuracy benchmark says of the peers must be fair: their inputs end at the origin, and loads are conserved."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from presurge.series.frequency import HOUR
from presurge.series.panel import Channel, Panel

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
accuracy, peers, series, short = map(import_module, ("accuracy", "peers", "series", "short"))


def panel_of(values: np.ndarray) -> Panel:
    channels = (Channel("a", kind="count"), Channel("b"))
    return Panel(values=values.astype(np.float32), channels=channels, step=HOUR, start=np.zeros(1, np.int64))


@pytest.mark.parametrize("step", [1, 24])
def test_no_row_knows_what_comes_after_it(step: int) -> None:
    values = np.random.default_rng(0).gamma(2, 100, (600, 2))
    changed = values.copy()
    changed[400:] = 7
    for chosen in ((15, 1, False), (15, 12, True)):
        before, after = (
            peers.DirectBoosting(panel_of(x), 0, 24, "l1")._rows(step, chosen) for x in (values, changed)
        )
        for ours, theirs in zip(before[:2], after[:2], strict=True):
            np.testing.assert_array_equal(ours[:400], theirs[:400])
        assert not np.array_equal(before[0][400:], after[0][400:])


def test_the_features_hold_the_values_a_day_and_a_week_before_the_target() -> None:
    values = np.arange(600.0)[:, None].repeat(2, axis=1)
    features, level, _ = peers.DirectBoosting(panel_of(values), 0, 3, "l1")._rows(3, (15, 1, False))
    known = set(np.round(features[500] + level[500]).tolist())
    assert {500 + 3 - 24, 500 + 3 - 168} <= known
    assert max(features[500, :24] + level[500]) == 500


def test_buckets_conserve_all_but_the_partial_edges() -> None:
    rng = np.random.default_rng(1)
    events = pl.DataFrame(
        {"seconds": np.sort(rng.uniform(7, 193, 500)), "input_tokens": 3, "output_tokens": 1}
    )
    rows = series.buckets(events, 10)
    inside = events.filter(pl.col("seconds").is_between(10, 190, closed="left"))
    assert rows["t_s"].to_list() == list(range(0, 180, 10))
    assert rows["requests"].sum() == len(inside)
    assert rows["input_tokens"].sum() == 3 * len(inside)


def test_a_peer_is_given_the_surplus_that_auto_has() -> None:
    rng = np.random.default_rng(2)
    actual, point = rng.gamma(3, 10, (2, 100))
    bound = short.with_surplus(point, actual, 0.15)
    assert short.surplus(bound, actual) == pytest.approx(0.15, rel=1e-6)
    assert np.ptp(bound / point) == pytest.approx(0, abs=1e-9)


def test_a_loss_of_auto_is_counted_as_one() -> None:
    def row(model: str, wql: float) -> dict[str, object]:
        scores = {"wql": wql, "wape": 1.0, "rmse": 1.0, "relative_bias": 0.1, "coverage_80": 0.9}
        return {"series": "s", "channel": "c", "model": model, **scores}

    (found,) = accuracy.against([row("auto", 0.3), row("drift", 0.2), row("linear", 0.1)])
    assert (found["wql"], found["wql_best"]) == (pytest.approx(1.5), "drift")
