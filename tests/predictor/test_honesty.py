"""What the numbers of the predictor rest on: the errors that a forecast follows, the windows of a ranking, and missing minutes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from presurge.errors import ConfigError, HistoryError
from presurge.evaluation.walk import walk
from presurge.models.tracking import IntervalTracker
from presurge.predictor import (
    BasePredictor,
    EnhancedRequestPredictor,
    ForecasterPredictor,
    ModelConfig,
    ModelManager,
    PredictionResult,
    TrainingResult,
    register_model,
)
from presurge.sources.synthetic import SyntheticConfig, SyntheticTrace

SHORT = ModelConfig("dlinear", sequence_length=20, prediction_horizon=2)


@pytest.fixture(scope="module")
def many() -> pl.DataFrame:
    """1,500 requests, whose tokens become ten times as large after the first 900."""
    trace = next(SyntheticTrace(SyntheticConfig(rows=1500, days=0.2, seed=5)).blocks())
    larger = pl.col("Request tokens") * pl.when(pl.int_range(pl.len()) < 900).then(1).otherwise(10)
    return trace.with_columns(larger)


def test_the_intervals_follow_the_errors_of_requests_after_the_training(many: pl.DataFrame) -> None:
    """As a tracker over all rows at once, which are numbered through."""
    model = ForecasterPredictor(SHORT)
    model.train(many.head(900))
    for data in (many, many.tail(1400), many.tail(1021)):
        result = model.predict(data)
        panel = model.prepare_data(many).panel
        tracked = IntervalTracker(model.model, panel).predict(np.array([len(panel) - 1]))
        assert tracked.followed_B[0] > 0
        levels = [f"{level:g}" for level in tracked.levels]
        ours = result.metadata["quantiles"]["input_tokens"]
        for q, level in enumerate(levels):
            np.testing.assert_allclose(ours[level], tracked.quantiles_BHQC[0, :, q, 1], rtol=1e-5)
        np.testing.assert_allclose(result.request_tokens, tracked.mean_BHC[0, :, 1], rtol=1e-5)
        assert "follow" in result.metadata["intervals"]
    short = model.predict(many.tail(21)).metadata["quantiles"]["input_tokens"]
    assert short["0.9"] != result.metadata["quantiles"]["input_tokens"]["0.9"]


def test_rows_of_the_training_are_not_followed_again(many: pl.DataFrame, tmp_path: Path) -> None:
    model = ForecasterPredictor(SHORT)
    model.train(many.head(900))
    whole, short = (model.predict(frame).metadata["quantiles"] for frame in (many.head(900), many[879:900]))
    assert whole == short
    model.save_model(str(tmp_path / "model"))
    other = ForecasterPredictor(ModelConfig("last-value"))
    other.load_model(str(tmp_path / "model"))
    assert other.predict(many).metadata["quantiles"] == model.predict(many).metadata["quantiles"]


def test_the_time_of_the_next_request_is_measured_and_never_before_the_last(many: pl.DataFrame) -> None:
    """Its error is the mean absolute error of the waiting times over the validation rows."""
    predictor = EnhancedRequestPredictor()
    predictor.add_model("drift", ModelConfig(sequence_length=5, prediction_horizon=3))
    predictor.train_models(many)
    rows = predictor.predict_multiple_requests(many, 3)["predictions"]["drift"]
    model = predictor.model_manager.active_models["drift"]
    panel = model.prepare_data(many).panel
    first = int(1499 * 0.8)
    (piece,) = walk([model.model], panel, np.arange(first - 1, len(panel) - 3))
    error_H = np.abs(piece.mean_BHC - piece.actual())[:, :, 0].mean(axis=0)
    assert [row["time_error"] for row in rows] == pytest.approx(error_H.tolist(), rel=1e-5)
    assert piece.mean_BHC[:, :, 0].min() >= 0, "a line through waiting times that fall does not go below zero"
    stamps = [many["Timestamp"][-1], *(row["timestamp"] for row in rows)]
    assert stamps == sorted(stamps)
    waits = model.predict(many).metadata["quantiles"]["inter_arrival"]
    assert min(min(values) for values in waits.values()) >= 0


def test_a_missing_minute_is_not_one_without_load(minutes: pl.DataFrame) -> None:
    model = ForecasterPredictor(ModelConfig("last-value", sequence_length=20, prediction_horizon=3))
    model.train(minutes)
    with pytest.raises(
        HistoryError, match="1 of the last 20 rows have a missing value\n  Fill the gaps first"
    ):
        model.predict(pl.concat([minutes[:-5], minutes[-4:]]))
    assert model.predict(pl.concat([minutes[:-50], minutes[-49:]])).timestamps, (
        "the gap lies before the context"
    )
    gappy = pl.concat([minutes[:100], minutes[101:]])
    values = model.prepare_data(gappy).panel.values
    assert np.isnan(values[100]).all()
    np.testing.assert_array_equal(
        np.delete(values, 100, axis=0), np.delete(model.prepare_data(minutes).panel.values, 100, axis=0)
    )
    assert model.train(gappy).success


class Wrapped(BasePredictor):
    """Asks a model of Presurge."""

    def prepare_data(self, data: Any) -> Any:
        return data

    def build_model(self) -> Any:
        return None

    def train(self, data: Any, validation_split: float = 0.2) -> TrainingResult:
        self.inner = ForecasterPredictor(replace(self.config, model_type="recent-mean"))
        result = self.inner.train(data, validation_split)
        self.rolling_errors = (0.0,) * self.config.prediction_horizon  # a claim that nobody checked
        return result

    def predict(self, data: Any, steps: int | None = None) -> PredictionResult:
        return self.inner.predict(data, steps)

    def save_model(self, path: str) -> bool:
        return False

    def load_model(self, path: str) -> bool:
        return False


@pytest.mark.parametrize("level", ["request", "minute"])
def test_your_own_model_and_ours_are_ranked_on_the_same_windows(
    level: str, requests: pl.DataFrame, minutes: pl.DataFrame
) -> None:
    """The same forecasts have the same error, whoever makes them; the rows may be in any order."""
    data = requests.sample(fraction=1.0, shuffle=True, seed=1) if level == "request" else minutes
    register_model("wrapped")(Wrapped)
    manager = ModelManager()
    for kind in ("wrapped", "recent-mean"):
        manager.add_model(ModelConfig(kind, sequence_length=20, prediction_horizon=3))
    manager.add_model(ModelConfig("linear", sequence_length=40, prediction_horizon=2))
    manager.train_all_models(data)
    own, ours = (manager.active_models[name].rolling_errors for name in ("wrapped", "recent-mean"))
    assert own == pytest.approx(ours, rel=1e-5)
    assert manager.baseline_errors["recent-mean"] == pytest.approx(own, rel=1e-5)
    assert own[0] > 0, "what a model says of itself does not count beside others"


def test_no_window_of_a_ranking_misses_a_minute(minutes: pl.DataFrame) -> None:
    """The error of the last value, by hand."""
    gappy = pl.concat([minutes[:215], minutes[216:]])
    register_model("wrapped")(Wrapped)
    manager = ModelManager()
    for kind in ("wrapped", "last-value"):
        manager.add_model(ModelConfig(kind, sequence_length=10, prediction_horizon=2))
    manager.train_all_models(gappy)
    tokens = gappy[["Request_tokens_sum", "Response_tokens_sum"]].to_numpy().astype(np.float64)
    ends = np.array([end for end in range(len(gappy) - 47, len(gappy) - 1) if not 213 < end < 225])
    for step in (0, 1):
        error = np.abs(tokens[ends - 1] - tokens[ends + step]).sum(axis=0) / tokens[ends + step].sum(axis=0)
        ours = manager.active_models["last-value"].rolling_errors[step]
        assert ours == pytest.approx(error.mean(), rel=1e-5)
    assert manager.active_models["wrapped"].rolling_errors


def test_a_predictor_without_models_says_so(requests: pl.DataFrame) -> None:
    predictor = EnhancedRequestPredictor()
    for attempt in (
        predictor.train_models,
        predictor.predict_next_request,
        predictor.predict_multiple_requests,
        predictor.compare_models,
    ):
        with pytest.raises(ConfigError, match="holds no model\n  Add one first"):
            attempt(requests)


def test_training_reports_its_progress(requests: pl.DataFrame) -> None:
    seen: list[tuple[str, float]] = []
    predictor = EnhancedRequestPredictor()
    for name in ("linear", "last-value"):
        predictor.add_model(name, ModelConfig(sequence_length=20, prediction_horizon=2))
    predictor.train_models(requests, progress=lambda phase, share, detail="": seen.append((phase, share)))
    assert {"linear: trained", "last-value: trained"} <= {phase for phase, _ in seen}
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_file_tells_the_type_of_its_model(requests: pl.DataFrame, tmp_path: Path) -> None:
    predictor = EnhancedRequestPredictor()
    predictor.add_model("dlinear", SHORT)
    predictor.train_models(requests)
    expected = predictor.predict_next_request(requests)["predictions"]["dlinear"]
    assert predictor.save_model("dlinear", str(tmp_path / "model"))
    for name, config in (("anything", None), ("linear", None), ("gru", ModelConfig("gru", "mine"))):
        other = EnhancedRequestPredictor(device="cpu")
        assert other.load_model(name, str(tmp_path / "model"), config), other.last_error
        (found,) = other.predict_next_request(requests)["predictions"].values()
        assert found == expected
        info = other.get_model_info(name)
        assert (info["model_type"], info["config"]["model_type"]) == ("dlinear", "dlinear")
    assert not other.load_model("oracle", str(tmp_path / "nowhere"))
    assert "does not exist" in str(other.last_error)
