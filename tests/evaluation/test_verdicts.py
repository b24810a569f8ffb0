"""Verdicts in plain words, and numbers as people read them."""

import math

import pytest

from presurge.evaluation.backtest import duels
from presurge.evaluation.report.tables import cell, number

BASELINES = ("last-value", "drift")


def sentences(ours: dict[str, float], last: dict[str, float], drift: dict[str, float]) -> list[str]:
    found = duels({("linear", "x"): ours, ("last-value", "x"): last, ("drift", "x"): drift}, BASELINES)
    return [duel.sentence() for duel in found]


def errors(wape: float, mae: float = 1.0) -> dict[str, float]:
    return {"wape": wape, "mae": mae}


def test_a_model_meets_the_best_baseline() -> None:
    assert sentences(errors(0.2), errors(0.4), errors(0.25)) == [
        "linear beats the best baseline, drift, on x by 20.0 %: WAPE 0.200 against 0.250."
    ]


def test_the_verdict_says_when_a_model_is_no_better() -> None:
    assert sentences(errors(0.3), errors(0.4), errors(0.25)) == [
        "linear does not beat drift on x: WAPE 0.300 against 0.250."
    ]
    assert sentences(errors(0.25), errors(0.4), errors(0.25)) == [
        "linear does not beat drift on x: both have WAPE 0.250."
    ]


def test_numbers_are_told_apart_by_as_many_digits_as_it_takes() -> None:
    assert "WAPE 0.2501 against 0.2500" in sentences(errors(0.2501), errors(1), errors(0.25))[0]
    equal = duels(
        {("linear", "x"): errors(0.25 - 1e-12), ("drift", "x"): errors(0.25)}, BASELINES
    )[0]  # fmt: skip
    assert not equal.won
    assert "both have WAPE 0.250" in equal.sentence()


def test_where_all_actual_values_are_zero_the_mae_decides() -> None:
    nan = math.nan
    assert sentences(errors(nan, 0.5), errors(nan, 1), errors(nan, 2)) == [
        "linear beats the best baseline, last-value, on x by 50.0 %: MAE 0.500 against 1.000."
    ]
    assert "MAE 0.500 against 0.000" in sentences(errors(nan, 0.5), errors(nan, 0), errors(nan, 1))[0]


def test_without_a_rival_or_a_number_there_is_no_verdict() -> None:
    assert duels({("linear", "x"): errors(0.2)}, BASELINES) == ()
    assert duels({("drift", "x"): errors(0.2)}, BASELINES) == ()
    assert sentences(errors(math.nan, math.nan), errors(1), errors(1)) == []


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("wape", 0.25, "0.250"),
        ("coverage_80", 0.7964, "79.6 %"),
        ("mae", 1234567.8, "1,234,568"),
        ("mae", 12.3456, "12.35"),
        ("bias", -0.00001, "-1.000e-05"),
        ("r2", math.nan, "–"),
        ("mse", 0.0, "0"),
    ],
)
def test_cells(metric: str, value: float, text: str) -> None:
    assert cell(metric, value) == text


def test_a_number_keeps_its_whole_part() -> None:
    assert [number(v) for v in (999.4, 1000.4, 2e15)] == ["999.4", "1,000", "2.000e+15"]


def test_a_number_has_four_digits_however_small_and_a_dash_where_there_is_none() -> None:
    assert [number(v) for v in (0.25, 0.0123, -1.5, 0.0, None)] == ["0.2500", "0.01230", "-1.500", "0", "–"]
    assert [number(v) for v in (math.nan, math.inf)] == ["–", "inf"]
