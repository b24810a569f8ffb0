"""Windows: what they hold, and what they never cross."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from presurge.series.frequency import MINUTE
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, chunks, complete, gather, targets_of, whole, window_origins


def panel(values: np.ndarray, lengths: list[int]) -> Panel:
    table = values if values.ndim == 2 else values[:, None]
    return Panel(
        values=table.astype(np.float32),
        channels=tuple(Channel(f"c{i}") for i in range(table.shape[1])),
        step=MINUTE,
        start=np.arange(len(lengths)) * 10**12,
        items=tuple(map(str, range(len(lengths)))),
        indptr=np.concatenate([[0], np.cumsum(lengths)]),
    )


@pytest.mark.parametrize("stride", [1, 10])
def test_the_ramp(stride: int) -> None:
    """The context 0 ... 119 has the targets 120, 121, 122, and every window goes on where its context ends."""
    ramp = panel(np.arange(400), [400])
    origins = window_origins(ramp, ramp.full_span(), context=120, horizon=3, stride=stride)
    context_BL = batch_of(ramp, origins, 120).context_BLC[:, :, 0]
    target_BH = targets_of(ramp, origins, 3)[:, :, 0]
    assert context_BL[0, -1] == 119
    assert target_BH[0].tolist() == [120, 121, 122]
    np.testing.assert_array_equal(target_BH, context_BL[:, -1:] + [1, 2, 3])
    np.testing.assert_array_equal(np.diff(origins), stride)


def test_all_windows_of_a_series() -> None:
    values = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    series = panel(values, [50])
    origins = window_origins(series, series.full_span(), context=7, horizon=3)
    expected = sliding_window_view(values, 10, axis=0).transpose(0, 2, 1)
    np.testing.assert_array_equal(gather(series.values, origins, before=7, after=3), expected)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    context=st.integers(1, 8),
    horizon=st.integers(1, 4),
    stride=st.integers(1, 5),
    cut=st.floats(0, 1),
)
def test_targets_stay_in_the_span_and_contexts_in_the_item(
    lengths: list[int], context: int, horizon: int, stride: int, cut: float
) -> None:
    series = panel(np.arange(sum(lengths)), lengths)
    head, tail = series.full_span().cut_tail(cut)
    for span in (head, tail):
        origins = window_origins(series, span, context=context, horizon=horizon, stride=stride)
        expected = []
        for begin, first, last in zip(series.indptr, span.first, span.last, strict=False):
            rows = [row for row in range(int(begin) + context - 1, int(last) - horizon) if row + 1 >= first]
            expected += rows[::stride]
        assert origins.tolist() == expected


def test_origins_carry_the_time_and_the_item() -> None:
    series = panel(np.arange(20), [8, 0, 12])
    batch = batch_of(series, np.array([7, 8, 19]), 1)
    assert batch.item_B.tolist() == [0, 2, 2]
    assert batch.origin_B.tolist() == [7 * MINUTE, 2 * 10**12, 2 * 10**12 + 11 * MINUTE]


@pytest.mark.parametrize("context", [1, 5, 9, 30])
def test_what_lies_before_an_item_is_missing(context: int) -> None:
    series = panel(np.arange(20), [8, 12])
    origins = np.array([0, 3, 7, 8, 19])
    found = batch_of(series, origins, context).context_BLC[:, :, 0]
    for origin, window in zip(origins, found, strict=True):
        begin = 0 if origin < 8 else 8
        rows = range(origin - context + 1, origin + 1)
        np.testing.assert_array_equal(window, [row if row >= begin else np.nan for row in rows])


@given(st.integers(0, 2**32 - 1))
def test_complete_is_what_gather_finds_without_nan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((40, 2)) < 0.05, np.nan, 1.0)
    series = panel(values, [40])
    origins = window_origins(series, series.full_span(), context=5, horizon=2)
    windows = gather(series.values, origins, before=5, after=2)
    np.testing.assert_array_equal(
        complete(series, origins, before=5, after=2), ~np.isnan(windows).any(axis=1)
    )


def test_values_in_column_order_are_gathered_alike() -> None:
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    origins = np.array([4, 9, 17])
    expected = gather(values, origins, before=5, after=2)
    np.testing.assert_array_equal(gather(np.asfortranarray(values), origins, before=5, after=2), expected)
    np.testing.assert_array_equal(expected[1], values[5:12])


def test_no_windows() -> None:
    series = panel(np.arange(4), [4])
    origins = window_origins(series, series.full_span(), context=5, horizon=3)
    assert len(origins) == 0
    assert batch_of(series, origins, 5).context_BLC.shape == (0, 5, 1)
    assert complete(series, origins, before=5, after=3).shape == (0, 1)


def test_a_span_may_be_empty_for_one_item() -> None:
    series = panel(np.arange(20), [10, 10])
    span = Span(np.array([5, 20]), np.array([10, 20]))
    assert window_origins(series, span, context=2, horizon=1).tolist() == [4, 5, 6, 7, 8]


def test_chunks_lose_nothing() -> None:
    origins = np.arange(25)
    np.testing.assert_array_equal(np.concatenate(list(chunks(origins, 10))), origins)
    assert [len(part) for part in chunks(origins, 10)] == [10, 10, 5]


def driven() -> Panel:
    """Two items of ten and eight rows: a target, a known channel and an observed one."""
    values = np.arange(54).reshape(18, 3)
    return panel(values, [10, 8]).with_roles(known=["c1"], observed=["c2"])


def test_a_batch_holds_all_channels_up_to_the_origin_and_the_known_ones_after_it() -> None:
    series = driven()
    batch = batch_of(series, np.array([4, 8]), 3, 2)
    np.testing.assert_array_equal(
        batch.context_BLC, gather(series.values, np.array([4, 8]), before=3, after=0)
    )
    assert batch.future_BHK is not None
    np.testing.assert_array_equal(batch.future_BHK[0, :, 0], series.values[5:7, 1])
    assert batch.future_BHK[1, 0, 0] == series.values[9, 1]
    assert np.isnan(batch.future_BHK[1, 1, 0]), "the next row belongs to another item"
    np.testing.assert_array_equal(batch.targets(), batch.context_BLC[:, :, :1])
    np.testing.assert_array_equal(targets_of(series, np.array([4]), 2)[0, :, 0], series.values[5:7, 0])
    assert batch_of(series.only_targets(), np.array([4]), 3, 2).future_BHK is None


def test_a_batch_can_be_read_in_another_order_of_channels() -> None:
    series = driven()
    batch = batch_of(series, np.array([4]), 3, 2)
    turned = batch.select(series.channels[::-1])
    np.testing.assert_array_equal(turned.context_BLC, batch.context_BLC[:, :, ::-1])
    np.testing.assert_array_equal(turned.future_BHK, batch.future_BHK)
    assert batch.select(series.channels[:1]).future_BHK.shape == (1, 2, 0)
    assert batch.last_rows(2).context_BLC.shape == (1, 2, 3)


def test_whole_asks_for_the_known_rows_of_the_horizon_only() -> None:
    series = driven()
    values = series.values.copy()
    values[6, 0] = values[3, 1] = np.nan
    origins = np.arange(2, 18)
    usable = whole(series.replace(values=values), origins, context=1, horizon=2)
    assert origins[usable].tolist() == [4, 5, 7, 10, 11, 12, 13, 14, 15]


def test_times_of_bars_go_on_by_the_nominal_step() -> None:
    bars = np.array([0, 1, 5, 6, 7, 8, 20, 21, 22, 23, *range(50, 58)]) * MINUTE
    series = driven().replace(stamps=bars)
    batch = batch_of(series, np.array([6, 9]), 2, 2)
    assert (batch.times(2) // MINUTE).tolist() == [[8, 20, 21, 22], [22, 23, 24, 25]]
    assert (batch.last_rows(1).times(2) // MINUTE).tolist() == [[20, 21, 22], [23, 24, 25]]
    assert (batch_of(driven(), np.array([3]), 2, 1).times(1) // MINUTE).tolist() == [[2, 3, 4]]
