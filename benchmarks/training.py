"""The training loop: its cost beside a bare torch loop, its memory, and what DLinear by gradient reaches with it.

Parts: transformer (a million parameters), gloo (gradients of two processes in one flat message, and through
DistributedDataParallel), windows (840,000 windows, 120 -> 3, 3 channels), memory (the same in a separate process), length
(a step on a short and on a long series), etth1 (the recipe of the LTSF-Linear repository). Run with one thread:

    OMP_NUM_THREADS=1 python benchmarks/training.py [--part NAME] [--json]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import polars as pl
import torch
from exact import CONTEXT, HORIZON, JUDGED, SHARED, synthetic

from presurge.models.linear.dlinear import DLinear, DLinearConfig
from presurge.models.networks.linear_maps import DLinearNetwork
from presurge.models.networks.task import WindowTask
from presurge.series.frequency import HOUR
from presurge.series.panel import Channel, Panel
from presurge.series.scalers import Scaler
from presurge.series.spans import Span
from presurge.series.windows import batch_of, chunks, targets_of, window_origins
from presurge.training.config import TrainerConfig, TrainingConfig
from presurge.training.task import Epoch, Task
from presurge.training.trainer import fit

Row = dict[str, Any]
BATCH = 128
CPU = torch.device("cpu")
ETTH1 = SHARED / "data" / "benchmark" / "ETTh1.csv.gz"


def row(what: str, value: float, unit: str, reference: float | None = None, name: str = "") -> Row:
    """Return a line of the table, with the ratio to the named reference."""
    ratio = None if reference is None else value / reference
    return {"what": what, "value": value, "unit": unit, "reference": reference, "named": name, "ratio": ratio}


def scaled_errors(model: DLinear, panel: Panel, span: Span) -> tuple[float, float]:
    """Mean squared and mean absolute error over all windows of a span, on the scale of the model's scaler."""
    squares = sizes = count = 0.0
    origins = window_origins(panel, span, context=model.context, horizon=model.horizon)
    for part in chunks(origins, 2048):
        forecast = model.predict(batch_of(panel, part, model.context)).point_BHC
        error = (forecast - targets_of(panel, part, model.horizon)) / model.scaler.scale_C
        squares += float(np.square(error).sum())
        sizes += float(np.abs(error).sum())
        count += error.size
    return squares / count, sizes / count


