"""Forecasts laid along the rows, and errors by hour of the day."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from presurge.evaluation.fit import calibrate
from presurge.evaluation.walk import error_by_hour, rolling_forecast, walk
from presurge.models.naive import LastValue
from presurge.series.frequency import DAY, HOUR, MINUTE
from presurge.series.panel import Panel
from presurge.series.spans import Span

MakePanel = Callable[..., Panel]
HORIZON = 3


def fitted(panel: Panel, *, context: int = 2) -> LastValue:
    model = LastValue(context=context, horizon=HORIZON)
    model.fit(panel, panel.full_span())
    return model


@pytest.mark.parametrize("lead", [1, 3])
def test_each_row_is_forecast_from_so_many_rows_before_it(make_panel: MakePanel, lead: int) -> None:
    panel = make_panel(np.arange(40.0))
    found = rolling_forecast(fitted(panel), panel, Span(np.array([10]), np.array([40])), lead=lead)
    np.testing.assert_array_equal(found.actual_NC[:, 0], np.arange(10, 40))
    np.testing.assert_array_equal(found.mean_NC[:, 0], np.arange(10, 40) - lead)
    np.testing.assert_array_equal(found.times_us, np.arange(10, 40) * HOUR)
    assert found.quantiles_NQC.shape == (30, 0, 1)


def test_blocks_of_the_horizon_follow_one_another(make_panel: MakePanel) -> None:
    panel = make_panel(np.arange(40.0))
    found = rolling_forecast(fitted(panel), panel, Span(np.array([10]), np.array([20])))
    np.testing.assert_array_equal(found.mean_NC[:, 0], [9, 9, 9, 12, 12, 12, 15, 15, 15, 18])


def test_rows_that_cannot_be_forecast_are_nan(make_panel: MakePanel) -> None:
    values = np.arange(40.0)
    values[20] = np.nan
    panel = make_panel(values, lengths=(5, 35))
    span = Span(np.array([0, 5]), np.array([5, 40]))
    found = rolling_forecast(fitted(panel), panel, span, lead=1, item=1)
    assert np.flatnonzero(np.isnan(found.mean_NC[:, 0])).tolist() == [0, 1, 16, 17]
    assert np.isnan(found.actual_NC[15, 0])


def test_a_calibrated_model_brings_its_intervals(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(0).normal(size=400).cumsum())
    model = fitted(panel)
    model.calibration = calibrate(model, panel, Span(np.array([100]), np.array([200])))
    found = rolling_forecast(model, panel, Span(np.array([200]), np.array([400])), lead=1)
    assert found.levels == model.calibration.levels
    inside = (found.actual_NC >= found.quantiles_NQC[:, 3]) & (found.actual_NC <= found.quantiles_NQC[:, 7])
    assert 0.7 < inside.mean() < 0.9


def test_a_baseline_is_what_its_name_says_whatever_its_calibration_adds(make_panel: MakePanel) -> None:
    panel = make_panel(np.arange(400.0) ** 1.5)  # the last value is always too low
    model = fitted(panel)
    model.calibration = calibrate(model, panel, Span(np.array([100]), np.array([200])))
    (piece,) = walk([model], panel, np.arange(210, 390))
    assert piece.quantiles_BHQC is not None
    for forecast_BHC in (piece.mean_BHC, piece.median_BHC):
        np.testing.assert_array_equal(forecast_BHC[:, :, 0], np.tile(panel.values[210:390], HORIZON))
    assert (piece.quantiles_BHQC[:, :, 5] > piece.median_BHC + 10).all()


@pytest.mark.parametrize("step", [20 * MINUTE, HOUR])
def test_errors_by_the_hour_of_the_target(make_panel: MakePanel, step: int) -> None:
    rows = 6 * DAY // step
    values = np.random.default_rng(1).gamma(2, 10, (rows, 2)).astype(np.float32)
    values[100:110, 0] = np.nan
    panel = make_panel(values, step=step, start=5 * HOUR)
    span = Span(np.array([30]), np.array([rows]))
    found = error_by_hour(fitted(panel), panel, span, stride=2)

    stamp = pd.to_datetime(5 * HOUR + np.arange(rows) * step, unit="us")
    frames = []
    for origin in range(29, rows - HORIZON, 2):
        if np.isnan(values[origin - 1 : origin + 1]).any():
            continue
        for target in range(origin + 1, origin + 1 + HORIZON):
            error = np.abs(values[origin].astype(float) - values[target])
            frames.append((stamp[target].hour, *error, *values[target].astype(float)))
    table = pd.DataFrame(frames, columns=["hour", "e0", "e1", "y0", "y1"]).groupby("hour")
    np.testing.assert_allclose(found.mae_TC, table[["e0", "e1"]].mean().to_numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.load_TC, table[["y0", "y1"]].mean().to_numpy(), rtol=1e-6)


def test_hours_without_a_target_are_nan(make_panel: MakePanel) -> None:
    panel = make_panel(np.arange(60.0), step=MINUTE)
    found = error_by_hour(fitted(panel), panel, panel.full_span())
    assert np.isnan(found.mae_TC[1:]).all()
