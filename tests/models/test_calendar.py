"""The calendar terms, and their sums over windows against the sums written out."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from presurge.models.calendar import Calendar
from presurge.models.linear.moments import joint_moments
from presurge.series.frequency import DAY, HOUR, MINUTE, WEEK


def test_terms_are_sines_and_cosines_of_the_time_of_day_and_week() -> None:
    calendar = Calendar.of(HOUR, 24 * 14)
    time_B = np.array([0, 5 * HOUR, 3 * WEEK + 2 * DAY + 7 * HOUR])
    angles = [2 * np.pi * k * time_B / DAY for k in range(1, 9)]
    angles += [2 * np.pi * k * time_B / WEEK for k in range(1, 7)]
    expected = np.array([np.sin(a) for a in angles] + [np.cos(a) for a in angles]).T
    np.testing.assert_allclose(calendar.terms(time_B), expected, atol=1e-12)
    assert calendar.size == 28


def test_stamps_of_today_lose_no_digits() -> None:
    calendar = Calendar.of(HOUR, 24 * 14)
    now = 1_750_000_000_000_000 // WEEK * WEEK
    np.testing.assert_allclose(
        calendar.terms(np.array([now + 12_345_678])), calendar.terms(np.array([12_345_678])), atol=1e-12
    )


@pytest.mark.parametrize(
    ("step", "rows", "size"),
    [
        (HOUR, 24 * 14, 28),
        (HOUR, 24 * 14 - 1, 16),  # a week only once
        (HOUR, 47, 0),
        (6 * HOUR, 1000, 2 * (1 + 6)),  # a day has four rows: its second wave is at the limit
        (DAY, 1000, 2 * 3),  # a week has seven rows
        (WEEK, 1000, 0),
        (MINUTE, 2 * 1440, 16),
    ],
)
def test_only_what_the_rows_can_teach(step: int, rows: int, size: int) -> None:
    calendar = Calendar.of(step, rows)
    assert calendar.size == size
    assert calendar.terms(np.arange(5) * step).shape == (5, size)
    assert Calendar(step=step, harmonics=json.loads(json.dumps(calendar.harmonics))) == calendar


@given(
    seed=st.integers(0, 1000),
    context=st.integers(1, 9),
    horizon=st.integers(1, 5),
    stride=st.integers(1, 3),
    step=st.sampled_from([HOUR, 7 * MINUTE, 5 * HOUR]),
)
def test_sums_equal_the_windows_written_out(
    seed: int, context: int, horizon: int, stride: int, step: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, width = 200, context + horizon
    calendar = Calendar.of(step, 10_000)
    time_R = 1_700_000_000_000_000 + np.arange(rows) * step
    x_TR = rng.normal(size=(2, rows))
    kept = rng.random(rows - width + 1) > 0.02
    starts = np.arange(rows - width + 1)[kept][::stride]
    covariate_PR = np.zeros((0, rows))
    joint = joint_moments(
        x_TR, covariate_PR, starts, width, calendar=calendar, time_R=time_R, context=context
    )
    for x_R, moments in zip(x_TR, joint, strict=True):
        terms = calendar.terms(time_R[starts + context - 1])
        written_out = np.concatenate([sliding_window_view(x_R, width)[starts], terms], axis=1)
        assert moments.n == len(starts)
        np.testing.assert_allclose(moments.total_W, written_out.sum(axis=0), atol=1e-8)
        np.testing.assert_allclose(moments.gram_WW, written_out.T @ written_out, atol=1e-8)
