"""Finding the season: shapes, noise and steps where there is one, and series that only look so."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import f as f_distribution

from presurge.models.season import _chance, detect_season
from presurge.series.frequency import DAY, HOUR, MINUTE
from presurge.series.panel import Panel

MakePanel = Callable[..., Panel]


def rate(shape: str, rows: int, step: int) -> np.ndarray:
    """Requests a step, on average, from a Monday on."""
    days = np.arange(rows) * step / DAY
    hour, sine = days % 1 * 24, np.sin(2 * np.pi * days)
    work = days.astype(int) % 7 < 5
    return {
        "sine": 20 + 12 * sine,
        "sharp": np.where((hour >= 9) & (hour < 10), 110.0, 10.0),
        "business": np.where((hour >= 9) & (hour < 17), 50.0, 10.0),
        "two peaks": 10 + 20 * np.exp(-(((hour - 9) / 1.5) ** 2)) + 25 * np.exp(-(((hour - 19) / 2) ** 2)),
        "sawtooth": 10 + 2 * hour,
        "growing": (20 + 12 * sine) * np.exp(days / 10),
        "quiet weekends": (20 + 12 * sine) * np.where(work, 1, 0.3),
        "other weekends": np.where(work, 20 + 15 * sine, 12 + 5 * np.sin(2 * np.pi * days + 2)),
    }[shape]


def periods(
    make_panel: MakePanel, draw: Callable[[np.random.Generator], np.ndarray], step: int
) -> np.ndarray:
    """The periods found in twenty draws."""
    panels = [make_panel(draw(np.random.default_rng(seed)), step=step) for seed in range(20)]
    return np.array([detect_season(panel, panel.full_span()).period for panel in panels])


@pytest.mark.parametrize(
    "shape", ["sine", "sharp", "business", "two peaks", "growing", "quiet weekends", "other weekends"]
)
def test_ten_days_by_the_hour_are_enough(make_panel: MakePanel, shape: str) -> None:
    found = periods(make_panel, lambda rng: rng.poisson(rate(shape, 240, HOUR)), HOUR)
    assert (found == 24).mean() >= 0.95


@pytest.mark.parametrize(
    ("shape", "days", "step", "burst"),
    [
        ("business", 10, HOUR, 1.0),  # gamma times Poisson is negative binomial
        ("sine", 42, HOUR, 1.0),
        ("sharp", 42, HOUR, 1.0),
        ("two peaks", 42, HOUR, 1.0),
        ("sine", 10, 5 * MINUTE, 1.0),
        ("business", 10, 5 * MINUTE, 0.3),
        ("sine", 5, 2 * MINUTE, 1.0),
    ],
)
def test_bursts_do_not_hide_a_day(
    make_panel: MakePanel, shape: str, days: int, step: int, burst: float
) -> None:
    rows = days * DAY // step
    mean = rate(shape, rows, step)
    found = periods(make_panel, lambda rng: rng.poisson(mean * rng.gamma(burst, 1 / burst, rows)), step)
    assert (found % (DAY // step) == 0).mean() >= 0.95


def test_a_day_that_rises_in_a_straight_line_is_a_day(make_panel: MakePanel) -> None:
    """What each repetition loses with its line is the season itself, so no wave keeps its phase."""
    found = periods(make_panel, lambda rng: rng.normal(rate("sawtooth", 40 * 24, HOUR), 5), HOUR)
    assert (found == 24).mean() >= 0.9


def test_errors_that_last_do_not_hide_a_day(make_panel: MakePanel) -> None:
    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.poisson(rate("sine", 240, HOUR) * np.exp(autoregressive(0.8, 240, rng) * 0.2))

    assert (periods(make_panel, draw, HOUR) == 24).mean() >= 0.9


@pytest.mark.parametrize("days", [21, 42])
def test_a_week_only_where_weekdays_differ(make_panel: MakePanel, days: int) -> None:
    for shape, period in (("quiet weekends", 168), ("other weekends", 168), ("two peaks", 24)):
        found = periods(make_panel, lambda rng, s=shape: rng.poisson(rate(s, days * 24, HOUR)), HOUR)
        assert (found == period).mean() >= (0.95 if days == 42 else 0.7)


def autoregressive(weight: float, rows: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=rows)
    for t in range(1, rows):
        x[t] += weight * x[t - 1]
    return x


NONE = {
    "noise": lambda rng, rows: rng.normal(size=rows),
    "counts": lambda rng, rows: rng.poisson(3, rows),
    "heavy tails": lambda rng, rows: rng.gamma(0.3, 10, rows),
    "spikes": lambda rng, rows: (rng.random(rows) < 0.01) * 100.0,
    "walk": lambda rng, rows: rng.normal(size=rows).cumsum(),
    "ar 0.5": lambda rng, rows: autoregressive(0.5, rows, rng),
    "ar 0.99": lambda rng, rows: autoregressive(0.99, rows, rng),
    "trend": lambda rng, rows: np.arange(rows) + 5 * rng.normal(size=rows),
    "growth": lambda rng, rows: np.exp(np.arange(rows) / rows * 4) + rng.normal(size=rows),
    "shift": lambda rng, rows: np.where(np.arange(rows) < rows / 2, 10, 30) + rng.normal(size=rows),
}


@pytest.mark.parametrize("kind", NONE)
@pytest.mark.parametrize(("rows", "step"), [(240, HOUR), (1500, HOUR), (2000, 5 * MINUTE)])
def test_no_season_where_there_is_none(make_panel: MakePanel, kind: str, rows: int, step: int) -> None:
    found = periods(make_panel, lambda rng: NONE[kind](rng, rows), step)
    assert (found > 1).sum() <= 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 100),
    size=st.floats(1e-3, 1e6),
    shape=st.sampled_from(["sine", "business", "quiet weekends"]),
    holes=st.floats(0, 0.1),
)
def test_neither_the_unit_nor_a_few_holes_matter(
    seed: int, size: float, shape: str, holes: float, make_panel: MakePanel
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.poisson(rate(shape, 24 * 35, HOUR)).astype(np.float64)
    values[rng.random(len(values)) < holes] = np.nan
    one, other = (make_panel(values * factor) for factor in (1.0, size))
    found = detect_season(one, one.full_span()).period
    assert found in (24, 168)
    assert detect_season(other, other.full_span()).period == found


def test_the_chance_is_that_of_the_f_distribution() -> None:
    rng = np.random.default_rng(1)
    x_DP = rng.normal([0.5, 0.0, -0.1], 1.0, (30, 3))  # three rows have one wave
    line = np.linspace(-1, 1, 3)
    free = [row - np.polyval(np.polyfit(line, row, 1), line) for row in x_DP]
    wave = np.fft.fft(free, axis=1)[:, 1]
    mean = wave.mean()
    ratio = 30 * abs(mean) ** 2 / (np.abs(wave - mean) ** 2).sum() * 29
    assert _chance([x_DP.ravel()], 3, 1) == pytest.approx(f_distribution.sf(ratio, 2, 58), rel=1e-9)
