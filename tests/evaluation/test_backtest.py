"""Rolling origin: the same windows for every model, all of them counted, the numbers those of a plain loop."""

import json
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from presurge.errors import ConfigError, HistoryError
from presurge.evaluation.backtest import evaluate, without_room
from presurge.evaluation.fit import calibrate
from presurge.evaluation.metrics import ITEM_METRICS
from presurge.evaluation.report.tables import best_models, text_items, text_table
from presurge.models.forecaster import Prediction
from presurge.models.linear.linear import Linear
from presurge.models.naive import LastValue, RecentMean, SeasonalNaive, SeasonalNaiveConfig
from presurge.series.dataset import Dataset
from presurge.series.frequency import DAY, HOUR, MINUTE
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch

MakePanel = Callable[..., Panel]
TRAIN, TEST = Span(np.array([0]), np.array([200])), Span(np.array([200]), np.array([300]))


def series(holes: tuple[int, ...] = ()) -> np.ndarray:
    rng = np.random.default_rng(4)
    values = (50 + 10 * np.sin(np.arange(300) / 4) + rng.normal(size=300)).astype(np.float32)
    values[list(holes)] = np.nan
    return values


def models(panel: Panel, *, horizon: int = 3, period: int = 24) -> list[LastValue | SeasonalNaive]:
    season = SeasonalNaive(context=2, horizon=horizon, config=SeasonalNaiveConfig(period=period))
    found = [LastValue(context=5, horizon=horizon), season]
    for model in found:
        model.fit(panel, TRAIN)
    return found


@pytest.mark.parametrize("stride", [1, 7])
def test_the_numbers_are_those_of_a_plain_loop(make_panel: MakePanel, stride: int) -> None:
    values = series()
    panel = make_panel(values)
    found = evaluate(models(panel), panel, TEST, train=TRAIN, stride=stride)
    y = values.astype(np.float64)
    origins = range(199, 297, stride)
    for name, past in (("last-value", lambda o, h: o), ("seasonal-naive", lambda o, h: o + h - 24)):
        wape = [
            sum(abs(y[past(o, h)] - y[o + h]) for o in origins) / sum(abs(y[o + h]) for o in origins)
            for h in (1, 2, 3)
        ]
        np.testing.assert_allclose(found.scores[name]["wape"][:, 0], wape, rtol=1e-6)
        assert found.metrics()[name]["c0"]["wape"] == pytest.approx(np.mean(wape), rel=1e-6)
    assert (found.n_windows, found.n_skipped, found.stride) == (len(origins), 0, stride)
    assert found.first_us == 200 * HOUR
    assert found.last_us == (origins[-1] + 3) * HOUR


def test_a_gap_costs_the_windows_whose_context_some_model_needs_whole(make_panel: MakePanel) -> None:
    panel = make_panel(series(holes=(230,)))
    linear = Linear(context=12, horizon=3)
    linear.fit(panel, TRAIN)
    found = evaluate([linear, *models(panel)], panel, TEST, train=TRAIN)
    assert found.n_skipped == 12  # the origins 230 ... 241; the season of 24 rows passes over the gap
    assert found.n_windows == 98 - 12
    assert found.notes == ("12 of 98 windows were left out: a row of their context is missing.",)
    single = evaluate([linear], panel, Span(np.array([242]), np.array([246])), train=TRAIN)
    assert single.notes == ("1 of 2 windows was left out: a row of its context is missing.",)
    for scores in found.scores.values():
        assert np.isfinite(scores["mae"]).all()
    alone = evaluate(models(panel)[:1], panel, TEST, train=TRAIN)
    assert alone.n_skipped == 5
    # the missing row is the target of three windows, and is left out step by step
    steps = np.array([[o + h for o in range(199, 297) if o not in range(230, 242)] for h in (1, 2, 3)])
    expected = [
        np.nanmean(np.abs(panel.values[s, 0].astype(float) - panel.values[s - h, 0]))
        for h, s in zip((1, 2, 3), steps, strict=True)
    ]
    np.testing.assert_allclose(found.scores["last-value"]["mae"][:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "rows", "missing"),
    [
        (HOUR, 600, {}),
        (HOUR, 242, {"week-ago": "less than 1w lies before the rows that are for validation"}),
        (HOUR, 180, {"week-ago": "less than 1w lies before the rows that are scored"}),
        (7 * MINUTE, 600, {"day-ago": "a whole number of rows of 7m", "week-ago": "less than 1w"}),
        (DAY, 600, {"day-ago": "or a single one"}),
    ],
)
def test_no_baseline_of_an_earlier_time_costs_a_scored_window(
    make_panel: MakePanel, step: int, rows: int, missing: dict[str, str]
) -> None:
    panel = make_panel(np.arange(rows), step=step)
    train, validation, test = panel.full_span().cut([0.6, 0.1, 0.3])
    data = Dataset(
        panel=panel, train=train, validation=validation, test=test, validation_given=False, source={}
    )
    notes = without_room(data, context=5, horizon=3)
    assert set(notes) == set(missing)
    for name, words in missing.items():
        assert notes[name].startswith(f"{name} is not compared: ")
        assert words in notes[name]


