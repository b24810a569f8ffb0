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
from presurge.models.conformal import Calibration
from presurge.models.following import BLOCK, Tracks
from presurge.models.forecaster import Forecaster, Prediction
from presurge.models.linear.linear import Linear
from presurge.models.naive import LastValue, RecentMean
from presurge.models.tracking import IntervalTracker
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


def fixed(calibration: Calibration) -> Calibration:
    """The calibration as it was measured, whatever errors follow."""
    nothing = {name: 0 * getattr(calibration, name) for name in ("rates_HQC", "weight_C")}
    return replace(calibration, **nothing)


def usable(panel: Panel, span: Span, stride: int = 1) -> IntArray:
    origins = window_origins(panel, span, context=CONTEXT, horizon=HORIZON, stride=stride)
    return origins[complete(panel, origins, before=CONTEXT, after=0).all(axis=1)]


SHARES = np.linspace(0.6, 1.5, len(LEVELS), dtype=np.float32)


class Learned(LastValue):
    """Quantiles of its own: shares of the last value."""

    def predict(self, batch: WindowBatch) -> Prediction:
        point_BHC = super().predict(batch).point_BHC
        return Prediction(point_BHC, np.sort(point_BHC[:, :, None] * SHARES[:, None], axis=2))


def plain(
    model: Forecaster, panel: Panel, origin: int, *, peak: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles [H, Q, C] and means [H, C] at one origin, error by error in Python; of the last value."""
    calibration, channels = model.calibration, len(panel.channels)
    assert calibration is not None
    item = int(np.searchsorted(panel.indptr, origin, side="right")) - 1
    group = int(calibration.groups_of([panel.items[item]])[0])
    begin, start = int(panel.indptr[item]), int(panel.start[item])
    number = start // panel.step + origin - begin
    earliest = origin - number % BLOCK - BLOCK
    quantiles_HQC, means_HC = np.zeros((HORIZON, len(LEVELS), channels)), np.zeros((HORIZON, channels))
    for h in range(1, HORIZON + 1):
        for c in range(channels):
            scale = np.sqrt if calibration.count_C[c] else np.float32
            at = h - 1, slice(None), c + peak * channels
            quantiles = calibration.residuals_KHQC[group][at].astype(np.float64)
            bias = float(calibration.bias_KHC[group, h - 1, at[2]])
            sizes: list[float] = []

            def centres(row: int, c: int = c) -> np.ndarray:
                value = panel.values[row, c]
                return np.sort(value * SHARES) if isinstance(model, Learned) else np.full(len(LEVELS), value)

            for target in range(max(begin, earliest), origin + 1):
                made = target - h
                late = start + (target - begin) * panel.step > calibration.until.get(panel.items[item], -1)
                if not late or made < begin + CONTEXT - 1:
                    continue
                actual = (
                    panel.values[target - h + 1 : target + 1, c].max() if peak else panel.values[target, c]
                )
                if np.isnan(panel.values[made - CONTEXT + 1 : made + 1]).any() or np.isnan(actual):
                    continue
                sizes.append(abs(float(scale(actual) - scale(panel.values[made, c]))))
                gain = calibration.rates_HQC[at] * max(quantiles[7] - quantiles[3], np.mean(sizes))
                error_Q = scale(actual) - scale(centres(made))
                quantiles = quantiles + gain * (LEVELS - (error_Q < quantiles))
                bias += calibration.weight_C[at[2]] * (actual - panel.values[made, c] - bias)
            bounds = quantiles + scale(centres(origin))
            outer, inner = np.sort(bounds[[0, 1, 2, 3, 7, 8, 9, 10]]), np.sort(bounds[4:7])
            bounds = np.concatenate((outer[:4], inner.clip(outer[3], outer[4]), outer[4:]))
            count = calibration.count_C[c]
            quantiles_HQC[h - 1, :, c] = np.maximum(bounds, 0) ** 2 if count else bounds
            means_HC[h - 1, c] = max(panel.values[origin, c] + bias, 0 if count else -np.inf)
    return quantiles_HQC, means_HC


@pytest.fixture
def walk(make_panel: MakePanel) -> Panel:
    """Two items of 1,700 and 300 rows, a count and a gauge, with a few holes."""
    rng = np.random.default_rng(0)
    count = rng.negative_binomial(2, 0.05, 2000) * np.repeat([1, 4], [1000, 1000])
    values = np.stack([count, rng.normal(size=2000).cumsum()], 1)
    values[[700, 1500], [0, 1]] = np.nan
    return make_panel(values, kinds="cg", lengths=(1700, 300))


@pytest.mark.parametrize("kind", [LastValue, Learned])
def test_quantiles_means_and_peaks_are_those_of_a_plain_loop(walk: Panel, kind: type[Forecaster]) -> None:
    train, validation, test = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(kind(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    assert model.calibration is not None
    weight_C = np.array([0.02, 0.0, 0.01, 0.03], np.float32)
    model.calibration = replace(model.calibration, weight_C=weight_C)
    tracker = IntervalTracker(model, walk, peaks=True)
    origins = usable(walk, test, stride=97)
    found = [tracker.predict(part) for part in chunks(origins, 5)]
    own, tops = ([plain(model, walk, int(o), peak=peak) for o in origins] for peak in (False, True))
    for b, made in enumerate(
        every for part in found for every in zip(*part[:3], *part.peak[:3], strict=True)
    ):  # type: ignore[index]
        mean, median, quantiles, top, top_median, top_quantiles = made
        np.testing.assert_allclose(quantiles, own[b][0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(mean, own[b][1], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(median, quantiles[:, 5])
        joint = np.maximum.accumulate(np.maximum(tops[b][0], own[b][0]))
        np.testing.assert_allclose(top_quantiles, joint, rtol=1e-4, atol=1e-4)
        edges = np.array([0, *(LEVELS[1:] + LEVELS[:-1]) / 2, 1])
        lone, both = (np.einsum("q,hqc->hc", np.diff(edges), q) for q in (own[b][0], joint))
        lone, highest = np.maximum.accumulate(lone), np.maximum.accumulate(own[b][1])
        expected = [highest[:, 0] * both[:, 0] / lone[:, 0], highest[:, 1] + both[:, 1] - lone[:, 1]]
        highest = np.maximum.accumulate(np.maximum(np.stack(expected, 1), highest))
        np.testing.assert_allclose(top, highest, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(top_median, top_quantiles[:, 5])


@settings(max_examples=20)
@given(stride=st.integers(1, 40), size=st.integers(20, 300))
def test_neither_stride_nor_chunks_change_the_intervals_of_an_origin(stride: int, size: int) -> None:
    panel = noise(1200)
    train, validation, test = spans(panel, "0.2", "0.2", "0.6")
    model = calibrated(RecentMean(context=CONTEXT, horizon=HORIZON), panel, train, validation)
    every, some = usable(panel, test), usable(panel, test, stride)
    whole = IntervalTracker(model, panel).predict(every)
    tracker = IntervalTracker(model, panel)
    parts = [tracker.predict(part) for part in chunks(some, size)]
    quantiles = np.concatenate([part.quantiles_BHQC for part in parts])
    np.testing.assert_array_equal(quantiles, whole.quantiles_BHQC[np.isin(every, some)])


def noise(rows: int) -> Panel:
    values = np.random.default_rng(1).normal(10, 2, (rows, 1)).astype(np.float32)
    return Panel(values=values, channels=(Channel("x"),), step=HOUR, start=np.zeros(1, np.int64))


def test_tracks_in_pieces_give_the_same(walk: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation, test = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    origins = usable(walk, test)
    whole = IntervalTracker(model, walk).predict(origins)
    monkeypatch.setattr("presurge.models.tracking._VALUES_AT_ONCE", 1)
    pieces = IntervalTracker(model, walk).predict(origins)
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
    zeros = np.zeros((10, 24, 60), np.float32)
    model.calibration = Calibration.measure(zeros, zeros, np.zeros(60, np.bool_))
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
    model.calibration = fixed(model.calibration)
    assert told(0, 3000) == "as calibrated in training"
    model.calibration = None
    assert told(0, 3000) == "none: the model was never calibrated"


def test_the_context_alone_gives_the_quantiles_of_the_calibration(walk: Panel) -> None:
    train, validation, _ = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    ends = walk.full_span().last
    made = model.forecast(walk.take(Span(ends - CONTEXT, ends)))
    assert model.calibration is not None
    last = walk.values[ends - 1][:, None, None].repeat(HORIZON, 1)
    fixed = model.calibration.first_channels(2)
    group = fixed.groups_of(walk.items)
    np.testing.assert_array_equal(made.quantiles, fixed.quantiles(last, fixed.residuals_KHQC[group]))
    np.testing.assert_array_equal(made.mean, fixed.means(last[:, :, 0], fixed.bias_KHC[group]))


def test_nothing_of_the_future_is_known(walk: Panel) -> None:
    train, validation, test = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    origins = usable(walk, Span(test.first, np.array([1200, walk.indptr[1]])))
    now = int(origins[-1])
    changed = walk.values.copy()
    changed[now + 1 :] = 99
    before = IntervalTracker(model, walk).predict(origins)
    after = IntervalTracker(model, walk.replace(values=changed)).predict(origins)
    np.testing.assert_array_equal(before.quantiles_BHQC, after.quantiles_BHQC)  # type: ignore[arg-type]
    # and the last known row counts
    changed = walk.values.copy()
    changed[now] += 1000
    other = IntervalTracker(model, walk.replace(values=changed)).predict(origins[-1:])
    width = [
        found[..., -1, :] - found[..., 0, :] for found in (before.quantiles_BHQC[-1], other.quantiles_BHQC[0])
    ]
    assert (width[1] != width[0]).any()


def coverage(model: Forecaster, panel: Panel, span: Span) -> float:
    found = evaluate([model], panel, span, train=panel.full_span())
    return float(found.averages()["c0"][model.name]["coverage_80"])


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
    model.calibration = fixed(model.calibration)
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
    model.calibration = fixed(model.calibration)
    assert abs(coverage(model, panel, settled) - 0.8) > 0.19


def test_after_a_quiet_validation_part_the_intervals_open(make_panel: MakePanel) -> None:
    values = np.concatenate([np.zeros(1000), np.random.default_rng(6).poisson(3, 1500)])
    panel = make_panel(values, kinds="c")
    train, validation, test = spans(panel, "0.3", "0.1", "0.6")
    model = calibrated(RecentMean(context=10, horizon=HORIZON), panel, train, validation)
    assert model.calibration is not None
    assert not model.calibration.residuals_KHQC.any()
    assert coverage(model, panel, Span(test.first + 300, test.last)) > 0.75


def test_quantiles_never_cross_and_counts_are_never_negative(walk: Panel) -> None:
    train, validation, test = spans(walk, "0.2", "0.1", "0.7")
    model = calibrated(LastValue(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    quantiles = IntervalTracker(model, walk).predict(usable(walk, test)).quantiles_BHQC
    assert quantiles is not None
    assert (np.diff(quantiles, axis=2) >= 0).all()
    assert (quantiles[..., 0] >= 0).all()


def test_errors_that_are_unknown_move_nothing() -> None:
    none = np.zeros((0, 1, 1), np.float32)
    base = np.array([-1.0, 0.0, 1.0], np.float32)[None, None, :, None]
    still = Calibration.measure(none, none, np.array([False]), (0.1, 0.5, 0.9))
    fast = replace(still, residuals_KHQC=base, rates_HQC=np.full((1, 3, 1), 0.1), weight_C=np.array([0.2]))
    actual = np.array([np.nan, 5.0, np.nan, np.nan], np.float32)[:, None, None]
    tracks = Tracks.begin(fast, np.zeros((), np.int64)).follow(
        actual, np.zeros((4, 1, 1, 1), np.float32), fast
    )
    found = [(after.quantiles_XHQC[0, :, 0].copy(), float(after.bias_XHC[0, 0])) for after in tracks]
    np.testing.assert_array_equal(found[0][0], base[0, 0, :, 0])
    np.testing.assert_allclose(found[1][0], [-1 + 0.05, 0.25, 1 + 0.45], rtol=1e-6)
    assert [bias for _, bias in found] == pytest.approx([0, 1, 1, 1])
    np.testing.assert_array_equal([found[2][0], found[3][0]], [found[1][0]] * 2)


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


@pytest.mark.parametrize("kind", [LastValue, Learned])
def test_observing_row_by_row_gives_the_forecasts_of_the_whole_history(
    long: Panel, kind: type[Forecaster]
) -> None:
    train, validation, _ = spans(long, "0.2", "0.1", "0.7")
    model = calibrated(kind(context=CONTEXT, horizon=HORIZON), long, train, validation)
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
    batch = IntervalTracker(model, panel, peaks=True).predict(origins)
    place = {int(origin): b for b, origin in enumerate(origins)}
    head = panel.take(Span(panel.indptr[:-1], last - rows))
    tracker, compared = IntervalTracker(model, head, peaks=True), 0
    for row in range(rows):
        if row == rows // 2:
            stored = {
                name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape)
                for name, a in tracker.state().items()
            }
            short = head.take(Span(head.indptr[:-1], head.indptr[:-1] + 1))
            tracker = IntervalTracker(model, short, peaks=True)
            tracker.restore(stored)
        now = last - rows + row
        found = tracker.observe(panel.values[now], times_I=panel.times_of(now))
        for item, origin in enumerate(now):
            if (b := place.get(int(origin))) is None:
                continue
            compared += 1
            for ours, theirs in ((found, batch), (found.peak, batch.peak)):
                assert (ours is None) == (theirs is None)
                for one, other in zip((ours or ())[:4], (theirs or ())[:4], strict=True):
                    assert (one is None) == (other is None)
                    if one is not None and other is not None:
                        np.testing.assert_array_equal(one[item], other[b])
    assert compared == len(origins)


def test_an_item_too_short_for_a_forecast_stands_beside_one_with_learned_quantiles(
    make_panel: MakePanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = make_panel(np.random.default_rng(10).gamma(2, 9, 602), lengths=(2, 600))
    train, validation, _ = spans(panel, "0.3", "0.2", "0.5")
    model = calibrated(Learned(context=CONTEXT, horizon=HORIZON), panel, train, validation)
    row, found = panel.values[panel.indptr[1:] - 1], []
    for values_at_once in (1 << 21, 1):
        monkeypatch.setattr("presurge.models.tracking._VALUES_AT_ONCE", values_at_once)
        found.append(IntervalTracker(model, panel).observe(row).quantiles_BHQC)
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0][1]).all()


def test_a_row_is_observed_in_constant_time(walk: Panel) -> None:
    """One call of the model for a row, with one window an item, however long the history."""
    train, validation, _ = spans(walk, "0.2", "0.1", "0.7")
    asked: list[int] = []

    class Asked(LastValue):
        def predict(self, batch: WindowBatch) -> Prediction:
            asked.append(len(batch.origin_B))
            return super().predict(batch)

    model = calibrated(Asked(context=CONTEXT, horizon=HORIZON), walk, train, validation)
    tracker = IntervalTracker(model, walk)
    tracker.observe(walk.values[-2:])
    asked.clear()
    sizes = {sum(array.nbytes for array in tracker.state().values())}
    for _ in range(1100):
        tracker.observe(walk.values[-2:])
        sizes.add(sum(array.nbytes for array in tracker.state().values()))
    assert asked == [2] * 1100
    assert len(sizes) == 1
