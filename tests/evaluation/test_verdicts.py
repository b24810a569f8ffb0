"""Verdicts: what they say, on how much evidence, and their bootstrap against plain loops and the package arch."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from presurge.evaluation.report.tables import cell, number
from presurge.evaluation.verdicts import FEWEST, MAX_UNITS, Duel, Losses, block_length, duels, gain_interval

NAN = math.nan
BASELINES = ("last-value", "drift")
Loss = Callable[[float, np.random.Generator], np.ndarray]


def scores(
    wql: float, wape: float = 0.3, rmse: float = 1.0, bias: float = 0.0, mae: float = 1.0
) -> dict[str, float]:
    return {"wql": wql, "wape": wape, "rmse": rmse, "relative_bias": bias, "mae": mae}


def meet(
    ours: dict[str, float],
    *baselines: dict[str, float],
    windows: int = 400,
    noise: float = 0.2,
    overlap: int = 1,
) -> Duel:
    """The verdict on losses that scatter independently around the scores (WQL, or else WAPE)."""
    averages = {"x": {"auto": ours, **dict(zip(BASELINES, baselines, strict=False))}}
    rng, losses, times = np.random.default_rng(1), Losses(), np.arange(windows)
    losses.begin(times)
    for model, one in averages["x"].items():
        drawn = np.maximum(0, 1 + noise * rng.normal(size=(windows, 1)))
        totals = {"absolute": drawn * (one["mae"] if math.isnan(one["wape"]) else one["wape"])}
        if not math.isnan(one["wql"]):
            totals["pinball"] = drawn * one["wql"]
        losses.add(model, times, totals)
    return duels(averages, BASELINES, losses, overlap=overlap)[0]


def test_a_model_that_is_better_than_every_baseline_beats_the_best() -> None:
    duel = meet(scores(0.2), scores(0.4), scores(0.25))
    assert (duel.outcome, duel.baseline) == ("better", "drift")
    assert duel.gain == pytest.approx(0.2)
    assert duel.interval is not None
    low, high = duel.interval
    assert low < duel.gain < high
    assert duel.sentence().startswith(
        "auto beats the best baseline, drift, on x by 20.0 %: WQL 0.200 against 0.250 (95 % interval of the gain +"
    )
    assert f"{duel.windows:,} independent windows" in duel.sentence()


def test_a_model_that_is_worse_is_said_to_be_worse() -> None:
    duel = meet(scores(0.3), scores(0.4), scores(0.25))
    assert duel.outcome == "worse"
    assert duel.sentence().startswith(
        "auto is worse than the best baseline, drift, on x by 20.0 %: WQL 0.300 against 0.250"
    )


def test_an_interval_that_holds_zero_is_no_evidence_for_either_side() -> None:
    for ours in (0.249, 0.251):
        duel = meet(scores(ours), scores(0.4), scores(0.25))
        assert duel.interval is not None
        assert duel.interval[0] < 0 < duel.interval[1]
        assert duel.outcome == "no evidence"
        assert duel.sentence().startswith(
            "No evidence that auto beats the best baseline, drift, on x: WQL 0.2"
        )


@pytest.mark.parametrize(("windows", "overlap"), [(1, 1), (3, 1), (3, 3), (FEWEST - 1, 1), (FEWEST * 5, 6)])
def test_few_independent_windows_are_no_evidence_however_clear_they_are(windows: int, overlap: int) -> None:
    duel = meet(scores(0.1), scores(0.9), windows=windows, overlap=overlap, noise=0.01)
    assert duel.outcome == "no evidence"
    assert duel.windows == windows // overlap
    assert "interval" not in duel.sentence()
    assert f"from only {duel.windows} independent window" in duel.sentence()


def test_a_duel_without_losses_is_no_evidence() -> None:
    averages = {"x": {"auto": scores(0.1), "drift": scores(0.9)}}
    assert duels(averages, BASELINES, Losses(), overlap=1)[0].outcome == "no evidence"


def test_a_forecast_that_shrinks_the_load_is_no_winner() -> None:
    """Zero has WAPE 1.00, ours 0.94; but our mean is far too low, and its RMSE loses to the mean of the last rows."""
    ours = scores(NAN, wape=0.94, rmse=2213, bias=-0.7)
    duel = meet(
        ours, scores(NAN, wape=1.0, rmse=3140, bias=-1.0), scores(NAN, wape=1.2, rmse=2088, bias=-0.003)
    )
    assert duel.outcome == "mixed"
    assert "beats" not in duel.sentence()
    assert duel.sentence().endswith(
        " RMSE (2,213.0 against 2,088.0 of drift) and bias (−70.0 % of the load against −0.3 % of drift) point the other way."
    )
    assert [one.metric for one in duel.contrary] == ["rmse", "relative_bias"]


def test_a_worse_score_in_our_favour_is_said_too() -> None:
    duel = meet(scores(0.3, rmse=0.9), scores(0.25, rmse=1.0))
    assert duel.outcome == "worse"
    assert duel.sentence().endswith(" RMSE (0.900 against 1.000 of last-value) points the other way.")


def test_differences_of_other_scores_that_no_one_notices_are_left_out() -> None:
    duel = meet(scores(0.2, wape=0.301, rmse=1.004, bias=0.04), scores(0.25, wape=0.3, rmse=1.0))
    assert (duel.outcome, duel.contrary) == ("better", ())


def test_the_baseline_that_is_best_by_luck_is_not_the_only_one_that_counts() -> None:
    """The best baseline has steady losses and is clearly beaten; another one scatters so much that it may well be better."""
    averages = {"x": {"auto": scores(0.2), "last-value": scores(0.22), "drift": scores(0.221)}}
    losses, times, steady = Losses(), np.arange(300), np.full((300, 1), 1.0)
    losses.begin(times)
    wild = np.random.default_rng(2).gamma(0.02, 50, (300, 1))
    for name, loss in (("auto", 0.2 * steady), ("last-value", 0.22 * steady)):
        losses.add(name, times, {"pinball": loss})
    assert duels(averages, BASELINES, losses, overlap=1)[0].outcome == "better"
    losses.add("drift", times, {"pinball": 0.221 * wild / wild.mean()})
    duel = duels(averages, BASELINES, losses, overlap=1)[0]
    assert (duel.baseline, duel.outcome) == ("last-value", "no evidence")
    assert duel.interval is not None
    assert duel.interval[0] < 0
    assert duel.interval[1] == pytest.approx(duel.gain)


def test_numbers_are_told_apart_by_as_many_digits_as_it_takes() -> None:
    assert "WQL 0.2501 against 0.2500" in meet(scores(0.2501), scores(0.25)).sentence()
    assert "both have WQL 0.250" in meet(scores(0.25 - 1e-12), scores(0.25)).sentence()


def test_without_quantiles_the_wape_decides_and_where_all_are_zero_the_mae() -> None:
    assert (
        "WAPE 0.200 against 0.300" in meet(scores(NAN, 0.2), scores(0.25, 0.3), scores(NAN, 0.35)).sentence()
    )
    assert "MAE 0.500 against 1.000" in meet(scores(NAN, NAN, mae=0.5), scores(NAN, NAN, mae=1.0)).sentence()


def test_without_a_rival_or_a_number_there_is_no_verdict() -> None:
    assert duels({"x": {"auto": scores(0.2)}}, BASELINES, Losses(), overlap=1) == ()
    assert duels({"x": {"drift": scores(0.2)}}, BASELINES, Losses(), overlap=1) == ()
    unknown = {"x": {"auto": scores(NAN, NAN, mae=NAN), "drift": scores(0.2)}}
    assert duels(unknown, BASELINES, Losses(), overlap=1) == ()


def autoregressive(rows: int, memory: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=rows)
    values = np.zeros(rows)
    for row in range(rows):
        values[row] = noise[row] + (memory * values[row - 1] if row else 0)
    return values


@pytest.mark.parametrize(
    ("rows", "memory", "seed", "expected"),
    [
        (200, 0.0, 0, 1.1636657693662962),
        (500, 0.5, 1, 9.524181608859083),
        (1000, 0.9, 2, 27.397266167250564),
        (300, -0.5, 3, 10.636447302793197),
        (1024, 0.98, 4, 63.65105523446282),
        (64, 0.7, 5, 7.302265815560363),
    ],
)
def test_the_block_length_is_that_of_arch(rows: int, memory: float, seed: int, expected: float) -> None:
    """``arch.bootstrap.optimal_block_length`` of arch 8.0.0, the column ``circular``."""
    assert block_length(autoregressive(rows, memory, seed)) == round(expected)


def test_where_nothing_is_lost_nothing_is_shown() -> None:
    """A channel of zeros, which a baseline forecasts without an error."""
    duel = meet(scores(NAN, NAN, mae=0.0), scores(NAN, NAN, mae=0.0))
    assert (duel.outcome, duel.gain) == ("no evidence", 0)
    assert "both have MAE 0.000" in duel.sentence()


def test_blocks_of_what_does_not_vary_are_single() -> None:
    assert block_length(np.full(100, 3.0)) == 1
    assert block_length(np.arange(5.0)) == 1


def by_loops(ours: list[float], theirs: list[float], block: int, resamples: int) -> list[float]:
    """Gains of a circular moving-block bootstrap, drawn one by one, sorted."""
    draw, n, gains = random.Random(3), len(ours), []
    for _ in range(resamples):
        rows: list[int] = []
        while len(rows) < n:
            start = draw.randrange(n)
            rows += [(start + step) % n for step in range(block)]
        gains.append(1 - sum(ours[row] for row in rows) / sum(theirs[row] for row in rows))
    return sorted(gains)


@pytest.mark.parametrize("block", [1, 7, 20])
def test_the_interval_is_that_of_plain_loops(block: int) -> None:
    hard = np.exp(autoregressive(300, 0.8, 6))
    ours, theirs = hard * np.exp(0.3 * autoregressive(300, 0.5, 7)), hard * 1.1
    low, high = gain_interval(ours, theirs[:, None], block)
    gains = by_loops(ours.tolist(), theirs.tolist(), block, 3000)
    # 3,000 draws: the ends of 95 % expanded for few blocks lie between these
    assert gains[15] <= low <= gains[110]
    assert gains[-111] <= high <= gains[-16]
    assert low < 1 - ours.sum() / theirs.sum() < high


def test_every_unit_begins_a_block_and_the_first_follows_the_last() -> None:
    """Of two blocks of three units in six there are 36 resamples; with so few blocks the ends are the extremes of all."""
    ours, theirs = np.array([9.0, 1, 1, 1, 1, 7]), np.array([1.0, 2, 3, 4, 5, 60])
    blocks = [[(start + step) % 6 for step in range(3)] for start in range(6)]
    gains = [1 - ours[a + b].sum() / theirs[a + b].sum() for a in blocks for b in blocks]
    assert gain_interval(ours, theirs[:, None], 3) == pytest.approx((min(gains), max(gains)))


def test_losses_with_memory_are_worth_fewer_windows() -> None:
    averages = {"x": {"auto": scores(0.2), "drift": scores(0.25)}}
    losses, times, apart = Losses(), np.arange(1000), autoregressive(1000, 0.9, 2)[:, None]
    losses.begin(times)
    losses.add("auto", times, {"pinball": 20 + apart})
    losses.add("drift", times, {"pinball": np.full((1000, 1), 25.0)})
    assert duels(averages, BASELINES, losses, overlap=3)[0].windows == 1000 // 27  # of arch, as above


def test_blocks_widen_the_interval_of_losses_that_follow_each_other() -> None:
    ours, theirs = np.exp(0.1 * autoregressive(600, 0.9, 8)), np.ones(600)
    single, blocks = (np.subtract(*gain_interval(ours, theirs[:, None], block)[::-1]) for block in (1, 30))
    assert blocks > 2 * single


def test_noise_is_rarely_called_a_difference() -> None:
    """Two models that are equally good, on losses with memory: of 100 verdicts few may find a difference."""
    wrong = 0
    for seed in range(100):
        losses, times, rng = Losses(), np.arange(240), np.random.default_rng(seed)
        losses.begin(times)
        hard = np.exp(0.7 * autoregressive(240, 0.6, 1000 + seed))
        for name in ("auto", "drift"):
            losses.add(name, times, {"pinball": (hard * np.exp(0.3 * rng.normal(size=240)))[:, None]})
        averages = {
            "x": {name: scores(float(losses.of(name, "pinball", 0).sum())) for name in ("auto", "drift")}
        }
        wrong += duels(averages, BASELINES, losses, overlap=3)[0].outcome != "no evidence"
    assert wrong <= 12


def test_losses_are_added_by_time_over_items_and_calls_in_bounded_memory() -> None:
    losses, rows = Losses(), 3 * MAX_UNITS
    times = np.tile(np.arange(rows), 2)  # two items
    losses.begin(times)
    for part in np.array_split(np.arange(2 * rows), 7):
        losses.add("auto", times[part], {"pinball": np.column_stack([times[part], np.ones(len(part))])})
    losses.begin(np.array([rows]))
    losses.add("auto", np.array([rows]), {"pinball": np.array([[5.0, 1.0]])})
    assert losses.n_origins == rows + 1
    count = losses.of("auto", "pinball", 1)
    assert count.tolist() == [6.0] * MAX_UNITS + [1.0]
    assert losses.of("auto", "pinball", 0).sum() == 2 * sum(range(rows)) + 5
    assert len(losses.of("auto", "absolute", 0)) == 0


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("wql", 0.25, "0.250"),
        ("wape", 0.25, "0.250"),
        ("relative_bias", -0.0304, "−3.0 %"),
        ("relative_bias", 0.2, "+20.0 %"),
        ("coverage_80", 0.7964, "79.6 %"),
        ("mae", 1234567.8, "1,234,568"),
        ("mae", 12.3456, "12.35"),
        ("bias", -0.00001, "-1.000e-05"),
        ("r2", NAN, "–"),
        ("mse", 0.0, "0"),
    ],
)
def test_cells(metric: str, value: float, text: str) -> None:
    assert cell(metric, value) == text


def test_a_number_keeps_its_whole_part() -> None:
    assert [number(v) for v in (999.4, 1000.4, 2e15)] == ["999.4", "1,000", "2.000e+15"]


def test_a_number_has_four_digits_however_small_and_a_dash_where_there_is_none() -> None:
    assert [number(v) for v in (0.25, 0.0123, -1.5, 0.0, None)] == ["0.2500", "0.01230", "-1.500", "0", "–"]
    assert [number(v) for v in (NAN, math.inf)] == ["–", "inf"]