def test_contexts_reach_back_before_the_span_but_never_into_another_item(make_panel: MakePanel) -> None:
    panel = make_panel(series(), lengths=(150, 150))
    span = Span(np.array([145, 152]), np.array([150, 300]))
    model = RecentMean(context=10, horizon=3)
    model.fit(panel, span)
    found = evaluate([model], panel, span, train=span)
    assert found.n_windows == 3 + (297 - 159)


def test_the_chunks_do_not_change_the_scores(make_panel: MakePanel, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = make_panel(series())
    linear = Linear(context=5, horizon=3)
    linear.fit(panel, TRAIN)
    linear.calibration = calibrate(linear, panel, TRAIN)
    whole = evaluate([linear, *models(panel)], panel, TEST, train=TRAIN)
    monkeypatch.setattr("presurge.evaluation.walk._VALUES_AT_ONCE", 24 * 11)
    told: list[float] = []
    pieces = evaluate(
        [linear, *models(panel)],
        panel,
        TEST,
        train=TRAIN,
        progress=lambda phase, share, detail="": told.append(share),
    )
    assert len(told) > 5
    assert told[-1] == 1
    for name, scores in whole.scores.items():
        for metric, values in scores.items():
            np.testing.assert_allclose(pieces.scores[name][metric], values, rtol=1e-5, err_msg=metric)


def test_the_best_of_each_column_and_what_is_undefined(make_panel: MakePanel) -> None:
    panel = make_panel(np.stack([series(), np.zeros(300)], 1), kinds="gc")
    found = evaluate(models(panel), panel, TEST, train=TRAIN)
    wape, width = (
        {model: values[metric] for model, values in found.averages()["c0"].items()}
        for metric in ("wape", "width_80")
    )
    assert best_models("wape", wape) == {min(wape, key=wape.__getitem__)}
    assert best_models("width_80", width) == set()
    assert found.metrics()["last-value"]["c1"]["wape"] is None
    assert found.metrics()["last-value"]["c1"]["mae"] == 0
    assert "–" in text_table(found)


def test_the_object_is_json(make_panel: MakePanel) -> None:
    panel = make_panel(series())
    linear = Linear(context=5, horizon=3)
    linear.fit(panel, TRAIN)
    found = evaluate([linear, *models(panel)], panel, TEST, train=TRAIN, fit_seconds={"linear": 0.5})
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(told["metrics"]) == {"linear", "last-value", "seasonal-naive"}
    by_step = told["by_horizon"]["linear"]["c0"]["mae"]
    assert told["metrics"]["linear"]["c0"]["mae"] == pytest.approx(np.mean(by_step))
    assert told["baselines"] == ["last-value", "seasonal-naive"]
    assert told["context"] == {"linear": 5, "last-value": 5, "seasonal-naive": 24}
    assert told["cpu_seconds"]["linear"]["fit"] == 0.5
    assert told["span"] == ["1970-01-09T08:00:00Z", "1970-01-13T11:00:00Z"]
    assert told["verdicts"] == list(found.verdicts())


def test_a_season_longer_than_an_item_costs_it_no_window(make_panel: MakePanel) -> None:
    panel = make_panel(series(), lengths=(240, 40, 20))
    train = Span(np.array([0, 240, 280]), np.array([200, 250, 280]))
    span = Span(np.array([200, 250, 285]), np.array([240, 280, 300]))
    season = SeasonalNaive(context=5, horizon=3, config=SeasonalNaiveConfig(period=30))
    season.fit(panel, train)
    for context, windows in ((5, (38, 28, 13)), (25, (38, 13, 0))):
        linear = Linear(context=context, horizon=3)
        linear.fit(panel, train)
        found = evaluate([season, linear], panel, span, train=train)
        assert found.n_windows == sum(windows)
        assert found.notes == (() if windows[2] else ("No window of these items was scored: item2.",))
        told, y = found.item_metrics()["seasonal-naive"], panel.values[:, 0].astype(float)
        for item, begin in ((1, 240), (2, 280)):
            last = int(span.last[item]) - 3
            origins = range(last - windows[item], last)
            ago = [(o, h, o + h - 30) for o in origins for h in (1, 2, 3)]
            error = [abs(y[row if row >= begin else o] - y[o + h]) for o, h, row in ago]
            expected = pytest.approx(np.mean(error), rel=1e-5) if error else None
            assert told[f"item{item}"]["c0"]["mae"] == expected


def test_each_item_has_scores_of_its_own_and_the_worst_come_first(make_panel: MakePanel) -> None:
    values = np.concatenate([series() * scale for scale in (1, 100)])
    values[300:] += 500 * np.random.default_rng(8).normal(size=300)
    panel = make_panel(values, lengths=(300, 300))
    span, train = (
        Span(np.array([200, 500]), np.array([300, 600])),
        Span(np.array([0, 300]), np.array([200, 500])),
    )
    linear = Linear(context=5, horizon=1)
    last = LastValue(context=5, horizon=1)
    for model in (linear, last):
        model.fit(panel, train)
        model.calibration = calibrate(model, panel, train)
    found = evaluate([linear, last], panel, span, train=train)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))["items"]
    assert set(told) == {"linear", "last-value"}
    for i in (0, 1):
        own = Span(np.array([200 if i == 0 else 500, 600]), np.array([300 if i == 0 else 600, 600]))
        learned = Span(np.array([300 * i, 600]), np.array([300 * i + 200, 600]))
        alone = evaluate([linear, last], panel, own, train=learned).metrics()["linear"]["c0"]
        expected = {metric: alone[metric] for metric in ITEM_METRICS}
        assert told["linear"][f"item{i}"]["c0"] == pytest.approx(expected)
    lines = text_items(found)
    wql = {item: scores["c0"]["wql"] for item, scores in told["linear"].items()}
    assert [line.split()[0] for line in lines[3:]] == sorted(wql, key=wql.__getitem__, reverse=True)
    assert max(map(len, lines)) <= 80
    worst = max(wql, key=wql.__getitem__)
    share = wql[worst] / told["last-value"][worst]["c0"]["wql"]
    assert lines[3].endswith(f"{100 * share:.1f} %")
    assert (
        "items"
        not in evaluate(models(make_panel(series())), make_panel(series()), TEST, train=TRAIN).to_dict()
    )


