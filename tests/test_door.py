"""The Python door: what goes in as a frame comes back as such a frame, and the numbers are those of the other doors."""

import copy
import pickle
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import presurge
from presurge.errors import ConfigError, DataError, HistoryError, PresurgeError
from presurge.workflows.predict import predict

ROWS, DAY_ROWS = 480, 48
BEGIN = datetime(2026, 3, 2)
STEP = timedelta(minutes=30)


def load_of(*scales: float, rows: int = ROWS) -> pd.DataFrame:
    """Hosts with a daily rhythm, half-hourly: the columns ds, host, requests and price."""
    rng = np.random.default_rng(7)
    row = np.arange(rows)
    rhythm = 1 + 0.5 * np.sin(2 * np.pi * row / DAY_ROWS)
    hosts = [
        pd.DataFrame(
            {
                "ds": pd.date_range(BEGIN, periods=rows, freq=STEP, unit="us"),
                "host": f"host-{i}",
                "requests": rng.poisson(scale * rhythm),
                "price": rng.integers(0, 5, rows).astype(float),
            }
        )
        for i, scale in enumerate(scales)
    ]
    return pd.concat(hosts, ignore_index=True)


FRAME = load_of(50, 400)
NIXTLA = FRAME.rename(columns={"host": "unique_id", "requests": "y"})[["unique_id", "ds", "y"]]
COLUMNS: dict[str, Any] = {"time": "ds", "value": ["requests"], "item": "host"}
SIZES: dict[str, Any] = {"model": "linear", "horizon": 3, "context": 48}


