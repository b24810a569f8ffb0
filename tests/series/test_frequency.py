"""Steps: written, read and guessed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import ConfigError, DataError
from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND, WEEK, format_step, infer_step, parse_step


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("60s", MINUTE),
        ("60", MINUTE),
        (60, MINUTE),
        ("5m", 5 * MINUTE),
        ("5min", 5 * MINUTE),
        ("90 sec", 90 * SECOND),
        (" 1H ", HOUR),
        ("1d", DAY),
        ("1w", WEEK),
    ],
)
def test_parse(text: str | int, step: int) -> None:
    assert parse_step(text) == step


@pytest.mark.parametrize("text", ["", "0s", "-5m", "1.5h", "500ms", "2w", "8d", "an hour", "1y"])
def test_invalid_steps_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_step(text)


@given(st.integers(1, 7 * 86_400))
def test_written_and_read_again(seconds: int) -> None:
    assert parse_step(format_step(seconds * SECOND)) == seconds * SECOND


def test_the_largest_whole_unit() -> None:
    assert [format_step(s * SECOND) for s in (1, 60, 90, 3600, 86_400, 604_800)] == [
        "1s",
        "1m",
        "90s",
        "1h",
        "1d",
        "1w",
    ]


@given(st.integers(0, 2**32 - 1), st.integers(1, 3600))
def test_guessed_through_gaps_duplicates_and_jitter(seed: int, seconds: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(60, 50, replace=False))
    stamps = rows * seconds * SECOND + rng.integers(-2000, 2000, 50)
    regular = np.arange(100, 200) * seconds * SECOND
    assert infer_step(np.sort(np.concatenate([stamps, regular, regular[:5]]))) == seconds * SECOND


@pytest.mark.parametrize("stamps", [[], [5], [7, 7, 7], [0, 30 * DAY, 60 * DAY]])
def test_a_step_that_cannot_be_inferred_is_an_error(stamps: list[int]) -> None:
    with pytest.raises(DataError):
        infer_step(np.array(stamps, np.int64))
