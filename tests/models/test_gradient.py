"""DLinear by gradient: true to the published network, close to the exact solver, fair about what is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presurge.errors import DataError
from presurge.models import registry
from presurge.models.linear.dlinear import DLinear, DLinearConfig
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import Panel
from presurge.series.windows import batch_of, targets_of, window_origins
from presurge.training.config import TrainingConfig

torch = pytest.importorskip("torch")

from presurge.models.networks.linear_maps import DLinearNetwork  # noqa: E402 - torch may be missing
from presurge.models.networks.task import ForecastLoss, WindowTask  # noqa: E402
from presurge.training.task import Epoch  # noqa: E402
from presurge.training.trainer import NonFiniteLossError, fit  # noqa: E402

MakePanel = Callable[..., Panel]


def training(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        **{
            "epochs": 30,
            "batch_size": 32,
            "device": "cpu",
            "learning_rate": 0.01,
            "schedule": "one-cycle",
            **changes,
        }
    )


def model(how: TrainingConfig, *, context: int = 12, horizon: int = 3, **settings: object) -> DLinear:
    chosen = DLinearConfig.model_validate({"solver": "sgd", "kernel_size": 5, **settings})
    return DLinear(context=context, horizon=horizon, config=chosen, training=how)


def textbook(x_BLC: np.ndarray, network: DLinearNetwork, kernel: int, level: str) -> np.ndarray:
    """The published network in float64, window by window and channel by channel: [B, R, C]."""
    weights = {name: value.detach().double().numpy() for name, value in network.named_parameters()}
    result = np.zeros((len(x_BLC), weights["trend_weight"].shape[1], x_BLC.shape[2]))
    for b, window_LC in enumerate(x_BLC.astype(np.float64)):
        for c, x in enumerate(window_LC.T):
            g = min(c, len(weights["trend_weight"]) - 1)
            off = {"last": x[-1], "mean": x.mean()}.get(level, 0.0)
            size = np.abs(x).mean() if level == "meanabs" else 1.0
            inner = (x - off) / size
            padded = np.pad(inner, kernel // 2, mode="edge")
            trend = np.convolve(padded, np.full(kernel, 1 / kernel), mode="valid")
            y = (
                weights["seasonal_weight"][g] @ (inner - trend)
                + weights["seasonal_bias"][g]
                + weights["trend_weight"][g] @ trend
                + weights["trend_bias"][g]
            )
            result[b, :, c] = y * size + off
    return result


@pytest.mark.parametrize("level", ["none", "last", "mean", "meanabs"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel", [1, 5, 25])
def test_forward_is_the_textbook(level: Any, groups: int, kernel: int) -> None:
    torch.manual_seed(0)
    settings = {"individual": groups > 1, "kernel_size": kernel, "normalisation": level}
    network = DLinearNetwork(model(training(), context=30, horizon=4, **settings), 3)
    assert len(network.trend_weight) == groups
    x_BLC = np.random.default_rng(0).normal(size=(6, 30, 3)).astype(np.float32)
    known, item = torch.zeros(6, 4, 0), torch.zeros(6, dtype=torch.int64)
    found = network(torch.from_numpy(x_BLC), known, item).detach().numpy()
    np.testing.assert_allclose(found, textbook(x_BLC, network, kernel, level), atol=1e-5)


def test_forward_of_quantiles_keeps_the_levels_of_a_step_together() -> None:
    torch.manual_seed(0)
    settings = {"loss": "quantile", "kernel_size": 3, "normalisation": "last"}
    network = DLinearNetwork(model(training(), context=10, horizon=4, **settings), 2)
    x_BLC = np.random.default_rng(0).normal(size=(5, 10, 2)).astype(np.float32)
    found = network(torch.from_numpy(x_BLC), torch.zeros(5, 4, 0), torch.zeros(5)).detach().numpy()
    assert found.shape == (5, 4, 11, 2)
    rows = textbook(x_BLC, network, 3, "last").reshape(5, 4, 11, 2)
    np.testing.assert_allclose(found, rows, atol=1e-5)


@pytest.fixture
def gauges(make_panel: MakePanel) -> Panel:
    """Two items, two gauges that look back a few rows."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(1500, 2))
    for row in range(3, 1500):
        values[row] += 0.6 * values[row - 1] - 0.3 * values[row - 3]
    return make_panel(values * [1.0, 50.0] + [0.0, 300.0], lengths=(900, 600))


