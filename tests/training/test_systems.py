"""Tasks in the shape of Kronos, EmSHAP and a tabular network: groups, schedules, weights, iterators, monitors, hooks."""

import copy
import dataclasses
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from systems import Decoder, MaskTask, StageTask, TableTask, Tokenizer
from torch import nn
from training_cases import Recorder, RegressionTask, settings

from presurge.errors import ConfigError
from presurge.training.config import TrainerConfig
from presurge.training.interruption import TrainingInterrupted
from presurge.training.optim import check_groups
from presurge.training.task import LOSS, Epoch, ParameterGroup, Task, move, rows_of
from presurge.training.trainer import NonFiniteLossError, fit

CPU = torch.device("cpu")


def stopping(task: Task, at: int) -> Task:
    """Ask the run to stop before its ``at``-th step."""
    after = task.after_step

    def hook(step: int) -> None:
        after(step)
        if step == at - 1:
            signal.raise_signal(signal.SIGTERM)

    task.after_step = hook  # type: ignore[method-assign]
    return task


def assert_resumes(
    build: Any, config: TrainerConfig, at: int, directory: Path, more: TrainerConfig | None = None
) -> Any:
    """A run that is stopped and resumed gives the history and weights, bit by bit, of one that is not."""
    with pytest.raises(TrainingInterrupted):
        fit(stopping(build(), at), config, directory=directory)
    task, whole = build(), build()
    outcome = fit(task, more or config, directory=directory, resume=True)
    expected = fit(whole, more or config)
    assert outcome.history == expected.history
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, task.module.state_dict()[name]), name
    return outcome


def test_two_stages_as_in_kronos(tmp_path: Path) -> None:
    tokenizer = Tokenizer()
    one = settings(epochs=8, optimizer="adamw", weight_decay=0.1, clip_norm=2.0, monitor="validation_full")
    first = fit(StageTask(tokenizer), one, directory=tmp_path / "first")
    full = [row["validation_full"] for row in first.history]
    assert first.best_value == min(full)
    assert full.index(min(full)) == first.best_epoch
    assert min(full) < 0.7 * full[0]
    assert first.history[-1]["train_loss"] < 0

    def second() -> StageTask:
        torch.manual_seed(1)
        return StageTask(Decoder(copy.deepcopy(tokenizer)))

    two = settings(
        epochs=4,
        optimizer="adamw",
        betas=(0.9, 0.95),
        schedule="one-cycle",
        pct_start=0.03,
        div_factor=10,
        clip_norm=3.0,
    )
    outcome = assert_resumes(second, two, 9, tmp_path / "second")
    assert outcome.history[-1]["validation_first"] < outcome.history[0]["validation_first"]
    stored = torch.load(tmp_path / "second" / "last.pt", weights_only=True)
    assert not any(name.startswith("tokenizer") for name in stored["learner"]["module"])
    assert "embedding.weight" in stored["learner"]["module"]
    other = second()
    fit(other, settings(epochs=1))
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(tensor, other.module.tokenizer.state_dict()[name]), name
    with torch.no_grad():
        other.module.tokenizer.embed.weight += 1
    with pytest.raises(ConfigError, match=r"tokenizer\.embed\.weight are not those"):
        fit(other, two, directory=tmp_path / "second", resume=True)


def test_two_networks_with_masks_as_in_emshap(tmp_path: Path) -> None:
    config = settings(epochs=4, schedule="cosine", warmup_steps=3, min_factor=0.1)
    rows = Recorder()
    outcome = fit(MaskTask(), config, loggers=[rows])
    assert outcome.history[-1]["validation_loss"] < outcome.history[0]["validation_loss"]
    assert rows.rows[4]["learning_rate_energy"] == pytest.approx(0.3 * rows.rows[4]["learning_rate"])
    assert_resumes(MaskTask, config, 6, tmp_path)


def test_a_table_from_an_iterator_with_batch_norm(tmp_path: Path) -> None:
    config = settings(epochs=5, monitor="validation_median", accumulate=4)
    outcome = assert_resumes(TableTask, config, 4, tmp_path)
    medians = [row["validation_median"] for row in outcome.history]
    assert outcome.best_value == min(medians) < medians[0]
    assert [row["step"] for row in outcome.history] == [2, 4, 6, 8, 10]
    highest = fit(TableTask(), settings(epochs=5, monitor="validation_agreement", monitor_mode="max"))
    assert highest.best_value == max(row["validation_agreement"] for row in highest.history)


