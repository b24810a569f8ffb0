"""Calibrating a fitted model: on which windows, pooled with what, and until when."""

from collections.abc import Callable

import numpy as np
import pytest

from presurge.errors import DataError
from presurge.evaluation.fit import MAX_WINDOWS, calibrate, fit_model
from presurge.evaluation.walk import chunk_size
from presurge.models.naive import DayAgo, LastValue
from presurge.series.dataset import Dataset
from presurge.series.frequency import HOUR
from presurge.series.panel import Panel
from presurge.series.spans import Span

MakePanel = Callable[..., Panel]


def last_value(panel: Panel, context: int = 2, horizon: int = 2) -> LastValue:
    model = LastValue(context=context, horizon=horizon)
    model.fit(panel, panel.full_span())
    return model


def test_the_residuals_of_the_span_are_measured(make_panel: MakePanel) -> None:
    values = np.random.default_rng(0).normal(size=400).cumsum()
    panel = make_panel(values)
    found = calibrate(last_value(panel), panel, Span(np.array([100]), np.array([400])))
    y = values.astype(np.float32)
    for h in (1, 2):
        residuals = np.sort([y[o + h] - y[o] for o in range(99, 398)])
        assert found.residuals_KHQC[0, h - 1, 3, 0] == residuals[int(np.floor(300 * 0.1)) - 1]
        assert found.residuals_KHQC[0, h - 1, 7, 0] == residuals[int(np.ceil(300 * 0.9)) - 1]
    assert found.n_windows == 299
    assert found.until == {"item0": 399 * HOUR}


def test_windows_with_a_gap_in_the_context_are_left_out(make_panel: MakePanel) -> None:
    values = np.random.default_rng(1).normal(size=100)
    values[50] = np.nan
    panel = make_panel(values)
    found = calibrate(last_value(panel), panel, Span(np.array([20]), np.array([100])))
    assert found.n_windows == 79 - 2


def test_each_item_is_followed_from_its_own_last_row(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(2).normal(size=100), lengths=(60, 40), start=5 * HOUR)
    found = calibrate(last_value(panel), panel, Span(np.array([20, 80]), np.array([50, 90])))
    assert found.until == {"item0": 54 * HOUR, "item1": 34 * HOUR}


def test_a_baseline_whose_long_context_always_has_a_gap_is_calibrated_all_the_same(
    make_panel: MakePanel,
) -> None:
    values = np.random.default_rng(7).normal(size=100)
    values[::9] = np.nan
    panel = make_panel(values)
    model = DayAgo(context=4, horizon=2)
    model.fit(panel, panel.full_span())
    origins = [row for row in range(23, 98) if row % 9]
    error = [values[o + 1] - values[o - 23] for o in origins if (o - 23) % 9 and (o + 1) % 9]
    found = calibrate(model, panel, panel.full_span())
    assert found.n_windows == len(origins)
    assert found.residuals_KHQC[0, 0, ..., 0].min() == pytest.approx(min(error))


def test_of_many_windows_an_evenly_spaced_part_is_taken(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(3).normal(size=MAX_WINDOWS * 2))
    found = calibrate(last_value(panel), panel, panel.full_span())
    assert found.n_windows == MAX_WINDOWS
    spread = 1.2816 * np.sqrt(2)
    np.testing.assert_allclose(found.residuals_KHQC[0, :, 7, 0], spread, atol=0.04)


def test_residuals_of_earlier_fits_are_pooled(make_panel: MakePanel) -> None:
    values = np.random.default_rng(4).normal(size=300)
    values[200:] *= 0.01
    panel = make_panel(values)
    model, quiet = last_value(panel), Span(np.array([200]), np.array([300]))
    earlier = [(last_value(panel), Span(np.array([100]), np.array([200])))]
    pooled = calibrate(model, panel, quiet, earlier=earlier)
    assert pooled.n_windows == 99 + 99
    assert pooled.residuals_KHQC[0, 0, 7, 0] > 10 * calibrate(model, panel, quiet).residuals_KHQC[0, 0, 7, 0]
    assert pooled.until == {"item0": 299 * HOUR}