@pytest.mark.parametrize("normalisation", ["none", "last", "mean", "meanabs"])
@pytest.mark.parametrize("individual", [True, False])
def test_what_is_saved_forecasts_as_the_network_did(
    gauges: Panel, normalisation: str, individual: bool, tmp_path: Path
) -> None:
    """The level is folded into the weights: the validation error of the training is that of the forecasts."""
    train, validation = gauges.full_span().cut_tail(0.2)
    fitted = model(training(epochs=2), normalisation=normalisation, individual=individual)
    report = fitted.fit(gauges, train, validation)
    fitted.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    origins = window_origins(gauges, validation, context=12, horizon=3)
    batch = batch_of(gauges, origins, 12)
    point_BHC = again.predict(batch).point_BHC
    np.testing.assert_array_equal(point_BHC, fitted.predict(batch).point_BHC)
    size_B1C = np.array([fitted.sizes[gauges.items[item]] for item in batch.item_B])[:, None]
    error = (point_BHC - targets_of(gauges, origins, 3)) / size_B1C / fitted.scaler.scale_C
    best = min(row["validation_loss"] for row in report.history)
    assert np.square(error).mean() == pytest.approx(best, rel=1e-5)
    assert report.n_parameters == 2 * (2 if individual else 1) * 13 * 3


@pytest.mark.parametrize("individual", [True, False])
def test_it_comes_close_to_the_exact_solver(gauges: Panel, individual: bool) -> None:
    span = gauges.full_span()
    exact = DLinear(context=12, horizon=3, config=DLinearConfig(individual=individual, ridge=0.0))
    exact.fit(gauges, span)
    learned = model(training(learning_rate=0.005), individual=individual)
    learned.fit(gauges, span)
    batch = batch_of(gauges, window_origins(gauges, span, context=12, horizon=3), 12)
    size_B1C = np.array([exact.sizes[gauges.items[item]] for item in batch.item_B])[:, None]
    apart = (learned.predict(batch).point_BHC - exact.predict(batch).point_BHC) / size_B1C
    apart /= exact.scaler.scale_C
    assert np.sqrt(np.square(apart).mean()) < 0.01
    np.testing.assert_allclose(learned.folded.weight_CHL, exact.folded.weight_CHL, atol=0.01)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "quantile"])
