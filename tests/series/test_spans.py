"""Cutting rows into parts."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import ConfigError
from presurge.series.spans import Span


def span(*lengths: int) -> Span:
    ends = np.cumsum(lengths)
    return Span(ends - np.array(lengths), ends)


def test_the_published_split_of_a_minute_series() -> None:
    parts = span(87_833).cut(["0.6", "0.1", "0.2", "0.1"])
    assert [len(part) for part in parts] == [52_699, 8_784, 17_566, 8_784]


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=5)
)
def test_the_parts_cover_every_item_in_order(lengths: list[int], weights: list[int]) -> None:
    whole = span(*lengths)
    parts = whole.cut([Fraction(w, sum(weights)) for w in weights])
    np.testing.assert_array_equal(parts[0].first, whole.first)
    np.testing.assert_array_equal(parts[-1].last, whole.last)
    for before, after in pairwise(parts):
        np.testing.assert_array_equal(before.last, after.first)
        assert len(before.joined(after)) == len(before) + len(after)
    assert sum(map(len, parts)) == sum(lengths)


def test_each_item_is_cut_by_its_own_length() -> None:
    head, tail = span(100, 10).cut_tail(0.3)
    assert (head.last - head.first).tolist() == [70, 7]
    assert tail.first.tolist() == [70, 107]


def test_decimal_fractions_are_exact() -> None:
    assert [len(part) for part in span(10).cut([0.1] * 10)] == [1] * 10


@pytest.mark.parametrize("fractions", [[], [0.5], [0.7, 0.4], [1.2, -0.2]])
def test_parts_that_do_not_add_up(fractions: list[float]) -> None:
    with pytest.raises(ConfigError, match="split"):
        span(100).cut(fractions)