def test_a_quiet_tail_does_not_make_a_model_sure_of_itself(make_panel: MakePanel) -> None:
    """The validation rows were quieter than all before: the errors of earlier fits keep the intervals honest."""
    values = np.random.default_rng(5).normal(size=1000)
    values[560:700] *= 0.01
    panel = make_panel(values)
    whole, test = panel.full_span().cut_tail("0.3")
    train, validation = whole.cut_tail("0.2")
    width = []
    for given in (True, False):
        data = Dataset(
            panel=panel, train=train, validation=validation, test=test, validation_given=given, source={}
        )
        calibration = fit_model("recent-mean", data, context=12, horizon=3).model.calibration
        assert calibration is not None
        assert calibration.until == {"item0": 699 * HOUR}
        width.append(calibration.residuals_KHQC[0, 0, 7, 0] - calibration.residuals_KHQC[0, 0, 3, 0])
    assert width[0] < 0.5
    assert width[1] > 1.5


def test_too_few_rows_for_earlier_fits_are_no_error(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(6).gamma(2, 20, 46))
    whole, test = panel.full_span().cut_tail("0.3")
    train, validation = whole.cut_tail("0.2")
    data = Dataset(
        panel=panel, train=train, validation=validation, test=test, validation_given=False, source={}
    )
    calibration = fit_model("dlinear", data, context=12, horizon=3).model.calibration
    assert calibration is not None
    assert calibration.n_windows >= 4


def test_a_span_without_a_window_is_refused(make_panel: MakePanel) -> None:
    panel = make_panel(np.full(50, np.nan))
    with pytest.raises(DataError, match="none of the 20 validation rows"):
        calibrate(last_value(panel), panel, Span(np.array([30]), np.array([50])))


def test_as_many_windows_at_once_as_memory_allows() -> None:
    assert chunk_size(120, 3, 3) > chunk_size(120, 96, 3) > chunk_size(120, 96, 30) >= 1
    assert chunk_size(10**9, 3, 3) == 1


def test_auto_and_the_baselines_shorten_a_context_that_the_rows_have_no_room_for(
    make_panel: MakePanel,
) -> None:
    """An hour of minutes, and the default context of 120 rows; a model that was asked for by name refuses."""
    panel = make_panel(np.random.default_rng(1).poisson(50, 60), kinds="c")
    train, validation, test = panel.full_span().cut(["0.6", "0.1", "0.3"])
    data = Dataset(
        panel=panel, train=train, validation=validation, test=test, validation_given=False, source={}
    )
    fits = {name: fit_model(name, data, context=120, horizon=1) for name in ("auto", "ses", "last-value")}
    assert {name: fit.model.context for name, fit in fits.items()} == dict.fromkeys(fits, 12)
    told = "The 36 training rows hold too few windows of 120 rows: auto reads the last 12."
    assert told in fits["auto"].report.notes
    assert not fits["last-value"].report.notes
    assert fit_model("auto", data, context=15, horizon=1).model.context == 15
    assert fit_model("auto", data, context=17, horizon=1).model.context == 12
    for name in ("linear", "dlinear"):
        with pytest.raises(DataError, match="hold no window of 120"):
            fit_model(name, data, context=120, horizon=1)


def test_means_stay_at_the_points_of_a_handful_of_windows(make_panel: MakePanel) -> None:
    """Points are 5 too low: 19 windows cannot say so, 20 can."""
    for rows, corrected in ((19, False), (20, True)):
        panel = make_panel(5.0 * np.arange(60), kinds="g")
        model = last_value(panel, context=2, horizon=1)
        span = Span(np.array([60 - rows]), np.array([60]))
        calibration = calibrate(model, panel, span)
        assert calibration.n_windows == rows
        assert (calibration.bias_KHC[..., 0] == (5 if corrected else 0)).all()
        assert calibration.weight_C.any() == corrected
