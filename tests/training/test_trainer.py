"""The loop on small tasks: what it promises to any of them, without a case for any of them."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import Recorder, RegressionTask, ScriptedTask, settings

from presurge.errors import DataError
from presurge.training.devices import OutOfDeviceMemoryError
from presurge.training.task import LOSS, Epoch, Task
from presurge.training.trainer import NonFiniteLossError, fit


def weights(task: Any) -> dict[str, torch.Tensor]:
    return copy.deepcopy(task.module.state_dict())


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], **(tolerance or {"rtol": 0, "atol": 0}))


def test_it_finds_least_squares() -> None:
    task = RegressionTask(rows=256, batch_size=32, validation=0)
    outcome = fit(task, settings(epochs=60, learning_rate=0.1, schedule="cosine", patience=None))
    design = np.c_[task.x[:256], np.ones(256)].astype(np.float64)
    solution = np.linalg.lstsq(design, task.y[:256], rcond=None)[0]
    found = [*task.module.layer.weight[0].tolist(), *task.module.layer.bias.tolist()]
    np.testing.assert_allclose(found, solution, atol=0.01)
    assert len(outcome.history) == 60
    assert not outcome.stopped_early
    assert not task.module.training


def test_the_same_seed_gives_the_same_and_the_generators_of_others_stay() -> None:
    tasks = [RegressionTask(dropout=0.3) for _ in range(3)]
    np.random.seed(5)  # noqa: NPY002 - the global generator is what must not be touched
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    outcomes = [fit(task, settings(seed=seed)) for task, seed in zip(tasks, (1, 1, 2), strict=True)]
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert_same(weights(tasks[0]), weights(tasks[1]))
    assert outcomes[0].history == outcomes[1].history
    assert outcomes[0].history != outcomes[2].history


def test_losses_recorded_once() -> None:
    """Guards refactors: a fixed seed, 50 steps, and the mean loss up to each of them as it once was."""
    task = RegressionTask(rows=400, dropout=0.2, validation=20)
    recorder = Recorder()
    fit(task, settings(epochs=1, learning_rate=0.02, clip_norm=1.0), loggers=[recorder])
    means = np.array([row["train_loss"] for row in recorder.rows[:50]])
    np.testing.assert_allclose(means, RECORDED, rtol=1e-6)


RECORDED = [
    7.410882, 8.9462461, 9.9032733, 8.1839758, 8.1249539, 7.5941516, 7.080533, 6.9610289, 6.8817695, 6.9138885,
    6.7470489, 6.6992326, 6.6671487, 6.4915441, 6.1969421, 6.0656059, 6.1301159, 5.9966242, 5.936135, 5.7474781,
    5.5430549, 5.6043471, 5.5950183, 5.4766077, 5.4275379, 5.4140236, 5.3708047, 5.3598469, 5.3693095, 5.2953211,
    5.1709256, 5.0527616, 5.0405635, 4.9594561, 4.8782126, 4.8674796, 4.8126693, 4.7803384, 4.7404403, 4.6931992,
    4.6239872, 4.5479737, 4.4792119, 4.4162466, 4.4071358, 4.3829453, 4.3320052, 4.2617176, 4.2009857, 4.1816438,
]  # fmt: skip


def test_parts_and_metrics_are_averaged_over_batches_and_sizes() -> None:
    task = RegressionTask(rows=20, batch_size=8, validation=15)
    recorder = Recorder()
    row = fit(task, settings(epochs=1, learning_rate=1e-30), loggers=[recorder]).history[0]
    with torch.no_grad():
        error = (task.module.layer(torch.from_numpy(task.x))[:, 0].numpy() - task.y).astype(np.float64)
    chosen = [task.chosen(Epoch(number=0, seed=0), index) for index in range(3)]
    assert row["train_loss"] == pytest.approx(np.mean([np.square(error[c]).mean() for c in chosen]), rel=1e-5)
    assert row["train_absolute"] == pytest.approx(
        np.mean([np.abs(error[c]).mean() for c in chosen]), rel=1e-5
    )
    assert row["validation_loss"] == pytest.approx(np.square(error[20:]).mean(), rel=1e-5)
    assert row["validation_absolute"] == pytest.approx(np.abs(error[20:]).mean(), rel=1e-5)
    assert (row["epoch"], row["step"]) == (0, 3)
    assert [line["step"] for line in recorder.rows] == [1, 2, 3, 3]


def test_without_validation_the_training_loss_is_watched() -> None:
    outcome = fit(RegressionTask(validation=0), settings(epochs=4))
    assert not any(name.startswith("validation") for name in outcome.history[0])
    assert outcome.best_value == min(row["train_loss"] for row in outcome.history)


def test_the_best_weights_come_back() -> None:
    """Losses fall, then rise: the weights of the best epoch are restored, not those that came later."""
    task = ScriptedTask([3.0, -2.0, -1.0, 5.0, 6.0])
    outcome = fit(task, settings(optimizer="sgd", epochs=20, patience=3))
    one_epoch = ScriptedTask([0.0, 0.0])
    fit(one_epoch, settings(optimizer="sgd", epochs=2, patience=None, min_delta=0.0))
    assert (outcome.best_epoch, outcome.best_value, outcome.stopped_early) == (1, -2.0, True)
    assert len(outcome.history) == 5
    expected = ScriptedTask([1.0, 0.0])
    fit(expected, settings(optimizer="sgd", epochs=2))
    assert_same(weights(task), weights(expected))


def test_what_counts_as_better() -> None:
    task = ScriptedTask([1.0, 0.95, 0.85, 0.8])
    outcome = fit(task, settings(epochs=4, min_delta=0.1))
    assert outcome.best_epoch == 2
    with pytest.raises(IndexError):  # nothing stops early
        fit(ScriptedTask([1.0, 2.0, 3.0]), settings(epochs=4, patience=None))


@pytest.mark.parametrize("rows", [96, 72, 88])
def test_accumulated_batches_equal_a_larger_one(rows: int) -> None:
    """Also the last step of an epoch, which takes what is left: 72 rows leave 8 of 32, 88 leave 24."""
    small, large = (RegressionTask(rows=rows, batch_size=size) for size in (8, 32))
    one = fit(small, settings(accumulate=4, optimizer="sgd"))
    other = fit(large, settings(optimizer="sgd"))
    assert_same(weights(small), weights(large), rtol=1e-5, atol=1e-6)
    assert [row["step"] for row in one.history] == [row["step"] for row in other.history]


def test_the_gradient_is_clipped() -> None:
    task = RegressionTask(rows=8, validation=0)
    before = weights(task)
    fit(task, settings(epochs=1, optimizer="sgd", learning_rate=1.0, clip_norm=0.01))
    moved = torch.cat([(weights(task)[name] - tensor).flatten() for name, tensor in before.items()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_and_keeps_full_weights(precision: str) -> None:
    task, plain = RegressionTask(rows=256), RegressionTask(rows=256)
    fit(task, settings(epochs=5, precision=precision, clip_norm=10.0))
    fit(plain, settings(epochs=5, clip_norm=10.0))
    assert task.module.layer.weight.dtype == torch.float32
    assert_same(weights(task), weights(plain), rtol=0, atol=0.05)  # fp16 leaves out the first steps
    assert not torch.equal(task.module.layer.weight, plain.module.layer.weight)


@pytest.mark.parametrize(("spoiled", "kept"), [(5, False), (40, True)])
def test_a_non_finite_loss_stops_the_run(spoiled: int, kept: bool, tmp_path: Any) -> None:
    task = RegressionTask(spoiled=spoiled)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(task, settings(epochs=9), directory=tmp_path)
    epoch, batch = divmod(spoiled - 1, 12)
    rows = sorted(task.chosen(Epoch(number=epoch, seed=0), batch).tolist())
    text = str(caught.value)
    assert f"not a number at step {spoiled} (epoch {epoch + 1}, batch {batch + 1})" in text
    assert f"rows {rows}" in text
    assert "learning rate" in text
    assert ("best weights so far" in text) is (tmp_path / "best.pt").exists() is kept
    assert all(torch.isfinite(tensor).all() for tensor in weights(task).values())


def test_a_validation_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(NonFiniteLossError, match="validation loss is not a number after epoch 2"):
        fit(ScriptedTask([1.0, float("nan")]), settings())


def test_a_device_out_of_memory_is_a_plain_error_and_the_run_resumes(tmp_path: Any) -> None:
    task = RegressionTask()

    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls, self.full = task.module.layer, 0, True

        def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
            self.calls += 1
            if self.full and self.calls == 5:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return {LOSS: (self.layer(batch[0])[:, 0] - batch[1]).square().mean()}

    greedy = Greedy()
    task.module = greedy  # type: ignore[assignment]
    with pytest.raises(OutOfDeviceMemoryError, match="memory of the device cpu") as caught:
        fit(task, settings(checkpoint_steps=2), directory=tmp_path)
    assert "batch_size" in str(caught.value)
    greedy.full = False
    outcome = fit(task, settings(checkpoint_steps=2), directory=tmp_path, resume=True)
    assert len(outcome.history) == 3


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no batch"):
        fit(RegressionTask(rows=0), settings())


def test_a_task_must_give_the_batches_that_it_promised() -> None:
    class Short(RegressionTask):
        def train_batches(self, epoch: Epoch) -> Iterator[Any]:
            yield from list(super().train_batches(epoch))[:-1]

    with pytest.raises(ValueError, match="shorter"):
        fit(Short(), settings())


class EnergyTask(Task):
    """Batches of its own making, dictionaries without any table behind them; a loss of three parts, below zero."""

    batches_per_epoch = 10

    def __init__(self) -> None:
        self.module = Gaussian()

    def batch(self, epoch: Epoch, index: int) -> dict[str, Any]:
        drawn = epoch.rng(index).standard_normal(64, dtype=np.float32)
        return {"x": 3 + 0.01 * torch.from_numpy(drawn), "about": {"kind": "drawn"}}

    def validation_batches(self, rank: int, world: int) -> Iterator[tuple[Any, int]]:
        yield {"x": 3 + 0.01 * torch.linspace(-2, 2, 50), "about": {"kind": "given"}}, 50


class Gaussian(nn.Module):
    """The density of a normal distribution, which may exceed one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_width = nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.tensor(0.0))

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        distance = ((batch["x"] - self.mean) / self.log_width.exp()).square().mean() / 2
        noise = torch.rand(()) * 1e-9
        return {LOSS: distance + self.log_width + noise, "distance": distance, "width": self.log_width}