def test_a_monitor_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="no value 'validation_mse' to watch") as caught:
        fit(MaskTask(), settings(epochs=1, monitor="validation_mse"))
    assert caught.value.setting == "monitor"
    assert "validation_proposal" in str(caught.value)


def closed_form_step(task: MaskTask, batches: int) -> dict[str, torch.Tensor]:
    """Weights after one step of plain descent on all rows of some batches as one batch, by autograd alone."""
    module = copy.deepcopy(task.module)
    parts = [task.batch(Epoch(number=0, seed=0), index) for index in range(batches)]
    x, seen = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "seen"))
    module(type(parts[0])(x, seen))[LOSS].backward()
    rate = {"proposal": 0.01, "energy": 0.003}
    return {
        name: p.detach()
        - rate[name.split(".")[0]] * (p.grad + (0.1 * p.detach() if name.startswith("energy") else 0))
        for name, p in module.named_parameters()
    }


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_batches_weigh_what_they_hold(accumulate: int) -> None:
    """With masks the batches weigh differently: the mean of their gradients is 10 % off."""
    task = MaskTask()
    expected = closed_form_step(task, accumulate)
    fit(task, settings(epochs=1, max_steps=1, accumulate=accumulate, optimizer="sgd", momentum=0.0))
    for name, tensor in task.module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_logged_means_are_weighted() -> None:
    task, whole = MaskTask(batch_size=30), MaskTask(batch_size=100)
    task.parameter_groups = whole.parameter_groups = lambda: ()  # type: ignore[method-assign]
    frozen = {"optimizer": "sgd", "learning_rate": 1e-30, "epochs": 1}
    outcomes = [fit(one, settings(**frozen)).history[0] for one in (task, whole)]
    for name in ("train_loss", "train_proposal", "train_energy"):
        assert outcomes[0][name] == pytest.approx(outcomes[1][name], rel=1e-5)


def test_a_batch_that_weighs_nothing_moves_nothing() -> None:
    class Empty(MaskTask):
        def batch(self, epoch: Epoch, index: int) -> Any:
            batch = super().batch(epoch, index)
            return batch._replace(seen=torch.ones_like(batch.seen))

    task = Empty()
    before = copy.deepcopy(task.module.proposal.state_dict())
    outcome = fit(task, settings(epochs=1, accumulate=2, optimizer="sgd"))
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in task.module.proposal.state_dict().items()
    )
    assert "train_loss" not in outcome.history[0]


def test_groups_have_rates_decay_betas_and_eps_of_their_own() -> None:
    """Against torch's Adam with the same groups."""
    task, other = MaskTask(), MaskTask()
    config = settings(epochs=2, weight_decay=0.02, betas=(0.7, 0.9), eps=1e-5)
    best = fit(task, config)
    groups = [
        {
            "params": other.module.proposal.parameters(),
            "lr": 0.01,
            "weight_decay": 0.02,
            "betas": (0.8, 0.95),
            "eps": 1e-5,
        },
        {
            "params": other.module.energy.parameters(),
            "lr": 0.003,
            "weight_decay": 0.1,
            "betas": (0.7, 0.9),
            "eps": 1e-6,
        },
    ]
    optimizer = torch.optim.Adam(groups)
    for number in range(best.best_epoch + 1):
        for index in range(4):
            optimizer.zero_grad()
            other.module(other.batch(Epoch(number=number, seed=0), index))[LOSS].backward()
            optimizer.step()
    for name, tensor in other.module.state_dict().items():
        torch.testing.assert_close(task.module.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_every_parameter_stands_in_one_group() -> None:
    task = MaskTask()
    task.parameter_groups = lambda: [
        ParameterGroup(name="a", parameters=list(task.module.energy.parameters()))
    ]  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"proposal.0.weight is in 0 parameter groups"):
        check_groups(task)
    task.module.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter that needs a gradient"):
        check_groups(task)


def test_steps_and_seconds_end_a_run(tmp_path: Path) -> None:
    outcome = fit(RegressionTask(), settings(epochs=9, max_steps=17), directory=tmp_path)
    assert [row["step"] for row in outcome.history] == [12, 17]
    again = fit(RegressionTask(), settings(epochs=9, max_steps=17), directory=tmp_path, resume=True)
    assert again.history == outcome.history
    longer = fit(RegressionTask(), settings(epochs=9, max_steps=30), directory=tmp_path, resume=True)
    assert longer.history == fit(RegressionTask(), settings(epochs=9, max_steps=30)).history
    hurried = fit(RegressionTask(), settings(epochs=9, max_seconds=1e-9), directory=tmp_path / "hurried")
    assert [row["step"] for row in hurried.history] == [1]
    assert hurried.best_epoch == 0
    resumed = fit(RegressionTask(), settings(epochs=3), directory=tmp_path / "hurried", resume=True)
    assert resumed.history == fit(RegressionTask(), settings(epochs=3)).history