def in_polars(frame: pd.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({str(n): c.to_list() if c.dtype == "str" else c.to_numpy() for n, c in frame.items()})


@pytest.fixture(scope="module")
def model() -> presurge.Model:
    return presurge.fit(FRAME, **COLUMNS, **SIZES)


@pytest.fixture(scope="module")
def nixtla() -> presurge.Model:
    return presurge.fit(NIXTLA, **SIZES)


def test_the_import_loads_nothing_and_lists_everything() -> None:
    code = (
        "import sys, presurge\n"
        "heavy = {'numpy', 'polars', 'pydantic', 'pandas', 'torch', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(presurge.__all__) <= set(dir(presurge))\n"
        "assert all(callable(getattr(presurge, name)) for name in presurge.__all__ if name != '__version__')\n"
        "heavy = {'pandas', 'torch', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try: presurge.fitt\n"
        "except AttributeError as error: assert 'fitt' in str(error)\n"
        "else: raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def auto() -> presurge.Model:
    return presurge.fit(FRAME, time="ds", value=["requests"], item="host", horizon=3)


def test_the_default_is_auto_and_its_forecast_a_frame_in_long_form(auto: presurge.Model) -> None:
    forecast = auto.predict(FRAME)
    assert auto.forecaster.name == "auto"
    assert isinstance(forecast, pd.DataFrame)
    first = ["item", "timestamp", "channel", "mean", "median"]
    assert list(forecast.columns[: len(first)]) == first
    assert {"q0.1", "q0.5", "q0.9"} <= set(forecast.columns)
    assert forecast["item"].tolist() == ["host-0"] * 3 + ["host-1"] * 3
    after = [FRAME["ds"].max() + k * STEP for k in (1, 2, 3)]
    assert forecast["timestamp"].tolist() == after * 2
    assert forecast["timestamp"].dtype == FRAME["ds"].dtype
    assert (forecast["q0.1"] < forecast["q0.9"]).all()
    pd.testing.assert_frame_equal(auto.predict(), forecast)  # what follows the training data


def test_the_model_of_all_rows_is_sold_with_scores_of_rows_that_it_had_not_seen(auto: presurge.Model) -> None:
    before = presurge.fit(FRAME, **COLUMNS, horizon=3, settings={"final_fit": False})
    assert auto.record["rows"]["test"] == before.record["rows"]["test"] == 2 * ROWS // 5
    assert auto.forecaster.error == before.forecaster.error
    assert auto.predict()["mean"].tolist() != before.predict()["mean"].tolist()


def test_both_libraries_give_the_same_forecast(model: presurge.Model) -> None:
    own = model.predict(FRAME)
    other = presurge.fit(in_polars(FRAME), **COLUMNS, **SIZES).predict(in_polars(FRAME).lazy())
    assert isinstance(other, pl.DataFrame)
    assert other.columns == list(own.columns)
    assert other["timestamp"].dtype == pl.Datetime("us")
    for name in own.columns:
        assert other[name].to_list() == own[name].tolist(), name


def test_nixtlas_long_format_is_understood_and_given_back(
    nixtla: presurge.Model, model: presurge.Model
) -> None:
    forecast = nixtla.predict(NIXTLA)
    assert list(forecast.columns[:4]) == ["unique_id", "ds", "mean", "median"]
    np.testing.assert_array_equal(forecast["mean"], model.predict()["mean"])
    joined = (
        NIXTLA.tail(1).assign(y=0)[["unique_id", "ds"]].merge(forecast, on=["unique_id", "ds"], how="outer")
    )
    assert len(joined) == 7
    single = presurge.fit(NIXTLA.assign(unique_id=5).head(ROWS), **SIZES).predict()
    assert single["unique_id"].tolist() == [5, 5, 5]


def test_other_columns_of_nixtlas_format_are_known_and_have_a_future() -> None:
    frame = FRAME.rename(columns={"host": "unique_id", "requests": "y"})
    frame["y"] *= 1 + frame["price"]
    model = presurge.fit(frame, **SIZES)
    assert [c.name for c in model.forecaster.fitted_spec().known] == ["price"]
    with pytest.raises(HistoryError, match="needs the future of 'price'"):
        model.predict(frame)
    future = load_of(50, 400, rows=3).rename(columns={"host": "unique_id"})[["unique_id", "ds", "price"]]
    future["ds"] += ROWS * STEP
    forecast = model.predict(frame, future=future)
    assert forecast["ds"].tolist() == future["ds"].tolist()
    with pytest.raises(HistoryError, match="needs 3"):
        model.predict(frame, future=future.groupby("unique_id").head(2))
    observed = presurge.fit(frame, **SIZES, observed="price")
    assert len(observed.predict(frame)) == 6


def test_static_features_are_columns_that_do_not_change() -> None:
    frame = FRAME.assign(gpus=FRAME["host"].map({"host-0": 2, "host-1": 8}))
    panel = presurge.read(frame, **COLUMNS, static="gpus", kind={"requests": "gauge"})
    np.testing.assert_array_equal(panel.features, [[2], [8]])
    assert panel.feature_names == ("gpus",)
    assert panel.channels[0].kind == "gauge"
    notes = presurge.fit(frame, **COLUMNS, static="gpus", model="drift", context=24).notes
    assert not any("gpus" in note for note in notes)  # a baseline is not expected to use it
    notes = presurge.fit(frame, **COLUMNS, static="gpus", **SIZES).notes
    assert "linear does not use these covariates: gpus" in notes
    frame.loc[700, "gpus"] = 3
    with pytest.raises(DataError, match=r"row \d+, column 'gpus', item 'host-1'.*one number in all rows"):
        presurge.read(frame, **COLUMNS, static="gpus")


def test_a_saved_model_forecasts_the_same_here_and_on_the_command_line(
    model: presurge.Model, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    FRAME.to_csv(tmp_path / "load.csv", index=False)
    loaded = presurge.load(tmp_path / "model")
    own = model.predict(FRAME)
    pd.testing.assert_frame_equal(loaded.predict(FRAME), own)
    by_file = predict(tmp_path / "model", tmp_path / "load.csv")
    np.testing.assert_array_equal(own["mean"], by_file.mean.reshape(-1))
    assert loaded.predict(tmp_path / "load.csv")["mean"].to_list() == own["mean"].tolist()
    other_names = FRAME.rename(columns={"ds": "when", "host": "node"})
    renamed = loaded.predict(other_names, time="when", item="node")
    np.testing.assert_array_equal(renamed["mean"], own["mean"])
    with pytest.raises(HistoryError, match="data: a model that was loaded has no history"):
        loaded.predict()
    assert repr(loaded) == repr(model)
    assert "linear: 3 rows of 30m ahead, from 48" in repr(loaded)
    assert model.evaluation is not None
    assert model.evaluation.verdicts()[0] in repr(loaded)


def test_a_forecast_has_arrays_and_a_json_form(model: presurge.Model) -> None:
    forecast = model.forecast(FRAME, horizon=2)
    assert forecast.mean.shape == (2, 2, 1)
    assert [row["item"] for row in forecast.to_dict()["forecast"]] == ["host-0"] * 2 + ["host-1"] * 2
    assert repr(forecast).startswith("Forecast of linear\n")
    assert (forecast.peak.mean_IC >= forecast.mean.max(axis=1) - 1e-3).all()
    asked = model.predict(FRAME, levels=[0.9, 0.3])
    assert list(asked.columns[-2:]) == ["q0.3", "q0.9"]
    np.testing.assert_array_equal(asked["q0.9"], model.predict(FRAME)["q0.9"])
    with pytest.raises(PresurgeError, match="levels: "):
        model.predict(FRAME, levels=[90])


def test_a_panel_and_a_file_go_in_too(model: presurge.Model, tmp_path: Path) -> None:
    panel = presurge.read(FRAME, **COLUMNS)
    assert repr(panel) == (
        "Panel: 960 rows of 30m of 2 items, 2026-03-02T00:00:00Z to 2026-03-11T23:30:00Z\n  requests: count, target"
    )
    by_panel = presurge.fit(panel, **SIZES).predict(panel)
    assert by_panel["mean"].to_list() == model.predict()["mean"].tolist()
    in_polars(FRAME).write_parquet(tmp_path / "load.parquet")
    assert repr(presurge.read(str(tmp_path / "load.parquet"), **COLUMNS)) == repr(panel)
    with pytest.raises(ConfigError, match="time: only a table has columns to name"):
        presurge.read(panel, time="ds")


@pytest.mark.filterwarnings("ignore:extrapolated quantiles")
def test_a_request_log_in_a_frame_becomes_load_per_minute() -> None:
    seconds = np.sort(np.random.default_rng(3).integers(0, 200 * 60, 5_000))
    tokens = seconds % 100 + 1
    log = pd.DataFrame(
        {"Timestamp": seconds, "Request tokens": tokens, "Response tokens": 10, "Log Type": "API log"}
    )
    panel = presurge.read(log)
    assert panel.channel_names[:3] == ("requests", "input_tokens", "output_tokens")
    inside = (seconds >= 60) & (seconds < 61 * 60)  # whole minutes: the edges are covered in part
    assert panel.values[:60, 0].sum() == inside.sum()
    assert panel.values[:60, 1].sum() == tokens[inside].sum()
    finer = presurge.read(log, step="10s")
    assert finer.channel_names == panel.channel_names
    assert finer.values[5:365, 0].sum() == inside.sum()  # from the second 10 on
    model = presurge.fit(log, model="recent-mean", context=10)
    assert model.predict(log)["channel"].tolist() == ["requests", "input_tokens", "output_tokens"] * 3


def test_columns_are_found_by_name_and_type() -> None:
    wide = FRAME.head(ROWS)[["ds", "requests", "price"]]
    assert presurge.read(wide).channel_names == ("requests", "price")
    index = wide.set_index("ds").rename_axis(None)
    assert presurge.read(index).channel_names == ("requests", "price")
    assert presurge.read(wide.rename(columns={"ds": "when"})).channel_names == ("requests", "price")
    assert presurge.read(wide, observed="price").targets.tolist() == [0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time": "when"}, "no column 'when'"),
        ({"value": ["load"]}, "no column 'load'"),
        ({"item": "node"}, "no column 'node'"),
        ({"value": "host"}, "column 'host': 'host-0' is not a number"),
        ({"kind": {"load": "gauge"}}, "kind: load=gauge is not the kind of a value column"),
        ({"step": "soon"}, "step: 'soon' is not a step"),
        ({"fill": "nan"}, "fill: "),
        ({"tme": "ds"}, "tme: there is no such setting"),
        ({"known": "price", "observed": "price"}, "observed: the channel 'price' cannot be both"),
    ],
)
def test_a_wrong_setting_is_named(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(PresurgeError) as raised:
        presurge.read(FRAME, **COLUMNS | columns)
    assert message in str(raised.value)


def test_a_wrong_setting_of_a_model_or_a_forecast_is_named(model: presurge.Model) -> None:
    for settings, message in (
        ({"horizon": 0}, "horizon: input should be at least 1"),
        ({"context": 0}, "context: input should be at least 1"),
        ({"model": "nhits"}, "model: there is no model 'nhits'"),
        ({"settings": {"ridgee": 1}}, "unknown key 'ridgee'"),
        ({"context": None, "settings": {"context": 48}}, "unknown key 'context'"),
    ):
        with pytest.raises(ConfigError, match=message):
            presurge.fit(FRAME, **COLUMNS, **SIZES | settings)
    with pytest.raises(ConfigError, match="tme: there is no such setting"):
        model.predict(FRAME, tme="ds")  # type: ignore[call-arg]
    assert len(presurge.fit(FRAME, **COLUMNS, **SIZES | {"horizon": "2"}).predict()) == 4


def test_a_wrong_cell_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match=r"data frame, row 6, column 'ds': an empty cell is not a time"):
        presurge.read(FRAME.assign(ds=FRAME["ds"].where(FRAME.index != 5)), **COLUMNS)
    with pytest.raises(DataError, match=r"row 8, column 'requests': the value is infinite"):
        presurge.read(FRAME.assign(requests=FRAME["requests"].where(FRAME.index != 7, np.inf)), **COLUMNS)
    with pytest.raises(ConfigError, match="no single column is clearly the time"):
        presurge.read(FRAME.assign(time=FRAME["ds"]))
    with pytest.raises(ConfigError, match="no single column is clearly the time"):
        presurge.read(FRAME[["requests"]])
    with pytest.raises(DataError, match="dict is not a data frame"):
        presurge.fit({"ds": [1]})


def test_rows_of_one_time_are_summed_with_a_warning_and_gaps_are_filled_by_rule() -> None:
    with pytest.warns(UserWarning, match="name their column: `item`"):
        panel = presurge.read(FRAME, time="ds", value="requests")
    np.testing.assert_array_equal(
        panel.values[:5, 0], FRAME["requests"][:5] + FRAME["requests"][ROWS:][:5].to_numpy()
    )
    gap = FRAME.head(ROWS).drop(index=range(10, 15))
    assert presurge.read(gap, time="ds", value="requests").values[10:15, 0].tolist() == [0] * 5
    notes = presurge.fit(gap, time="ds", value="requests", model="last-value").notes
    assert "buckets without a row: 5 of 480" in notes
    assert np.isnan(presurge.read(gap, time="ds", value="requests", fill="missing").values[10:15]).all()
    with pytest.warns(UserWarning, match="rows with the stamp of another row") as caught:
        presurge.fit(gap, time="ds", value="requests", model="drift").predict(pd.concat([gap, gap.tail(3)]))
    assert {warning.filename for warning in caught} == {__file__}, "not where Presurge says so"
    shuffled = presurge.read(gap.sample(frac=1, random_state=1), time="ds", value="requests")
    np.testing.assert_array_equal(shuffled.values, presurge.read(gap, time="ds", value="requests").values)


def test_gaps_of_the_context_are_refused_or_interpolated(model: presurge.Model) -> None:
    gap = FRAME.drop(index=[ROWS - 5])
    with pytest.warns(UserWarning, match="no forecast of 'host-0': 1 of the last 48 rows"):
        others = model.predict(gap, fill="missing")
    assert others["item"].tolist() == ["host-1"] * 3
    np.testing.assert_array_equal(others["mean"], model.predict()["mean"][3:])
    with pytest.raises(HistoryError, match="none of the 2 items can be forecast"):
        model.predict(gap.drop(index=[2 * ROWS - 5]), fill="missing")
    with pytest.warns(UserWarning, match="1 missing values of the context were interpolated"):
        assert len(model.predict(gap, fill="missing", fill_gaps="interpolate")) == 6


def test_what_is_too_old_has_no_forecast(model: presurge.Model) -> None:
    with pytest.raises(HistoryError, match="the last row is too old, at 2026-03-11T23:30:00Z"):
        model.predict(max_age="15m")
    with pytest.raises(ConfigError, match="max_age: is no age"):
        model.predict(max_age="young")
    with pytest.raises(ConfigError, match="fill_gaps: "):
        model.predict(fill_gaps="guess")  # type: ignore[arg-type]
    with pytest.raises(HistoryError, match="a horizon of 5 was asked"):
        model.predict(horizon=5)


def test_the_frame_draws_itself(model: presurge.Model) -> None:
    drawn = model.predict(FRAME).plot()
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["host-0: requests", "host-1: requests"]
    past, ahead = drawn.axes[1].lines
    np.testing.assert_array_equal(past.get_ydata(), FRAME["requests"][-48:])
    np.testing.assert_array_equal(ahead.get_ydata()[1:], model.predict()["mean"][3:])
    own = model.predict(in_polars(FRAME))
    assert len(own.plot().axes) == 2
    assert type(own.filter(pl.col("item") == "host-0")) is pl.DataFrame


def test_a_frame_that_draws_itself_is_copied_pickled_and_written_as_any_other(
    model: presurge.Model, tmp_path: Path
) -> None:
    for frame in (model.predict(FRAME), model.predict(in_polars(FRAME))):
        for other in (pickle.loads(pickle.dumps(frame)), copy.deepcopy(frame), copy.copy(frame)):
            assert other.equals(frame)
    assert type(pickle.loads(pickle.dumps(model.predict(in_polars(FRAME))))) is pl.DataFrame
    model.predict(in_polars(FRAME)).write_parquet(tmp_path / "forecast.parquet")
    assert pl.read_parquet(tmp_path / "forecast.parquet").equals(model.predict(in_polars(FRAME)))


def test_pandas_still_draws_what_it_is_asked_for(model: presurge.Model) -> None:
    frame = model.predict(FRAME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert frame.plot(x="timestamp", y="mean").get_xlabel() == "timestamp"
        assert frame.plot.line(x="timestamp", y="mean").get_xlabel() == "timestamp"
        frame[["mean"]].plot()
    import matplotlib.pyplot as plt

    plt.close("all")


TIMES = {
    "naive": pl.Datetime("us"),
    "ns": pl.Datetime("ns"),
    "zone": pl.Datetime("us", "Asia/Shanghai"),
    "day": pl.Date,
    "seconds": pl.Int64,
    "millis": pl.Int64,
    "relative": pl.Int64,
    "duration": pl.Duration("us"),
}


@given(form=st.sampled_from(sorted(TIMES)), first=st.integers(2_000, 40_000), pandas=st.booleans())
def test_times_come_back_as_they_went_in(form: str, first: int, pandas: bool) -> None:
    days = first + np.arange(40)
    if form in ("naive", "ns", "zone", "day"):
        stamps = pl.Series("t", days).cast(pl.Date).cast(pl.Datetime("us"))
        zone = getattr(TIMES[form], "time_zone", None)
        stamps = (
            stamps.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
            if zone
            else stamps.cast(TIMES[form])
        )
    elif form == "duration":
        stamps = pl.Series("t", days * 86_400_000_000).cast(pl.Duration("us"))
    else:
        stamps = pl.Series("t", days * {"seconds": 86_400, "millis": 86_400_000, "relative": 60}[form])
    frame: Any = pl.DataFrame({"t": stamps, "y": np.arange(40)})
    if pandas:
        zone = getattr(stamps.dtype, "time_zone", None)
        own = pd.Series(stamps.dt.replace_time_zone(None).to_numpy() if zone else stamps.to_numpy())
        own = own.dt.tz_localize(zone) if zone else own
        frame = pd.DataFrame({"t": own, "y": np.arange(40)})
    past, last = frame.head(38), frame.tail(2)
    panel = presurge.read(past, time="t", value="y")
    from presurge.frames import Form, opened, table_of
    from presurge.models.naive import LastValue

    model = LastValue(context=5, horizon=2)
    model.fit(panel, panel.full_span())
    file = opened(past)
    written = Form.of(past, file, table_of(file, {"time": "t", "value": "y"})).write(
        model.forecast(panel).to_frame()
    )
    if pandas:
        assert written["timestamp"].tolist() == last["t"].tolist()
        if stamps.dtype != pl.Date:
            assert written["timestamp"].dtype == last["t"].dtype
    else:
        assert written["timestamp"].to_list() == last["t"].to_list()
        assert written["timestamp"].dtype == last["t"].dtype


def test_text_comes_back_as_times() -> None:
    frame = FRAME.head(ROWS).assign(ds=FRAME["ds"].dt.strftime("%Y-%m-%d %H:%M"))
    forecast = presurge.fit(frame, time="ds", value="requests", **SIZES).predict(frame)
    assert forecast["timestamp"].iloc[0] == FRAME["ds"].max() + STEP


@pytest.fixture(scope="module")
def backtest() -> presurge.Backtest:
    sizes = {"horizon": 3, "context": 48, "cutoffs": 12, "refit": 6}
    return presurge.backtest(NIXTLA, models=["linear"], **sizes)


def test_the_scores_are_those_of_the_forecasts(backtest: presurge.Backtest) -> None:
    every = backtest.forecasts
    assert list(every.columns[:6]) == ["unique_id", "cutoff", "ds", "model", "y", "mean"]
    assert (every.groupby(["model", "unique_id"]).size() == 12 * 3).all()
    truth = every.merge(NIXTLA, on=["unique_id", "ds"], suffixes=("", "_given"))
    assert len(truth) == len(every)
    np.testing.assert_array_equal(truth["y"], truth["y_given"])
    assert (every["ds"] > every["cutoff"]).all()
    scores = backtest.scores.set_index("model")
    assert scores.index[0] == scores["wql"].idxmin()
    items = backtest.item_scores.set_index(["model", "unique_id"])
    assert len(items) == 2 * len(scores)
    for name, own in every.groupby("model"):
        step = own.assign(lead=(own["ds"] - own["cutoff"]) // pd.Timedelta(STEP)).groupby("lead")
        wape = np.mean([(g["median"] - g["y"]).abs().sum() / g["y"].abs().sum() for _, g in step])
        rmse = np.mean([np.sqrt(((g["mean"] - g["y"]) ** 2).mean()) for _, g in step])
        assert scores.loc[name, "wape"] == pytest.approx(wape, rel=1e-5)
        assert scores.loc[name, "rmse"] == pytest.approx(rmse, rel=1e-5)
        for item, one in own.groupby("unique_id"):
            wape = (one["median"] - one["y"]).abs().sum() / one["y"].abs().sum()
            assert items.loc[(name, item), "wape"] == pytest.approx(wape, rel=1e-5)


def test_a_backtest_shows_its_verdicts_and_draws_itself(backtest: presurge.Backtest) -> None:
    shown = repr(backtest)
    assert "seasonal-naive" in shown
    assert backtest.evaluation.verdicts()[0] in " ".join(shown.split())
    (axes,) = backtest.plot(item="host-1").axes
    assert axes.get_title(loc="left") == "linear: y of host-1"
    drawn = np.asarray(axes.lines[-1].get_ydata())
    own = backtest.forecasts.query("model == 'linear' and unique_id == 'host-1'")
    np.testing.assert_array_equal(drawn[~np.isnan(drawn)], own["mean"].astype(np.float32))
    with pytest.raises(ConfigError, match="model: there is no model 'nhits'"):
        backtest.plot("nhits")


def test_a_backtest_of_a_polars_frame_gives_polars_frames() -> None:
    frame = in_polars(NIXTLA).filter(pl.col("unique_id") == "host-0")
    found = presurge.backtest(frame, models="linear", horizon=3, context=48, settings={"stride": 2})
    assert isinstance(found.scores, pl.DataFrame)
    assert found.forecasts.columns[:4] == ["unique_id", "cutoff", "ds", "model"]
    assert found.forecasts["ds"].dtype == pl.Datetime("us")
    drawn = np.asarray(found.plot().axes[0].lines[-1].get_ydata())
    own = found.forecasts.filter(pl.col("model") == "linear")
    apart = own.filter(pl.col("cutoff").is_in(own["cutoff"].unique(maintain_order=True)[::2].implode()))
    np.testing.assert_array_equal(drawn[~np.isnan(drawn)], apart["mean"])  # no forecast over the one before
    with pytest.raises(ConfigError, match="has the setting 'ridgee'"):
        presurge.backtest(frame, models="linear", horizon=3, context=48, settings={"ridgee": 1})


@pytest.mark.parametrize(
    ("minutes", "rows", "expected"),
    [(1, 5000, 120), (5, 5000, 288), (30, 5000, 336), (1440, 5000, 120), (5, 100, 32)],
)
def test_the_usual_context_is_a_week_or_a_day_that_fits(minutes: int, rows: int, expected: int) -> None:
    from presurge.door import usual_context
    from presurge.workflows.dataset import load_dataset

    stamps = [datetime(2020, 1, 1, tzinfo=UTC) + k * timedelta(minutes=minutes) for k in range(rows)]
    panel = presurge.read(pl.DataFrame({"t": stamps, "y": np.arange(rows)}), time="t")
    assert usual_context(load_dataset(panel), 3) == expected
