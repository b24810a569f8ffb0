"""Items of a fleet: weights of their own, chosen by the folds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from presurge.models import registry
from presurge.models.linear.linear import Linear, LinearConfig
from presurge.series.frequency import MINUTE
from presurge.series.panel import Channel, Panel
from presurge.series.windows import batch_of, complete, targets_of, window_origins

MakePanel = Callable[..., Panel]


def autoregressive(weights: list[float], rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.zeros(rows)
    for t in range(len(weights), rows):
        x[t] = np.dot(weights, x[t - len(weights) : t][::-1]) + rng.normal()
    return x + 40


def linear(own: str, **sizes: int) -> Linear:
    config = LinearConfig.model_validate({"own": own})
    return Linear(**{"context": 6, "horizon": 2, **sizes}, config=config)


def errors_by_item(model: Linear, panel: Panel, share: str = "0.3") -> np.ndarray:
    """WAPE of every item and channel over the rows after training."""
    _, test = panel.full_span().cut_tail(share)
    size = model.context, model.horizon
    origins = window_origins(panel, test, context=size[0], horizon=size[1])
    origins = origins[complete(panel, origins, before=size[0], after=size[1]).all(axis=1)]
    actual = targets_of(panel, origins, size[1]).astype(np.float64)
    parts = np.array_split(origins, 20)
    error = np.concatenate([model.predict(batch_of(panel, part, size[0])).point_BHC for part in parts])
    item = panel.items_of(origins)
    kept = [item == i for i in range(len(panel.items))]
    return np.array(
        [np.abs(error - actual)[k].sum(axis=(0, 1)) / np.abs(actual[k]).sum(axis=(0, 1)) for k in kept]
    )


def opposed(make_panel: MakePanel) -> Panel:
    """Two items that keep on and two that turn back at once, of very different size."""
    on, back = [0.8], [-0.8]
    rows = [
        size * autoregressive(w, 700, s)
        for s, (w, size) in enumerate(((on, 1), (back, 1e3), (on, 50), (back, 7)))
    ]
    return make_panel(np.concatenate(rows), lengths=(700,) * 4)


def test_items_of_different_kinds_get_weights_of_their_own(make_panel: MakePanel, tmp_path: Path) -> None:
    panel = opposed(make_panel)
    train, _ = panel.full_span().cut_tail("0.3")
    pooled, own = linear("off"), linear("auto")
    assert pooled.fit(panel, train).chosen["c0"]["own"] == 0
    report = own.fit(panel, train)
    assert report.chosen["c0"]["own"] == 4
    assert report.n_parameters > 4 * 2 * 7
    assert (errors_by_item(own, panel) < 0.95 * errors_by_item(pooled, panel)).all()
    own.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    assert isinstance(again, Linear)
    np.testing.assert_array_equal(errors_by_item(again, panel), errors_by_item(own, panel))


def test_the_forecast_of_an_item_is_that_of_its_own_model(make_panel: MakePanel) -> None:
    panel = opposed(make_panel)
    model = linear("on")
    model.fit(panel, panel.full_span())
    origins = np.arange(705, 1390)
    for item, name in enumerate(panel.items):
        alone = make_panel(panel.values[panel.rows_of(item), 0]).replace(items=(name,))
        single = linear("auto")
        single.fit(alone, alone.full_span())
        begin = panel.indptr[item]
        one = model.predict(batch_of(panel, origins - 700 + begin, 6)).point_BHC
        np.testing.assert_allclose(
            one, single.predict(batch_of(alone, origins - 700, 6)).point_BHC, rtol=1e-6
        )


def test_an_item_with_too_few_rows_has_those_of_all(make_panel: MakePanel) -> None:
    rows = [autoregressive([0.8], n, s) for s, n in enumerate((500, 500, 9))]
    panel = make_panel(np.concatenate(rows), lengths=(500, 500, 9))
    pooled, own = linear("off"), linear("auto")
    pooled.fit(panel, panel.full_span())
    own.fit(panel, panel.full_span())
    assert panel.items[2] not in own.own
    batch = batch_of(panel, np.array([1005, 1006]), 6)
    np.testing.assert_array_equal(own.predict(batch).point_BHC, pooled.predict(batch).point_BHC)
    mixed = own.predict(batch_of(panel, np.array([1005, 300, 1006, 700]), 6)).point_BHC
    np.testing.assert_array_equal(mixed[[0, 2]], own.predict(batch).point_BHC)


def test_one_item_may_use_a_covariate_that_the_others_do_not(make_panel: MakePanel, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = [autoregressive([0.5], 600, s) for s in range(3)]
    sale = rng.integers(0, 2, (3, 600)).astype(float)
    rows[1] = rows[1] + 20 * sale[1]
    panel = make_panel(np.stack([np.concatenate(rows), sale.ravel()], 1), lengths=(600,) * 3)
    panel = panel.with_roles(known=["c1"])
    model = linear("on")
    model.fit(panel, panel.full_span())
    assert "covariates" in model.own[panel.items[1]].model.channels[0].weights
    assert [channel.name for channel in model.fitted_spec().known] == ["c1"]
    model.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    batch = batch_of(panel, np.arange(5, 1790, 7), 6, 2)
    np.testing.assert_array_equal(again.predict(batch).point_BHC, model.predict(batch).point_BHC)


@pytest.mark.parametrize("clusters", [(5, 21, 29, 33), (1, 13, 37)])
def test_real_clusters_are_forecast_together_as_well_as_alone(
    shared: Path, clusters: tuple[int, ...]
) -> None:
    """Eight to ten days by ten minutes, large holes among them: each within 5 % of a model of its own."""
    table = pl.read_parquet(shared / "data/workload/cluster_capacity_1min.parquet")
    step, columns = 10 * MINUTE, []
    for cluster in clusters:
        rows = (
            table.filter(pl.col("cluster") == cluster)
            .sort("timestamp")
            .group_by_dynamic("timestamp", every="10m")
            .agg(pl.col("cpu").mean())
            .tail(1400)
        )
        at = rows["timestamp"].cast(pl.Int64).to_numpy()
        values = np.full((at[-1] - at[0]) // step + 1, np.nan, np.float32)
        values[(at - at[0]) // step] = rows["cpu"]
        columns.append((at[0], values[:, None]))
    channels = (Channel("cpu"),)

    def panel_of(parts: list[tuple[int, np.ndarray]], names: tuple[str, ...]) -> Panel:
        return Panel(
            values=np.concatenate([values for _, values in parts]),
            channels=channels,
            step=step,
            start=np.array([start for start, _ in parts]),
            items=names,
            indptr=np.cumsum([0, *(len(values) for _, values in parts)]),
        )

    names = tuple(map(str, clusters))
    fleet = panel_of(columns, names)
    model = linear("auto", context=36, horizon=3)
    model.fit(fleet, fleet.full_span().cut_tail("0.3")[0])
    together = errors_by_item(model, fleet)[:, 0]
    for item, name in enumerate(names):
        alone = panel_of(columns[item : item + 1], (name,))
        single = linear("auto", context=36, horizon=3)
        single.fit(alone, alone.full_span().cut_tail("0.3")[0])
        assert together[item] <= 1.05 * errors_by_item(single, alone)[0, 0]