def test_more_epochs_where_the_schedule_allows_it(tmp_path: Path) -> None:
    for number, schedule in enumerate(("constant", "step", "plateau")):
        config = {"schedule": schedule, "decay_factor": 0.7, "decay_epochs": 2, "plateau_patience": 1}
        fit(RegressionTask(dropout=0.3), settings(epochs=2, **config), directory=tmp_path / str(number))
        task = RegressionTask(dropout=0.3)
        more = fit(task, settings(epochs=5, **config), directory=tmp_path / str(number), resume=True)
        assert more.history == fit(RegressionTask(dropout=0.3), settings(epochs=5, **config)).history
    fit(RegressionTask(), settings(schedule="cosine"), directory=tmp_path / "cosine")
    with pytest.raises(ConfigError, match="epochs: 3 in the checkpoint, 5 now"):
        fit(
            RegressionTask(),
            settings(schedule="cosine", epochs=5),
            directory=tmp_path / "cosine",
            resume=True,
        )


def test_a_setting_that_is_newer_than_a_checkpoint_has_its_default(tmp_path: Path) -> None:
    class Newer(RegressionTask):
        def identity(self) -> dict[str, Any]:
            return {**super().identity(), "layers": 2}

        def identity_defaults(self) -> dict[str, Any]:
            return {"layers": 2}

    fit(RegressionTask(), settings(), directory=tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    for key in ("momentum", "monitor", "eps"):
        del state["identity"][key]
    torch.save(state, tmp_path / "last.pt")
    assert len(fit(Newer(), settings(epochs=4), directory=tmp_path, resume=True).history) == 4
    with pytest.raises(ConfigError, match=r"momentum: 0.9 in the checkpoint, 0.5 now"):
        fit(Newer(), settings(momentum=0.5), directory=tmp_path, resume=True)


@pytest.mark.parametrize("validated", [True, False])
def test_an_infinite_gradient_under_a_finite_loss_is_never_written(validated: bool, tmp_path: Path) -> None:
    """The gradient of a root at zero: at the last step of the second epoch, so that no further loss tells."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.ones(1))

        def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
            return {LOSS: (self.value * batch).sqrt().sum()}

    class RootTask(Task):
        batches_per_epoch = 3

        def __init__(self) -> None:
            self.module = Root()

        def batch(self, epoch: Epoch, index: int) -> torch.Tensor:
            return torch.zeros(1) if (epoch.number, index) == (1, 2) else torch.ones(1)

        def validation_batches(self, rank: int, world: int) -> Iterator[Any]:
            return iter([(torch.ones(1), 1)] if validated else [])

    with pytest.raises(NonFiniteLossError, match="the weights are not finite after step 6"):
        fit(RootTask(), settings(optimizer="sgd", momentum=0.0), directory=tmp_path)
    for name, weights in (("last.pt", ["learner", "module"]), ("best.pt", ["module"])):
        stored = torch.load(tmp_path / name, weights_only=True)
        for key in weights:
            stored = stored[key]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in stored.values())


def test_an_average_of_the_weights_after_each_step_is_kept_and_resumed(tmp_path: Path) -> None:
    """Frozen as it is, it changes, and so it is stored."""

    class Averaged(RegressionTask):
        def __init__(self) -> None:
            super().__init__(dropout=0.3)
            self.module.average = copy.deepcopy(self.module.layer).requires_grad_(False)

        def after_step(self, step: int) -> None:
            for average, now in zip(
                self.module.average.parameters(), self.module.layer.parameters(), strict=True
            ):
                average.lerp_(now.detach(), 0.1)

    assert_resumes(Averaged, settings(), 17, tmp_path)
    task = Averaged()
    fit(task, settings(epochs=1))
    assert not torch.equal(task.module.average.weight, task.module.layer.weight)


def test_what_a_line_of_the_log_says() -> None:
    rows = Recorder()
    fit(
        RegressionTask(rows=80, validation=0),
        settings(epochs=1, log_steps=4, optimizer="sgd"),
        loggers=[rows],
    )
    one, two, _ = rows.rows
    single = Recorder()
    fit(
        RegressionTask(rows=80, validation=0),
        settings(epochs=1, log_steps=1, optimizer="sgd"),
        loggers=[single],
    )
    losses = [row["interval_loss"] for row in single.rows[:10]]
    assert one["interval_loss"] == pytest.approx(np.mean(losses[:4]))
    assert two["interval_loss"] == pytest.approx(np.mean(losses[4:8]))
    assert two["train_loss"] == pytest.approx(np.mean(losses[:8]))
    assert two["gradient_norm"] == pytest.approx(single.rows[7]["gradient_norm"])
    assert one["rows_per_second"] > 0
    task = RegressionTask(rows=8, validation=0)
    loss = task.module(next(iter(task.train_batches(Epoch(number=0, seed=0)))))
    loss[LOSS].backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in task.module.parameters()))
    first = Recorder()
    fit(RegressionTask(rows=8, validation=0), settings(epochs=1, clip_norm=1e-3), loggers=[first])
    assert first.rows[0]["gradient_norm"] == pytest.approx(norm, rel=1e-5)


class Pair(NamedTuple):
    x: torch.Tensor
    y: Any


@dataclasses.dataclass(frozen=True)
class Record:
    x: torch.Tensor
    about: str


def test_batches_of_every_kind_move() -> None:
    meta = torch.device("meta")
    batch = {"pair": Pair(torch.ones(3, 2), [torch.ones(1), "text"]), "record": Record(torch.ones(2), "kept")}
    moved = move(batch, meta)
    assert isinstance(moved["pair"], Pair)
    assert isinstance(moved["record"], Record)
    assert moved["pair"].x.device == moved["pair"].y[0].device == moved["record"].x.device == meta
    assert (moved["pair"].y[1], moved["record"].about) == ("text", "kept")
    assert (rows_of(batch), rows_of(()), rows_of(Record(torch.ones(4), ""))) == (3, 0, 4)


def test_random_numbers_of_a_batch_depend_on_nothing_else() -> None:
    draws = [
        Epoch(number=2, seed=1, rank=r, world=w, skip=s).rng(5).random() for r, w, s in ((0, 1, 0), (1, 3, 4))
    ]
    assert draws[0] == draws[1]
    numbers = [Epoch(number=n, seed=s).rng(i).random() for n in (0, 1) for s in (0, 1) for i in (None, 0, 1)]
    assert len(set(numbers)) == len(numbers)


def test_momentum_and_an_unknown_number_of_batches() -> None:
    class Iterated(RegressionTask):
        batches_per_epoch = None

        def train_batches(self, epoch: Epoch) -> Iterator[Any]:
            for index in range(epoch.skip, 12):
                rows = self.chosen(epoch, index)
                yield torch.from_numpy(self.x[rows]), torch.from_numpy(self.y[rows])

    one, other = Iterated(), RegressionTask()
    config = settings(optimizer="sgd", momentum=0.5, accumulate=5)
    assert fit(one, config).history == fit(other, config).history
    assert torch.equal(one.module.layer.weight, other.module.layer.weight)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from its compiler
def test_a_compiled_module_keeps_its_names_and_losses(tmp_path: Path) -> None:
    """Traced and run as graphs, in PyTorch's own operations: generated code would take most of a minute."""
    task, plain = RegressionTask(rows=16), RegressionTask(rows=16)
    names = set(task.module.state_dict())
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.compiler.set_stance("default", force_backend="eager"):
        compiled = fit(task, settings(epochs=2, compile=True), directory=tmp_path)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert compiled.history == fit(plain, settings(epochs=2)).history
    stored = torch.load(tmp_path / "last.pt", weights_only=True)["learner"]["module"]
    assert set(task.module.state_dict()) == set(stored) == names
    assert torch.equal(task.module.layer.weight, plain.module.layer.weight)


def test_the_policy_for_tf32() -> None:
    class Looking(RegressionTask):
        def batch(self, epoch: Epoch, index: int) -> Any:
            raise NotImplementedError

        def train_batches(self, epoch: Epoch) -> Iterator[Any]:
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            return super().train_batches(epoch)

    seen: list[tuple[str, bool]] = []
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for precision in ("fp32", "tf32", "bf16"):
        fit(Looking(), settings(epochs=1, precision=precision))
    assert seen == [("highest", False), ("high", True), ("highest", False)]
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
