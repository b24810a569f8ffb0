"""Intervals that follow the errors: against a plain loop, without a look ahead, and back in place after a shift."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presurge.evaluation.backtest import evaluate
from presurge.evaluation.fit import calibrate
from presurge.evaluation.walk import rolling_forecast
from presurge.models.conformal import Calibration, Tracks
from presurge.models.forecaster import Forecaster, Prediction
from presurge.models.linear.linear import Linear
from presurge.models.naive import LastValue, RecentMean
from presurge.models.tracking import BLOCK, IntervalTracker
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.frequency import HOUR
from presurge.series.panel import Channel, IntArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, chunks, complete, window_origins

MakePanel = Callable[..., Panel]
CONTEXT, HORIZON = 4, 3
LEVELS = np.array(QUANTILE_LEVELS)


def spans(panel: Panel, *cuts: str) -> tuple[Span, ...]:
    return panel.full_span().cut(cuts)


def calibrated(model: Forecaster, panel: Panel, train: Span, validation: Span) -> Forecaster:
    model.fit(panel, train)
    model.calibration = calibrate(model, panel, validation)
    return model


def usable(panel: Panel, span: Span, stride: int = 1) -> IntArray:
    origins = window_origins(panel, span, context=CONTEXT, horizon=HORIZON, stride=stride)
    return origins[complete(panel, origins, before=CONTEXT, after=0).all(axis=1)]


def plain_quantiles(model: Forecaster, panel: Panel, origin: int) -> np.ndarray:
    """What the intervals at one origin have to be, error by error in Python: [H, Q, C]; for ``LastValue``."""
    calibration = model.calibration
    assert calibration is not None
    item = int(np.searchsorted(panel.indptr, origin, side="right")) - 1
    begin, start = int(panel.indptr[item]), int(panel.start[item])
    number = start // panel.step + origin - begin
    earliest = origin - number % BLOCK - BLOCK
    root = [np.sqrt if count else np.float64 for count in calibration.count_C]
    result = np.zeros((HORIZON, len(LEVELS), len(root)))
    for h in range(1, HORIZON + 1):
        for c, scale in enumerate(root):
            quantiles = calibration.residuals_HQC[h - 1, :, c].astype(np.float64)
            sizes: list[float] = []
            for target in range(max(begin, earliest), origin + 1):
                made = target - h
                late = start + (target - begin) * panel.step > calibration.until.get(panel.items[item], -1)
                if not late or made < begin + CONTEXT - 1:
                    continue
                if np.isnan(panel.values[made - CONTEXT + 1 : made + 1]).any() or np.isnan(
                    panel.values[target, c]
                ):
                    continue
                error = np.float32(scale(panel.values[target, c])) - np.float32(scale(panel.values[made, c]))
                sizes.append(abs(float(error)))
                gain = calibration.rate * max(quantiles[7] - quantiles[3], np.mean(sizes))
                quantiles = quantiles + gain * (LEVELS - (error < quantiles))
            centre = scale(panel.values[origin, c])
            bounds = np.sort(quantiles) + centre
            result[h - 1, :, c] = np.maximum(bounds, 0) ** 2 if calibration.count_C[c] else bounds
    return result


@pytest.fixture
def walk(make_panel: MakePanel) -> Panel:
    """Two items of 1,700 and 300 rows, a count and a gauge, with a few holes."""
    rng = np.random.default_rng(0)
    count = rng.negative_binomial(2, 0.05, 2000) * np.repeat([1, 4], [1000, 1000])
    values = np.stack([count, rng.normal(size=2000).cumsum()], 1)
    values[[700, 1500], [0, 1]] = np.nan
    return make_panel(values, kinds="cg", lengths=(1700, 300))


def test_the_quantiles_are_those_of_a_plain_loop(walk: Panel) -> None:
    train, validation, test = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    tracker = IntervalTracker.of(model, walk)
    origins = usable(walk, test, stride=61)
    found = [tracker.predict(part) for part in chunks(origins, 5)]
    quantiles = np.concatenate([part.quantiles_BHQC for part in found if part.quantiles_BHQC is not None])
    expected = np.stack([plain_quantiles(model, walk, int(origin)) for origin in origins])
    np.testing.assert_allclose(quantiles, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=20)
@given(stride=st.integers(1, 40), size=st.integers(20, 300))
def test_neither_stride_nor_chunks_change_the_intervals_of_an_origin(stride: int, size: int) -> None:
    panel = noise(1200)
    train, validation, test = spans(panel, "0.2", "0.2", "0.6")
    model = calibrated(RecentMean(context=CONTEXT, horizon=HORIZON), panel, train, validation)
    every, some = usable(panel, test), usable(panel, test, stride)
    whole = IntervalTracker.of(model, panel).predict(every)
    tracker = IntervalTracker.of(model, panel)
    parts = [tracker.predict(part) for part in chunks(some, size)]
    assert whole.quantiles_BHQC is not None
    quantiles = np.concatenate([part.quantiles_BHQC for part in parts if part.quantiles_BHQC is not None])
    np.testing.assert_array_equal(quantiles, whole.quantiles_BHQC[np.isin(every, some)])


def noise(rows: int) -> Panel:
    values = np.random.default_rng(1).normal(10, 2, (rows, 1)).astype(np.float32)
    return Panel(values=values, channels=(Channel("x"),), step=HOUR, start=np.zeros(1, np.int64))


def test_tracks_in_pieces_give_the_same(walk: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation, test = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    origins = usable(walk, test)
    whole = IntervalTracker.of(model, walk).predict(origins)
    monkeypatch.setattr("presurge.models.tracking._VALUES_AT_ONCE", 1)
    pieces = IntervalTracker.of(model, walk).predict(origins)
    np.testing.assert_array_equal(pieces.quantiles_BHQC, whole.quantiles_BHQC)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pieces.followed_B, whole.followed_B)
    one_by_one = model.forecast(walk)
    monkeypatch.undo()
    np.testing.assert_array_equal(one_by_one.quantiles, model.forecast(walk).quantiles)


def test_memory_does_not_grow_with_the_rows_of_a_wide_track(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(9).normal(size=(2 * BLOCK + 100, 60)).astype(np.float32)
    channels = tuple(Channel(f"c{c}") for c in range(60))
    panel = Panel(values=values, channels=channels, step=HOUR, start=np.zeros(1, np.int64))
    model = LastValue(context=CONTEXT, horizon=24)
    model.fit(panel, panel.full_span())
    model.calibration = Calibration(
        np.zeros((24, len(LEVELS), 60), np.float32), tuple(LEVELS), np.zeros(60, np.bool_), 10
    )
    forecasts = values.nbytes * 24
    monkeypatch.setattr("presurge.models.tracking._VALUES_AT_ONCE", 1 << 14)
    tracemalloc.start()
    model.forecast(panel)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 3 * forecasts


def test_a_forecast_has_the_intervals_that_a_backtest_has_at_its_origin(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(2)
    panel = make_panel(rng.poisson(30 + 20 * np.sin(np.arange(3000) / 9)), kinds="c")
    train, validation, test = spans(panel, "0.3", "0.1", "0.6")
    model = calibrated(Linear(context=CONTEXT, horizon=HORIZON), panel, train, validation)
    rolled = rolling_forecast(model, panel, test, lead=2)
    for row in (1201, 1202, 1300, 1777, 2500, 2999):
        end = row - 1  # the forecast two steps ahead of the row knows the rows before this one
        for begin in (0, max(0, end - 2 * BLOCK - CONTEXT - HORIZON)):
            history = panel.take(Span(np.array([begin]), np.array([end])))
            made = model.forecast(history)
            np.testing.assert_allclose(
                made.quantiles[0, 1, :, 0], rolled.quantiles_NQC[row - 1200, :, 0], rtol=1e-5
            )


def test_a_forecast_says_what_its_intervals_follow(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(3).normal(size=3000))
    train, validation, _ = spans(panel, "0.3", "0.1", "0.6")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), panel, train, validation)

    def told(begin: int, end: int) -> str:
        return model.forecast(panel.take(Span(np.array([begin]), np.array([end])))).intervals

    assert told(3000 - CONTEXT, 3000) == told(0, 1200) == "as calibrated in training"
    assert told(0, 1201) == "calibrated in training, then following the errors of the last 1 rows"
    assert "the last 50 rows" in told(1300 - CONTEXT - 50, 1300)
    assert "the last 1,000 rows" in told(0, 3000)
    assert "the last 501 rows" in told(0, 2501)
    assert model.calibration is not None
    model.calibration = replace(model.calibration, rate=0)
    assert told(0, 3000) == "as calibrated in training"
    model.calibration = None
    assert told(0, 3000) == "none: the model was never calibrated"


def test_the_context_alone_gives_the_quantiles_of_the_calibration(walk: Panel) -> None:
    train, validation, _ = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    ends = walk.full_span().last
    made = model.forecast(walk.take(Span(ends - CONTEXT, ends)))
    assert model.calibration is not None
    np.testing.assert_array_equal(made.quantiles, model.calibration.quantiles(made.mean))


def test_nothing_of_the_future_is_known(walk: Panel) -> None:
    train, validation, test = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    origins = usable(walk, Span(test.first, np.array([1200, walk.indptr[1]])))
    now = int(origins[-1])
    changed = walk.values.copy()
    changed[now + 1 :] = 99
    before = IntervalTracker.of(model, walk).predict(origins)
    after = IntervalTracker.of(model, walk.replace(values=changed)).predict(origins)
    np.testing.assert_array_equal(before.quantiles_BHQC, after.quantiles_BHQC)  # type: ignore[arg-type]
    # and the last known row counts
    changed = walk.values.copy()
    changed[now] += 1000
    other = IntervalTracker.of(model, walk.replace(values=changed)).predict(origins[-1:])
    assert other.quantiles_BHQC is not None
    assert before.quantiles_BHQC is not None
    width = [
        found[..., -1, :] - found[..., 0, :] for found in (before.quantiles_BHQC[-1], other.quantiles_BHQC[0])
    ]
    assert (width[1] != width[0]).any()


def coverage(model: Forecaster, panel: Panel, span: Span) -> float:
    found = evaluate([model], panel, span, train=panel.full_span())
    return float(found.table()[0].values["coverage_80"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("arrivals", ["poisson", "negative binomial"])
def test_on_stationary_counts_80_percent_intervals_cover_75_to_85(
    seed: int, arrivals: str, make_panel: MakePanel
) -> None:
    """A log rate that wanders as an autoregression, and counts around it."""
    rng = np.random.default_rng(seed)
    log_rate = np.zeros(4000)
    for t in range(1, len(log_rate)):
        log_rate[t] = 0.9 * log_rate[t - 1] + rng.normal(scale=0.15)
    rate = 20 * np.exp(log_rate)
    counts = rng.poisson(rate if arrivals == "poisson" else rate * rng.gamma(3, 1 / 3, len(rate)))
    panel = make_panel(counts, kinds="c")
    train, validation, test = spans(panel, "0.5", "0.2", "0.3")
    model = calibrated(Linear(context=12, horizon=HORIZON), panel, train, validation)
    assert 0.75 <= coverage(model, panel, test) <= 0.85
    assert model.calibration is not None
    model.calibration = replace(model.calibration, rate=0)
    assert 0.75 <= coverage(model, panel, test) <= 0.85


@pytest.mark.parametrize("factor", [0.1, 20])
def test_after_a_change_of_scale_the_intervals_recover_and_fixed_ones_do_not(
    factor: float, make_panel: MakePanel
) -> None:
    noise = np.random.default_rng(5).normal(size=3000)
    noise[1500:] *= factor
    panel = make_panel(noise)
    train, validation, test = spans(panel, "0.3", "0.2", "0.5")
    model = calibrated(RecentMean(context=10, horizon=HORIZON), panel, train, validation)
    settled = Span(test.first + 500, test.last)
    assert 0.75 <= coverage(model, panel, settled) <= 0.85
    assert model.calibration is not None
    model.calibration = replace(model.calibration, rate=0)
    assert abs(coverage(model, panel, settled) - 0.8) > 0.19


def test_after_a_quiet_validation_part_the_intervals_open(make_panel: MakePanel) -> None:
    values = np.concatenate([np.zeros(1000), np.random.default_rng(6).poisson(3, 1500)])
    panel = make_panel(values, kinds="c")
    train, validation, test = spans(panel, "0.3", "0.1", "0.6")
    model = calibrated(RecentMean(context=10, horizon=HORIZON), panel, train, validation)
    assert model.calibration is not None
    assert not model.calibration.residuals_HQC.any()
    assert coverage(model, panel, Span(test.first + 300, test.last)) > 0.75


def test_quantiles_never_cross_and_counts_are_never_negative(walk: Panel) -> None:
    train, validation, test = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    quantiles = IntervalTracker.of(model, walk).predict(usable(walk, test)).quantiles_BHQC
    assert quantiles is not None
    assert (np.diff(quantiles, axis=2) >= 0).all()
    assert (quantiles[..., 0] >= 0).all()


def test_errors_that_are_unknown_move_nothing() -> None:
    base = np.array([-1.0, 0.0, 1.0], np.float32)[None, :, None]
    errors = np.array([np.nan, 5.0, np.nan, np.nan], np.float32)[None, :, None, None]
    after = Tracks.begin(base).follow(errors[0], (0.1, 0.5, 0.9), 0.1)
    found = np.array([tracks.quantiles_XHQC[0, :, 0].copy() for tracks in after], np.float32)
    np.testing.assert_array_equal(found[0], base[0, :, 0])
    np.testing.assert_allclose(found[1], [-1 + 0.05, 0.25, 1 + 0.45], rtol=1e-6)
    np.testing.assert_array_equal(found[2:], found[[1, 1]])


def test_a_model_that_learned_its_quantiles_keeps_them(make_panel: MakePanel) -> None:
    class Learned(LastValue):
        def predict(self, batch: object) -> Prediction:
            mean = super().predict(batch).point_BHC  # type: ignore[arg-type]
            return Prediction(mean, np.stack([mean - 1, mean + 1], axis=2))

    panel = make_panel(np.arange(100.0))
    model = Learned(context=CONTEXT, horizon=HORIZON)
    model.fit(panel, panel.full_span())
    model.calibration = Calibration(np.zeros((HORIZON, 2, 1), np.float32), (0.1, 0.9), np.array([False]), 10)
    np.testing.assert_array_equal(model.forecast(panel).quantiles[0, :, :, 0], [[98, 100]] * HORIZON)


@pytest.fixture(params=["regular", "sessions"])
def long(request: pytest.FixtureRequest, make_panel: MakePanel) -> Panel:
    """Two items of 2,300 and 1,900 rows that begin at different times, with a few holes; perhaps with nights left out."""
    rng = np.random.default_rng(8)
    count = rng.negative_binomial(2, 0.05, 4200) * np.repeat([1, 4, 2], [1000, 1500, 1700])
    values = np.stack([count, rng.normal(size=4200).cumsum()], 1)
    values[rng.integers(0, 4200, 12), rng.integers(0, 2, 12)] = np.nan
    panel = make_panel(values, kinds="cg", lengths=(2300, 1900))
    panel = replace(panel, start=np.array([40 * HOUR, 1234 * HOUR]))
    if request.param == "regular":
        return panel
    row = np.concatenate([np.arange(2300), np.arange(1900)])
    night = row // 7 * 17 + row // 900 * 2000  # 17 hours after every seventh bar, and two long breaks
    return replace(panel, stamps=panel.times() + night * HOUR)


def test_observing_row_by_row_gives_the_intervals_of_the_whole_history(long: Panel) -> None:
    train, validation, _ = spans(long, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), long, train, validation)
    follow_rows(model, long, rows=1250)


def test_observing_goes_on_from_any_row(walk: Panel) -> None:
    """Also from histories that end before the calibration does, or are shorter than the context."""
    train, validation, _ = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    for rows in (1, 30, 250, 297):
        follow_rows(model, walk, rows=rows)
    model.calibration = None
    follow_rows(model, walk, rows=5)


def follow_rows(model: Forecaster, panel: Panel, *, rows: int) -> None:
    """Observe the last rows of every item; in the middle the state is written down and taken up by a new tracker."""
    last = panel.indptr[1:]
    origins = usable(panel, Span(last - rows + 1, last + HORIZON)) if rows > 1 else last - 1
    origins = origins[complete(panel, origins, before=CONTEXT, after=0).all(axis=1)]
    batch = IntervalTracker.of(model, panel).predict(origins)
    place = {int(origin): b for b, origin in enumerate(origins)}
    head = panel.take(Span(panel.indptr[:-1], last - rows))
    tracker, compared = IntervalTracker.of(model, head), 0
    for row in range(rows):
        if row == rows // 2:
            stored = {
                name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape)
                for name, a in tracker.state().items()
            }
            tracker = IntervalTracker.of(model, head.take(Span(head.indptr[:-1], head.indptr[:-1] + 1)))
            tracker.restore(stored)
        now = last - rows + row
        found = tracker.observe(panel.values[now], times_I=panel.times_of(now))
        for item, origin in enumerate(now):
            if (b := place.get(int(origin))) is None:
                continue
            compared += 1
            np.testing.assert_array_equal(found.mean_BHC[item], batch.mean_BHC[b])
            np.testing.assert_array_equal(found.median_BHC[item], batch.median_BHC[b])
            assert found.followed_B[item] == batch.followed_B[b]
            if found.quantiles_BHQC is None or batch.quantiles_BHQC is None:
                assert found.quantiles_BHQC is batch.quantiles_BHQC
            else:
                np.testing.assert_array_equal(found.quantiles_BHQC[item], batch.quantiles_BHQC[b])
    assert compared == len(origins)


def test_a_row_is_observed_in_constant_time(walk: Panel) -> None:
    """One call of the model for a row, with one window an item, however long the history."""
    train, validation, _ = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    asked: list[int] = []

    def predict(batch: WindowBatch) -> Prediction:
        asked.append(len(batch.origin_B))
        return model.predict(batch)

    tracker = IntervalTracker(predict, walk, model.calibration, context=CONTEXT, horizon=HORIZON)
    tracker.observe(walk.values[-2:])
    asked.clear()
    sizes = {sum(array.nbytes for array in tracker.state().values())}
    for _ in range(1100):
        tracker.observe(walk.values[-2:])
        sizes.add(sum(array.nbytes for array in tracker.state().values()))
    assert asked == [2] * 1100
    assert len(sizes) == 1