def task_of(panel: Panel, span: Span) -> WindowTask:
    """Build DLinear 120 -> 3 with separate weights for each channel, on every window of a span."""
    torch.manual_seed(0)
    model = DLinear(context=CONTEXT, horizon=HORIZON, training=TrainingConfig(batch_size=BATCH))
    return WindowTask(
        DLinearNetwork(model, len(panel.channels)),
        model,
        panel,
        array_RD=Scaler.fit(panel.values, "standard").scale(panel.values).astype(np.float32),
        train=window_origins(panel, span, context=CONTEXT, horizon=HORIZON),
        validation=np.zeros(0, np.int64),
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def bare_epoch(task: Task) -> None:
    """Train an epoch with nothing but gather, forward, backward and step."""
    optimizer = torch.optim.Adam(task.module.parameters(), lr=1e-3, fused=True)
    task.module.train()
    for batch in task.train_batches(Epoch(number=0, seed=0)):
        optimizer.zero_grad(set_to_none=True)
        task.module(task.to_device(batch, CPU))["loss"].backward()
        optimizer.step()


def halves(panel: Panel) -> tuple[Span, Span]:
    """The training rows of 840,000 windows, and the validation rows of 140,000."""
    bounds = np.array([[0], [len(panel) - JUDGED], [len(panel)]])
    return Span(bounds[0], bounds[1]), Span(bounds[1], bounds[2])


def measure_windows() -> list[Row]:
    torch.set_num_threads(1)
    panel = synthetic()
    train, validation = halves(panel)
    task = task_of(panel, train)
    steps = task.batches_per_epoch
    chosen = TrainerConfig(epochs=1, device="cpu")
    fit(task_of(panel, Span(np.array([0]), np.array([2000]))), chosen)  # torch imports more at its first step
    gathering = min(cpu_seconds(lambda: list(_drained(task))) for _ in range(3)) / steps
    bare = min(cpu_seconds(lambda: bare_epoch(task_of(panel, train))) for _ in range(2))
    loop = min(cpu_seconds(lambda: fit(task_of(panel, train), chosen)) for _ in range(2))

    exact = DLinear(context=CONTEXT, horizon=HORIZON, config=DLinearConfig(solver="exact"))
    exact.fit(panel, train, validation)
    error, _ = scaled_errors(exact, panel, validation)
    rows = [
        row("gathering a batch of 128 x 123 x 3", gathering * 1e6, "µs", 60, "the bound"),
        row("an epoch of 840,000 windows, batch 128", loop, "CPU-s", bare, "bare torch loop"),
        row("1,000 steps", loop / steps * 1000, "CPU-s", bare / steps * 1000, "bare torch loop"),
    ]
    for schedule, rate in (("one-cycle", 0.005), ("constant", 0.001)):
        training = TrainingConfig(
            epochs=3, schedule=schedule, learning_rate=rate, device="cpu", batch_size=BATCH
        )
        learned = DLinear(
            context=CONTEXT, horizon=HORIZON, config=DLinearConfig(solver="sgd"), training=training
        )
        learned.fit(panel, train, validation)
        reached, _ = scaled_errors(learned, panel, validation)
        rows.append(row(f"validation MSE after 3 epochs, {schedule}", reached, "", error, "exact solver"))
    return rows


def _drained(task: WindowTask) -> Any:
    for batch in task.train_batches(Epoch(number=0, seed=0)):
        yield task.to_device(batch, CPU)[0].shape[0]


class Bare(torch.nn.Module):
    """A transformer of a million parameters over 64 rows, with its loss."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(160, 4, 640, dropout=0.0, batch_first=True)
        self.body = torch.nn.TransformerEncoder(layer, 3)
        self.embed, self.head = torch.nn.Linear(3, 160), torch.nn.Linear(160, 3)

    def forward(self, x_BLC: torch.Tensor) -> dict[str, torch.Tensor]:
        """The squared error of the next row."""
        return {"loss": (self.head(self.body(self.embed(x_BLC)))[:, :-1] - x_BLC[:, 1:]).square().mean()}


class BatchTask(Task):
    """Repeats one batch."""

    def __init__(self, module: torch.nn.Module, x: torch.Tensor, batches: int) -> None:
        self.module, self.x, self.batches_per_epoch = module, x, batches

    def batch(self, epoch: Epoch, index: int) -> torch.Tensor:
        """Return the batch."""
        return self.x


def measure_transformer() -> list[Row]:
    """Measure 48 steps at batch 16, alternately by the loop and by a bare loop."""
    torch.set_num_threads(1)
    task = BatchTask(Bare(), torch.randn(16, 64, 3), 48)
    count = sum(parameter.numel() for parameter in task.module.parameters())
    chosen = TrainerConfig(epochs=1, device="cpu")
    fit(BatchTask(task.module, task.x, 1), chosen)
    times = [
        (cpu_seconds(lambda: fit(task, chosen)), cpu_seconds(lambda: bare_epoch(task))) for _ in range(3)
    ]
    loop, bare = (min(column) for column in zip(*times, strict=True))
    what = f"48 steps of a transformer, {count / 1e6:.2f} M parameters"
    return [row(what, loop, "CPU-s", bare, "bare torch loop")]


WIDTHS = (32, 256, 800)


def rank_steps(rank: int, measured: Any) -> None:
    """Run one of two gloo processes: time a step on layers of each width, both ways."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29611")
    torch.set_num_threads(1)
    for width, way in product(WIDTHS, ("flat", "ddp")):
        torch.manual_seed(0)
        module = Reconstruction(torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(8))))
        seconds: list[float] = []

        class Timed(BatchTask):
            def after_step(self, step: int, seconds: list[float] = seconds) -> None:
                seconds.append(time.perf_counter())

        chosen = TrainerConfig(epochs=1, device="cpu", gradient_sync=way, optimizer="sgd")
        fit(Timed(module, torch.randn(32, width), 25), chosen)
        if rank == 0:
            measured.put(
                (float(np.median(np.diff(seconds[5:]))), sum(p.numel() for p in module.parameters()))
            )


class Reconstruction(torch.nn.Module):
    """Scores how well a body reproduces its input."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The squared error of the reconstruction."""
        return {"loss": (self.body(x) - x).square().mean()}


def measure_gloo() -> list[Row]:
    """Measure a step on two processes: gradients in one flat message against DistributedDataParallel."""
    context = torch.multiprocessing.get_context("spawn")
    measured = context.Queue()
    workers = [context.Process(target=rank_steps, args=(rank, measured)) for rank in range(2)]
    for worker in workers:
        worker.start()
    rows = []
    for _ in WIDTHS:
        (flat, count), (ddp, _) = measured.get(timeout=300), measured.get(timeout=300)
        what = f"a step with {count / 1e6:.2f} M parameters, flat"
        rows.append(row(what, flat * 1e3, "ms", ddp * 1e3, "DistributedDataParallel"))
    for worker in workers:
        worker.join()
    return rows


