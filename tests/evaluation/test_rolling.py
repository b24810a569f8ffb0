"""Cutoffs and refits: where forecasts begin, what a fit may know, and the table of every forecast."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import ConfigError, HistoryError
from presurge.evaluation.rolling import rounds
from presurge.models.linear.linear import Linear
from presurge.series.dataset import Dataset
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import window_origins
from presurge.workflows.config import resolve_each
from presurge.workflows.evaluate import backtest, backtest_into

MakePanel = Callable[..., Panel]
WINDOWS = {"context": 12, "horizon": 3}


def data(panel: Panel, test: float = 0.2, *, given: bool = False) -> Dataset:
    train, tail = panel.full_span().cut_tail(repr(test))
    learn, validation = train.cut_tail("0.2")
    return Dataset(
        panel=panel,
        train=learn,
        validation=validation,
        test=tail,
        validation_given=given,
        source={"path": "x"},
    )


def load(n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.poisson(40 + 20 * np.sin(np.arange(n) / 24 * 2 * np.pi)).astype(np.float32)


@given(
    lengths=st.lists(st.integers(40, 200), min_size=1, max_size=3),
    horizon=st.integers(1, 5),
    stride=st.integers(1, 9),
    refit=st.integers(1, 12),
)
def test_rounds_share_the_origins_and_never_fit_to_a_target(
    make_panel: MakePanel, lengths: list[int], horizon: int, stride: int, refit: int
) -> None:
    whole = data(make_panel(load(sum(lengths)), lengths=tuple(lengths)))
    parts, same = rounds(whole, horizon, stride=stride, refit=refit)
    assert same == stride

    def origins(span: Span) -> list[int]:
        return window_origins(whole.panel, span, context=1, horizon=horizon, stride=stride).tolist()

    each = [origins(part.test) for part in parts]
    assert sorted(origin for one in each for origin in one) == origins(whole.test)
    for part, own in zip(parts, each, strict=True):
        known = part.fit_span
        np.testing.assert_array_equal(known.first, whole.panel.indptr[:-1])
        np.testing.assert_array_equal(known.last, part.test.first)
        items = whole.panel.items_of(np.array(own, np.int64))
        assert all(np.bincount(items) <= refit)
        firsts = [own[list(items).index(item)] for item in set(items)]
        assert all(first == known.last[item] - 1 for item, first in zip(set(items), firsts, strict=True))


@given(rows=st.integers(30, 300), horizon=st.integers(1, 5), cutoffs=st.integers(1, 12))
def test_cutoffs_are_evenly_spaced_over_the_test_rows(
    make_panel: MakePanel, rows: int, horizon: int, cutoffs: int
) -> None:
    whole = data(make_panel(load(rows)))
    possible = len(whole.test) - horizon + 1
    if possible < cutoffs:
        with pytest.raises(ConfigError, match=f"not {cutoffs}"):
            rounds(whole, horizon, cutoffs=cutoffs)
        return
    (part,), stride = rounds(whole, horizon, cutoffs=cutoffs)
    found = window_origins(whole.panel, part.test, context=1, horizon=horizon, stride=stride)
    assert len(found) == cutoffs
    assert found[0] == whole.test.first[0] - 1
    assert set(np.diff(found)) <= {stride}
    left = whole.test.last[0] - horizon - 1 - found[-1]  # too few rows for a wider spacing
    assert left < max(cutoffs - 1, 1) or cutoffs == 1


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"stride": 0}, "stride"),
        ({"cutoffs": 0}, "cutoffs"),
        ({"refit": 0}, "refit"),
        ({"cutoffs": 5, "stride": 2}, "stride"),
        ({"cutoffs": 79}, "cutoffs"),
    ],
)
def test_impossible_origins_name_the_setting(
    make_panel: MakePanel, settings: dict[str, int], setting: str
) -> None:
    with pytest.raises(ConfigError) as told:
        rounds(data(make_panel(load())), 3, **settings)
    assert told.value.setting == setting


def test_a_refitted_model_forecasts_as_one_fitted_to_the_rows_before_its_cutoff(
    make_panel: MakePanel,
) -> None:
    panel = make_panel(load(), kinds="c")
    whole, frames = data(panel), list[pl.DataFrame]()
    configs = resolve_each(["linear"], WINDOWS, {}).values()
    found = backtest(whole, configs, cutoffs=6, refit=2, keep=frames.append)
    table = pl.concat(frames, how="diagonal").filter(pl.col("model") == "linear")
    assert found.n_windows == table["origin"].n_unique() == 6
    # the same by hand: a model of its own for the third and the fourth cutoff
    origins = [319 + 15 * k for k in range(6)]
    times = panel.times_of(np.array(origins))
    assert table["origin"].unique().sort().cast(pl.Int64).to_list() == times.tolist()
    known = Span(np.array([0]), np.array([origins[2] + 1]))
    model = Linear(context=12, horizon=3)
    model.fit(panel, known)
    for origin in origins[2:4]:
        history = panel.take(Span(np.array([0]), np.array([origin + 1])))
        wanted = model.forecast(history).to_frame()
        own = table.filter(pl.col("origin").cast(pl.Int64) == int(panel.times_of(np.array([origin]))[0]))
        assert own["timestamp"].to_list() == wanted["timestamp"].to_list()
        np.testing.assert_allclose(own["mean"], wanted["mean"], rtol=1e-4)
        np.testing.assert_array_equal(own["actual"], panel.values[origin + 1 : origin + 4, 0])
    once = backtest(whole, configs, cutoffs=6)
    assert once.n_windows == 6
    assert once.scores["linear"]["mae"].tolist() != found.scores["linear"]["mae"].tolist()


def test_the_scores_are_those_of_the_table(make_panel: MakePanel) -> None:
    values = load(600)
    values[500:505] = np.nan
    panel = make_panel(values, lengths=(300, 300), kinds="c")
    frames: list[pl.DataFrame] = []
    configs = resolve_each(["linear"], WINDOWS, {})
    found = backtest(data(panel), configs.values(), refit=20, keep=frames.append)
    table = pl.concat(frames, how="diagonal")
    assert set(table["model"]) == set(found.models)
    assert table.columns[:7] == ["item", "origin", "timestamp", "channel", "model", "actual", "mean"]
    for name in found.models:
        own = table.filter(pl.col("model") == name)
        assert own.select("item", "origin").n_unique() == found.n_windows
        step = own.with_columns(h=(pl.col("timestamp") - pl.col("origin")).dt.total_hours())
        mse = step.group_by("h").agg(((pl.col("mean") - pl.col("actual")) ** 2).mean()).sort("h")["mean"]
        np.testing.assert_allclose(found.scores[name]["mse"][:, 0], mse, rtol=1e-5)


def test_rounds_without_a_window_are_passed_over_unless_all_are(make_panel: MakePanel) -> None:
    values = load()
    values[340:365] = np.nan
    configs = resolve_each(["linear"], WINDOWS, {})
    found = backtest(data(make_panel(values, kinds="c")), configs.values(), refit=10)
    assert found.n_skipped == 25 + 11
    assert found.n_windows == 78 - found.n_skipped
    values[315:] = np.nan
    with pytest.raises(HistoryError, match="all 78 windows"):
        backtest(data(make_panel(values, kinds="c")), configs.values(), stride=1)


@pytest.mark.parametrize("at_once", [100, 1 << 19])
def test_a_directory_gets_every_forecast_and_the_report_or_nothing(
    make_panel: MakePanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("presurge.evaluation.rolling._ROWS_AT_ONCE", at_once)
    whole = data(make_panel(load(), kinds="c"))
    configs = list(resolve_each(["linear"], WINDOWS, {}).values())
    frames: list[pl.DataFrame] = []
    backtest(whole, configs, cutoffs=10, refit=5, keep=frames.append)
    out = tmp_path / "scores"
    found = backtest_into(out, whole, configs, cutoffs=10, refit=5, next_command="do")
    names = ["forecasts.parquet", "metrics.json", "report.html", "report.txt"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert "fitted anew after 5 forecasts" in " ".join((out / "report.txt").read_text().split())
    written = pl.read_parquet(out / "forecasts.parquet")
    order = ["model", "origin", "timestamp"]
    assert written.sort(order).equals(pl.concat(frames, how="diagonal").sort(order))
    assert found.verdicts()[0][:40] in (out / "report.txt").read_text()
    with pytest.raises(ConfigError):
        backtest_into(tmp_path / "none", whole, configs, cutoffs=1000, next_command="do")
    assert not (tmp_path / "none").exists()


def test_every_round_tells_what_it_fits_and_how_far_all_are(make_panel: MakePanel) -> None:
    told: list[tuple[str, float, str]] = []
    backtest(
        data(make_panel(load(), kinds="c")),
        resolve_each(["linear"], WINDOWS, {}).values(),
        cutoffs=6,
        refit=2,
        progress=lambda phase, share, detail="": told.append((phase, share, detail)),
    )
    assert {phase for phase, _, _ in told} == {"Fitting and scoring"}
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert told[0][1:] == (0, "round 1 of 3: Fitting linear")
    assert told[-1][1:] == (1, "round 3 of 3: Scoring")
    assert len(set(shares)) > 3 * 3