@pytest.mark.parametrize("gaps", [False, True])
def test_losses_and_their_gradients(loss: Any, gaps: bool, make_panel: MakePanel) -> None:
    """Against the written-out formula over the known targets; what is missing adds nothing, not even to the gradient."""
    rng = np.random.default_rng(2)
    levels = (0.1, 0.5, 0.9)
    shape = (8, 3, 3, 2) if loss == "quantile" else (8, 3, 2)
    forecast = torch.from_numpy(rng.normal(size=shape).astype(np.float32)).requires_grad_()
    target = rng.normal(size=(8, 3, 2)).astype(np.float32) * 2
    if gaps:
        target[rng.random(target.shape) < 0.3] = np.nan
    panel = make_panel(target.reshape(-1, 2))
    module = ForecastLoss(torch.nn.Identity(), model(training(), loss=loss), panel, levels)
    assert module.gaps == gaps
    value = module.criterion(forecast, torch.from_numpy(target))
    value.backward()
    wide = target[:, :, None, :] if loss == "quantile" else target
    e = wide.astype(np.float64) - forecast.detach().numpy()
    q = np.array(levels)[:, None] if loss == "quantile" else 0.5
    each, slope = {
        "mse": (e**2, -2 * e),
        "mae": (np.abs(e), -np.sign(e)),
        "huber": (np.where(np.abs(e) < 1, e**2 / 2, np.abs(e) - 0.5), -np.clip(e, -1, 1)),
        "quantile": (np.maximum(q * e, (q - 1) * e), np.where(e > 0, -q, np.where(e <= 0, 1 - q, np.nan))),
    }[loss]
    assert float(value.detach()) == pytest.approx(np.nanmean(each), rel=1e-5)
    expected = np.nan_to_num(slope) / np.isfinite(each).sum()
    np.testing.assert_allclose(forecast.grad.numpy(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", ["mae", "huber"])
def test_other_losses_are_less_moved_by_outliers(make_panel: MakePanel, loss: str) -> None:
    rng = np.random.default_rng(3)
    values = 10 + rng.normal(size=3000)
    values[rng.random(3000) < 0.02] += 300
    panel = make_panel(values)
    train, validation = panel.full_span().cut_tail(0.2)
    forecasts = {}
    for name in ("mse", loss):
        fitted = model(training(epochs=8), loss=name, scaler="robust")
        fitted.fit(panel, train, validation)
        forecasts[name] = fitted.folded.predict_one(np.full((12, 1), 10, np.float32)).mean()
    assert abs(forecasts[loss] - 10) < 0.5 < forecasts["mse"] - 10


def test_quantiles_do_not_cross_and_cover(make_panel: MakePanel, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = np.arange(6000)
    values = 50 + 10 * np.sin(2 * np.pi * rows / 24) + rng.normal(size=6000) * 4
    panel = make_panel(np.stack([values, rng.gamma(2, 10, 6000)], 1), kinds="gc")
    train, validation, test = panel.full_span().cut([0.5, 0.2, 0.3])
    fitted = model(training(epochs=15, batch_size=64), context=24, loss="quantile")
    fitted.fit(panel, train, validation)
    fitted.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    origins = window_origins(panel, test, context=24, horizon=3)
    point_BHC, quantiles_BHQC, _ = again.predict(batch_of(panel, origins, 24))
    assert (np.diff(quantiles_BHQC, axis=2) >= 0).all()
    assert (quantiles_BHQC[..., 1] >= 0).all()
    np.testing.assert_array_equal(point_BHC, quantiles_BHQC[:, :, QUANTILE_LEVELS.index(0.5)])
    below = (targets_of(panel, origins, 3)[:, :, None] <= quantiles_BHQC).mean(axis=(0, 1))
    np.testing.assert_allclose(below, np.array(QUANTILE_LEVELS)[:, None] * [1, 1], atol=0.03)


def test_gaps_are_left_out(gauges: Panel) -> None:
    """Missing targets count for nothing; a window whose context has a hole is not used at all."""
    values = gauges.values.copy()
    values[100, 0] = values[300:320, 1] = values[850, :] = np.nan
    holed = gauges.replace(values=values)
    train, validation = holed.full_span().cut_tail(0.2)
    fitted = model(training(epochs=10))
    report = fitted.fit(holed, train, validation)
    context_holes = np.isnan(values).any(axis=1)
    usable = 0
    for first, last, begin in zip(train.first, train.last, holed.indptr, strict=False):
        for origin in range(max(first - 1, begin + 11), last - 3):
            known = np.isfinite(values[origin + 1 : origin + 4]).any()
            usable += bool(known and not context_holes[origin - 11 : origin + 1].any())
    assert report.n_windows == usable
    assert all(np.isfinite(list(row.values())).all() for row in report.history)
    whole = model(training(epochs=10))
    whole.fit(gauges, train, validation)
    np.testing.assert_allclose(fitted.folded.weight_CHL, whole.folded.weight_CHL, atol=0.1)


def test_validation_weighs_what_is_known(gauges: Panel) -> None:
    values = gauges.values.copy()
    values[1490:1500, 0] = np.nan
    values[800:804, 1] = np.nan
    holed = gauges.replace(values=values)
    train, validation = holed.full_span().cut_tail(0.2)
    fitted = model(training(epochs=1))
    (row,) = fitted.fit(holed, train, validation).history
    squares = []
    for origin in window_origins(holed, validation, context=12, horizon=3):
        context = values[origin - 11 : origin + 1]
        if np.isfinite(context).all():
            size_C = fitted.sizes[holed.items[int(holed.items_of(np.array([origin]))[0])]]
            error = fitted.folded.predict_one(context / size_C) - values[origin + 1 : origin + 4] / size_C
            squares.append(np.square(error / fitted.scaler.scale_C))
    assert row["validation_loss"] == pytest.approx(np.nanmean(squares), rel=1e-4)


def test_a_series_without_a_complete_window_is_an_error(make_panel: MakePanel) -> None:
    values = np.random.default_rng(5).normal(size=60)
    values[::8] = np.nan
    panel = make_panel(values)
    with pytest.raises(DataError, match="no training window has 12 rows of history without a gap"):
        model(training()).fit(panel, panel.full_span())


def test_an_explosion_names_the_rows(gauges: Panel, tmp_path: Path) -> None:
    gauges = gauges.take_items([0])  # one series keeps its size
    values = gauges.values.copy()
    values[400, 1] = 3e30
    panel = gauges.replace(values=values)
    fitted = model(training(directory=tmp_path, batch_size=100), scaler="none")
    with pytest.raises(NonFiniteLossError) as caught:
        fitted.fit(panel, panel.full_span())
    text = str(caught.value)
    assert "3e+30, of c1 in row 400 (1970-01-17T16:00:00Z)" in text
    assert "windows with origins at the rows" in text
    assert "learning rate" in text


def test_resumed_and_refused(gauges: Panel, tmp_path: Path) -> None:
    train, validation = gauges.full_span().cut_tail(0.2)
    first = model(training(epochs=3, directory=tmp_path))
    one = first.fit(gauges, train, validation)
    second = model(training(epochs=3, directory=tmp_path, resume=True))
    other = second.fit(gauges, train, validation)
    assert one.history == other.history
    np.testing.assert_array_equal(first.weights["trend.weight"], second.weights["trend.weight"])
    changed = gauges.replace(values=gauges.values + 1)
    with pytest.raises(Exception, match=r"fingerprint of the data: .* in the checkpoint, .* now"):
        model(training(epochs=3, directory=tmp_path, resume=True)).fit(changed, train, validation)


class ResidentTask(WindowTask):
    """Goes the way of a GPU."""

    def to_device(self, batch: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return self.gathered_on(device, batch), super().to_device(batch, device)[1]


@pytest.mark.parametrize("holes", [False, True])
def test_series_that_lie_on_the_device_give_the_same_losses(gauges: Panel, holes: bool) -> None:
    """The way of a GPU, taken on the cpu: origins are the batch, and windows are gathered from the tensor."""
    values = gauges.values.copy()
    if holes:
        values[100:400:7, 0] = np.nan
    panel, histories = gauges.replace(values=values), []
    for resident in (False, True):
        torch.manual_seed(0)
        chosen = model(training(epochs=2, schedule="constant"), individual=False)
        train = np.arange(11, 60) if holes else np.arange(11, 300)
        kind = ResidentTask if resident else WindowTask
        task = kind(DLinearNetwork(chosen, 2), chosen, panel, values, train, validation=np.arange(60, 90))
        histories.append(fit(task, chosen.training).history)
    assert histories[0] == histories[1]


@pytest.mark.parametrize(("windows", "world"), [(103, 1), (103, 2), (103, 4), (97, 8)])
def test_every_window_once_an_epoch_in_shares_as_equal_as_can_be(
    make_panel: MakePanel, windows: int, world: int
) -> None:
    panel = make_panel(np.arange(windows + 5.0))
    chosen = model(training(batch_size=16), context=3)
    train, validation = np.arange(2, 2 + windows), np.arange(2, 12)
    task = WindowTask(torch.nn.Identity(), chosen, panel, panel.values, train, validation)

    def windows_of(origins: torch.Tensor) -> torch.Tensor:
        return task.to_device(origins, torch.device("cpu"))[0]

    shares = [
        list(task.train_batches(Epoch(number=4, seed=7, rank=rank, world=world))) for rank in range(world)
    ]
    for batches in zip(*shares, strict=True):
        sizes = [0 if origins is None else len(origins) for origins in batches]
        assert max(sizes) - min(sizes) <= 1
        assert 0 not in sizes or sum(sizes) < world
    seen = torch.cat(
        [windows_of(origins)[:, 2, 0] for share in shares for origins in share if origins is not None]
    )
    assert sorted(seen.tolist()) == list(range(2, 2 + windows))
    later = list(task.train_batches(Epoch(number=4, seed=7, skip=3)))
    again = list(task.train_batches(Epoch(number=4, seed=7)))
    assert all(torch.equal(a, b) for a, b in zip(later, again[3:], strict=True))
    judged = [
        windows_of(origins) for rank in range(world) for origins, _ in task.validation_batches(rank, world)
    ]
    assert sorted(torch.cat(judged)[:, 2, 0].tolist()) == list(range(2, 12))