def test_dictionaries_negative_losses_and_several_parts() -> None:
    task = EnergyTask()
    outcome = fit(task, settings(epochs=60, learning_rate=0.05, schedule="cosine", patience=None))
    assert outcome.best_value < -3
    assert outcome.best_value == min(row["validation_loss"] for row in outcome.history)
    last = outcome.history[-1]
    assert last["validation_loss"] == pytest.approx(last["validation_distance"] + last["validation_width"])
    assert {"train_distance", "train_width", "validation_distance"} <= last.keys()


def test_validation_does_not_disturb_the_training() -> None:
    """Random numbers drawn while validating are the same every time, and training goes on as if there were none."""
    quiet = EnergyTask()
    quiet.validation_batches = lambda rank, world: iter(())  # type: ignore[method-assign]
    noisy = EnergyTask()
    one = fit(quiet, settings(epochs=3)).history
    other = fit(noisy, settings(epochs=3)).history
    assert [row["train_loss"] for row in one] == [row["train_loss"] for row in other]


def test_progress_and_messages(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, float, str]] = []
    with caplog.at_level(logging.INFO, logger="presurge"):
        fit(
            RegressionTask(),
            settings(),
            progress=lambda phase, share, detail="": told.append((phase, share, detail)),
        )
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert told[-1][2].startswith("epoch 3, loss ")
    assert [record.message.split(":")[0] for record in caplog.records] == ["Epoch 1", "Epoch 2", "Epoch 3"]