class Learned(LastValue):
    """Says its own quantiles: 0.8, 1 and 1.2 times the last value."""

    def predict(self, batch: WindowBatch) -> Prediction:
        point_BHC = super().predict(batch).point_BHC
        shares = np.float32([[0.8], [1], [1.2]])
        return Prediction(point_BHC, point_BHC[:, :, None] * shares, (0.1, 0.5, 0.9))


def test_learned_quantiles_are_scored_without_a_calibration(make_panel: MakePanel) -> None:
    panel = make_panel(series())
    model = Learned(context=30, horizon=1)
    model.fit(panel, TRAIN)
    found = evaluate([model, *models(panel, horizon=1)[1:]], panel, TEST, train=TRAIN)
    scores, y = found.averages()["c0"]["last-value"], panel.values[199:, 0]
    inside = (y[1:] >= 0.8 * y[:-1]) & (y[1:] <= 1.2 * y[:-1])
    assert scores["coverage_80"] == pytest.approx(inside.mean())
    assert scores["wql"] > 0
    assert found.models == ("last-value", "seasonal-naive")


def test_three_windows_are_no_evidence(make_panel: MakePanel) -> None:
    panel = make_panel(np.where(np.arange(300) % 2, 10, 20.0))
    linear = Linear(context=12, horizon=3)
    found = [linear, *models(panel)[:1]]
    for model in found:
        model.fit(panel, TRAIN)
    told = evaluate(found, panel, Span(np.array([200]), np.array([205])), train=TRAIN)
    assert told.n_windows == 3
    wape = {model: channels["c0"]["wape"] for model, channels in told.metrics().items()}
    assert wape["linear"] < 0.1 * wape["last-value"]
    assert [duel["outcome"] for duel in told.to_dict()["duels"]] == ["no evidence"]
    assert "No evidence" in told.verdicts()[0]
    assert "only 1 independent window (a verdict needs 20)" in told.verdicts()[0]
    clear = evaluate(found, panel, TEST, train=TRAIN)
    assert "linear beats the best baseline" in clear.verdicts()[0]


def test_what_cannot_be_compared_is_refused(make_panel: MakePanel) -> None:
    panel = make_panel(series())

    def refused(chosen: list[LastValue | SeasonalNaive], data: Panel = panel, span: Span = TEST) -> str:
        with pytest.raises((ConfigError, HistoryError)) as told:
            evaluate(chosen, data, span, train=TRAIN)
        return str(told.value)

    assert "listed twice" in refused([*models(panel), *models(panel)[:1]])
    assert "different horizons" in refused([*models(panel)[:1], *models(panel, horizon=4)[1:]])
    assert "a step of 1m" in refused(models(panel), make_panel(series(), step=HOUR // 60))
    assert "no window fits" in refused(models(panel), span=Span(np.array([298]), np.array([300])))
    broken = make_panel(series(holes=tuple(range(190, 300, 4))))
    assert "missing value in their context" in refused(models(panel), broken)


def test_the_memory_does_not_grow_with_the_number_of_windows(
    make_panel: MakePanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presurge.evaluation.walk._VALUES_AT_ONCE", 1 << 15)

    def peak(rows: int) -> int:
        panel = make_panel(np.random.default_rng(5).normal(size=rows))
        model = LastValue(context=5, horizon=3)
        model.fit(panel, TRAIN)
        model.calibration = calibrate(model, panel, TRAIN)
        span = Span(np.array([200]), np.array([rows]))
        tracemalloc.start()
        evaluate([model], panel, span, train=TRAIN)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(2000)
    # The row numbers and times of the origins are all that is held for every window.
    assert peak(12_000) - peak(4000) < 64 * 8000
