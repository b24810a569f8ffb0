"""Ratios of channels: means for each request, carried over rows without one, and never a target there."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, complete, targets_of, whole

NAME = "input_tokens/requests"
CHANNELS = (Channel("requests", "requests", "count"), Channel("input_tokens", "tokens", "count"))
COUNT = st.one_of(st.none(), st.integers(0, 3))


def panel_of(rows: list[tuple[int | None, int | None]], items: tuple[int, ...] = ()) -> Panel:
    values = np.array([[np.nan if v is None else v for v in row] for row in rows], np.float32)
    sizes = items or (len(rows),)
    return Panel(
        values=values,
        channels=CHANNELS,
        step=60_000_000,
        start=np.zeros(len(sizes), np.int64),
        items=tuple(map(str, range(len(sizes)))),
        indptr=np.concatenate(([0], np.cumsum(sizes))),
    )


def test_a_ratio_is_that_of_the_sums_and_is_carried() -> None:
    panel = panel_of([(0, 0), (2, 10), (0, 0), (4, 10), (None, 3), (0, 0), (1, 0)]).with_ratios(
        [NAME, "requests"]
    )
    assert panel.channel_names == ("requests", "input_tokens", NAME)
    assert panel.channels[2] == Channel(NAME, "tokens/request", "count")
    np.testing.assert_array_equal(panel.values[:, 2], np.array([5, 5, 5, 2.5, np.nan, 2.5, 0], np.float32))
    assert panel.carried is not None
    assert panel.carried[:, 2].tolist() == [True, False, True, False, False, True, False]
    assert not panel.carried[:, :2].any()
    assert panel.measured[:, 2].tolist() == [False, True, False, True, False, False, True]
    assert panel.with_ratios(["tokens/requests", "a/b/c"]) is panel
    assert panel.to_frame()[NAME].to_list() == [None, 5, None, 2.5, None, None, 0]


def test_only_a_ratio_of_counts_is_never_negative() -> None:
    panel = panel_of([(1, 7), (2, 4)])
    gauge = panel.replace(channels=(CHANNELS[0], Channel("input_tokens")))
    assert [p.with_ratios([NAME]).count_mask.tolist()[2] for p in (panel, gauge)] == [True, False]


def test_nothing_is_carried_from_one_item_to_the_next() -> None:
    panel = panel_of([(1, 7), (0, 0), (0, 0), (1, 9), (0, 0), (0, 0)], (2, 2, 2)).with_ratios([NAME])
    np.testing.assert_array_equal(panel.values[:, 2], np.array([7, 7, 9, 9, np.nan, np.nan], np.float32))


@given(st.lists(st.tuples(COUNT, COUNT), min_size=1, max_size=30))
def test_ratios_against_polars(rows: list[tuple[int | None, int | None]]) -> None:
    panel = panel_of(rows).with_ratios([NAME])
    frame = pl.DataFrame(rows, schema={"n": pl.Float64, "x": pl.Float64}, orient="row")
    ratio = pl.when(pl.col("n") != 0).then(pl.col("x") / pl.col("n"))
    hole = (pl.col("n") == 0) & pl.col("x").is_not_null()
    told = frame.select(
        r=pl.when(hole).then(ratio.forward_fill().fill_null(ratio.drop_nulls().first())).otherwise(ratio)
    )
    expected = told["r"].fill_null(np.nan).to_numpy().astype(np.float32)
    np.testing.assert_allclose(panel.values[:, 2], expected, rtol=1e-6)
    measured = frame.select(m=ratio.is_not_null())["m"].to_numpy()
    np.testing.assert_array_equal(panel.measured[:, 2], measured)


def test_a_hole_is_no_target_but_a_context() -> None:
    panel = panel_of([(1, 4), (0, 0), (2, 6), (1, 5), (0, 0), (3, 3)]).with_ratios([NAME])
    origins = np.array([1, 2, 3])
    assert whole(panel, origins, context=2, horizon=2).all()
    np.testing.assert_array_equal(batch_of(panel, origins, 2).context_BLC[:, :, 2], [[4, 4], [4, 3], [3, 5]])
    actual = targets_of(panel, origins, 2)[:, :, 2]
    np.testing.assert_array_equal(actual, [[3, 5], [5, np.nan], [np.nan, 1]])
    assert complete(panel, origins, before=2, after=2)[:, 2].tolist() == [True, False, False]
    assert complete(panel, origins, before=2, after=0)[:, 2].all()


@pytest.mark.parametrize("names", [[NAME], [NAME, "requests"]])
def test_selections_keep_what_was_carried(names: list[str]) -> None:
    panel = panel_of([(1, 4), (0, 0), (2, 6)]).with_ratios([NAME]).select(names)
    assert panel.measured[:, 0].tolist() == [True, False, True]
    tail = panel.take(Span(np.array([1]), np.array([3])))
    assert tail.measured[:, 0].tolist() == [False, True]