def train_once() -> None:
    """Fit 840,000 windows, including validation and calibration; `measure_memory` runs this in a separate process."""
    panel = synthetic()
    train, validation = halves(panel)
    training = TrainingConfig(epochs=1, device="cpu", batch_size=BATCH)
    model = DLinear(context=CONTEXT, horizon=HORIZON, config=DLinearConfig(solver="sgd"), training=training)
    model.fit(panel, train, validation)


def measure_memory() -> list[Row]:
    def peak(code: str) -> float:
        report = "import prepare; print(prepare.peak_mib())"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {sys.path[0]!r}); {code}; {report}"],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout.split()[-1])

    empty, whole = peak("import training"), peak("import training; training.train_once()")
    return [row("peak resident memory, 840,000 windows", whole, "MiB", empty, "the imports alone")]


def etth1_table() -> np.ndarray:
    table = pl.read_csv(ETTH1)
    return table.drop(table.columns[0]).to_numpy()


def panel_of(values: np.ndarray) -> Panel:
    return Panel(
        values=values.astype(np.float32),
        channels=tuple(Channel(f"c{c}") for c in range(values.shape[1])),
        step=HOUR,
        start=np.zeros(1, np.int64),
    )


def measure_length() -> list[Row]:
    """Measure a step on ETTh1 and on ETTh1 repeated five times, alternately."""
    torch.set_num_threads(1)
    table = etth1_table()
    panels = [panel_of(np.tile(table, (times, 1))[:length]) for times, length in ((1, 17_000), (5, 87_000))]
    cost: list[list[float]] = [[], []]
    for _ in range(3):
        for seconds, panel, epochs in zip(cost, panels, (10, 2), strict=True):
            task = task_of(panel, panel.full_span())
            chosen = TrainerConfig(epochs=epochs, device="cpu")
            seconds.append(cpu_seconds(lambda: fit(task, chosen)) / (task.batches_per_epoch * epochs))  # noqa: B023
    short, long = (min(seconds) * 1e6 for seconds in cost)
    return [row("a step on 87,000 rows, 7 channels", long, "µs", short, "17,000 rows")]


def measure_etth1() -> list[Row]:
    """Train ETTh1 336 -> 96 by the recipe: shared weights, Adam 0.005, batch 32, halved every epoch, 10 epochs, patience 3."""
    values = etth1_table()[:14_400]
    panel = panel_of((values - values[:8640].mean(axis=0)) / values[:8640].std(axis=0))
    bounds = np.array([[0], [8640], [11_520], [14_400]])
    train, validation, test = (Span(a, b) for a, b in pairwise(bounds))
    assert len(window_origins(panel, test, context=336, horizon=96)) == 2785
    scores = []
    for seed in range(3):
        settings = DLinearConfig(solver="sgd", individual=False, scaler="none")
        training = TrainingConfig(
            epochs=10,
            patience=3,
            learning_rate=0.005,
            schedule="step",
            seed=seed,
            device="cpu",
            batch_size=32,
        )
        model = DLinear(context=336, horizon=96, config=settings, training=training)
        report = model.fit(panel, train, validation)
        mse, mae = scaled_errors(model, panel, test)
        scores.append((mse, mae, report.cpu_seconds))
        print(f"  seed {seed}: {mse:.4f} / {mae:.4f}, best epoch {report.chosen['epoch']}", file=sys.stderr)
    mse, mae, seconds = np.mean(scores, axis=0)
    return [
        row("ETTh1 336 -> 96, MSE, mean of three seeds", mse, "", 0.375, "published"),
        row("ETTh1 336 -> 96, MAE, mean of three seeds", mae, "", 0.399, "published"),
        row("one training", seconds, "CPU-s"),
    ]


PARTS = {
    "transformer": measure_transformer,
    "gloo": measure_gloo,
    "windows": measure_windows,
    "memory": measure_memory,
    "length": measure_length,
    "etth1": measure_etth1,
}
NEED_ETTH1 = ("length", "etth1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="one of the parts; may be repeated")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    rows: list[Row] = []
    for part in options.part or PARTS:
        if part in NEED_ETTH1 and not ETTH1.is_file():
            print(f"skipping {part}: {ETTH1} not found (set PRESURGE_SHARED)", file=sys.stderr)
            continue
        rows += [{"part": part, **one} for one in PARTS[part]()]
    if options.json:
        print(json.dumps({"training": rows, "torch": torch.__version__}, indent=2))
        return 0
    print(f"torch {torch.__version__}, one thread")
    for one in rows:
        beside = f"{one['ratio']:7.4f} of {one['named']} ({one['reference']:.4g})" if one["ratio"] else ""
        print(f"  {one['what']:<46} {one['value']:10.4g} {one['unit']:<6} {beside}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
