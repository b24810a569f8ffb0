"""Impossible arguments and rows, reported in the words of this interface."""

import re
from typing import Any

import numpy as np
import polars as pl
import pytest

from presurge.errors import ConfigError, DataError, HistoryError, PresurgeError
from presurge.predictor import (
    EnhancedRequestPredictor,
    ForecasterPredictor,
    ModelConfig,
    create_enhanced_predictor,
)
from presurge.predictor.config import own_words

COMMAND_LINE = re.compile(r"--[a-z]|presurge [a-z]")


@pytest.fixture(scope="module")
def trained(requests: pl.DataFrame) -> EnhancedRequestPredictor:
    predictor = create_enhanced_predictor(["dlinear"])
    predictor.train_models(requests)
    return predictor


@pytest.fixture(scope="module")
def by_minute(minutes: pl.DataFrame) -> ForecasterPredictor:
    model = ForecasterPredictor(ModelConfig("dlinear", sequence_length=20, prediction_horizon=3))
    model.train(minutes)
    return model


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, None, float("nan"), True, "0.2"])
def test_an_impossible_share_is_refused_before_anything_trains(share: Any, requests: pl.DataFrame) -> None:
    predictor = create_enhanced_predictor(["dlinear"])
    model = predictor.model_manager.active_models["dlinear_default"]
    for training in (predictor.train_models, model.train):
        with pytest.raises(ConfigError, match=r"validation_split: input should be"):
            training(requests, share)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "5", True])
def test_an_impossible_number_of_steps_is_refused(
    steps: Any, trained: EnhancedRequestPredictor, requests: pl.DataFrame
) -> None:
    for ask in (trained.compare_models, trained.predict_multiple_requests):
        with pytest.raises(
            ConfigError, match=r"(steps|num_requests): input should be (a valid integer|at least 1)"
        ):
            ask(requests, steps)
    assert (
        len(trained.predict_multiple_requests(requests, np.int64(2))["predictions"]["dlinear_default"]) == 2
    )


def test_hints_never_mention_the_command_line(
    by_minute: ForecasterPredictor, minutes: pl.DataFrame, requests: pl.DataFrame
) -> None:
    holes = minutes.with_columns(
        pl.when(pl.int_range(pl.len()) == 235)
        .then(None)
        .otherwise(pl.col("Request_tokens_sum"))
        .alias("Request_tokens_sum")
    )
    still = minutes.with_columns(pl.lit(60).alias("Timestamp"))
    negative = minutes.with_columns(pl.lit(-1).alias("Concurrent_requests"))
    attempts = (
        (lambda: by_minute.predict(holes), "interpolate()"),
        (lambda: by_minute.predict(minutes, 4), "train with prediction_horizon=4"),
        (lambda: by_minute.predict(requests), "the step that the model was trained on"),
        (lambda: by_minute.predict(negative), "Mend or remove this row"),
        (lambda: by_minute.train(still), "Mend or remove this row"),
        (lambda: by_minute.train(minutes.head(20)), "sequence_length"),
        (lambda: by_minute.load_model("nowhere"), "that save_model wrote"),
        (lambda: ForecasterPredictor(ModelConfig("oracle")), "model_type: there is no model 'oracle'"),
    )
    for attempt, words in attempts:
        with pytest.raises(PresurgeError) as caught:
            attempt()
        assert words in str(caught.value)
        assert not COMMAND_LINE.search(str(caught.value))
    filled = holes.with_columns(pl.col("Request_tokens_sum").interpolate())
    assert len(by_minute.predict(filled).timestamps) == 3


def test_other_hints_stay_as_they_are() -> None:
    with pytest.raises(DataError, match=r"^wrong\n  Mend it\.$"), own_words():
        raise DataError("wrong", hint="Mend it.")
    with pytest.raises(DataError, match=r"^wrong$"), own_words():
        raise DataError("wrong")


def test_a_forecast_ignores_rows_earlier_than_it_needs(
    trained: EnhancedRequestPredictor, requests: pl.DataFrame
) -> None:
    early = requests.with_columns(
        pl.when(pl.int_range(pl.len()) == 0)
        .then(None)
        .otherwise(pl.col("Request tokens"))
        .alias("Request tokens")
    )
    expected = trained.predict_next_request(requests)
    assert trained.predict_next_request(early) == expected
    shuffled = requests.sample(fraction=1.0, shuffle=True, seed=1)
    assert trained.predict_next_request(shuffled) == expected
    late = requests.with_columns(
        pl.when(pl.int_range(pl.len()) == 390)
        .then(-1)
        .otherwise(pl.col("Request tokens"))
        .alias("Request tokens")
    )
    reason = trained.predict_next_request(late)["predictions"]["dlinear_default"]["error"]
    assert reason.startswith("last 100 rows of the data frame, row 91, column 'Request tokens': -1 is not a")


def test_validated_rows_can_be_forecast_from(
    trained: EnhancedRequestPredictor,
    by_minute: ForecasterPredictor,
    requests: pl.DataFrame,
    minutes: pl.DataFrame,
) -> None:
    by_request = trained.model_manager.active_models["dlinear_default"]
    for model, frame, rows in ((by_request, requests, 51), (by_minute, minutes, 20)):
        assert model.validate_input_data(frame.tail(rows))
        assert model.predict(frame.tail(rows)).timestamps
        with pytest.raises(HistoryError, match=f"{rows - 1} rows, and {rows} are needed"):
            model.validate_input_data(frame.tail(rows - 1))
