"""ETTh1, 336 -> 96, by the standard protocol: variants of the network ``mlp`` and the exact DLinear, chosen on validation.

Errors are on standardised values over all 2,785 test windows and 7 channels; a network is the mean of three seeds. Run with
one thread (some five minutes):

    OMP_NUM_THREADS=1 python benchmarks/etth1.py [--json]
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from exact import SHARED, etth1

from presurge.models.dlinear import DLinear, DLinearSettings
from presurge.models.exact import Normalisation
from presurge.models.forecaster import Forecaster
from presurge.models.networks.mlp import MLP, MLPSettings
from presurge.models.networks.window import WindowNormalisation
from presurge.models.plan import TrainingPlan
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, chunks, targets_of, window_origins

FILE = SHARED / "data/benchmark/ETTh1.csv.gz"
CONTEXT, HORIZON, SEEDS = 336, 96, (0, 1, 2)
GOAL = {"mse": 0.366, "mae": 0.385}
"""The best of five libraries on the same protocol: 0.3659 and 0.3853, one seed."""
LAYERS = ((64, 0.5), (256, 0.7))
"""Hidden numbers, and the share of them that is left out in training."""
DECAYS = (0.3, 1.0)


def errors(model: Forecaster, panel: Panel, span: Span) -> tuple[float, float]:
    """Mean squared and mean absolute error over all windows of a span."""
    squares = sizes = count = 0.0
    for part in chunks(window_origins(panel, span, context=CONTEXT, horizon=HORIZON), 512):
        error = model.predict(batch_of(panel, part, CONTEXT)).mean_BHC - targets_of(panel, part, HORIZON)
        squares += float(np.square(error, dtype=np.float64).sum())
        sizes += float(np.abs(error).sum(dtype=np.float64))
        count += error.size
    return squares / count, sizes / count


def exact(level: Normalisation, *, individual: bool) -> dict[str, Any]:
    """The exact DLinear, which knows no seed."""
    panel, (train, validation, test) = etth1(FILE)
    began = time.process_time()
    settings = DLinearSettings(individual=individual, normalisation=level, scaler="none")
    model = DLinear(context=CONTEXT, horizon=HORIZON, settings=settings)
    model.fit(panel, train, validation)
    found = [[*errors(model, panel, validation), *errors(model, panel, test)]]
    name = f"dlinear, exact, {'individual' if individual else 'shared'}, {level}"
    return row(name, found, time.process_time() - began, model.n_parameters)


def learned(level: WindowNormalisation, layer: tuple[int, float], decay: float) -> dict[str, Any]:
    """A network with each of the seeds."""
    panel, (train, validation, test) = etth1(FILE)
    began, found = time.process_time(), []
    for seed in SEEDS:
        plan = TrainingPlan.of({**MLP.training_defaults, "weight_decay": decay, "seed": seed})
        settings = MLPSettings(hidden_size=layer[0], dropout=layer[1], normalisation=level, scaler="none")
        model = MLP(context=CONTEXT, horizon=HORIZON, settings=settings, plan=plan)
        model.fit(panel, train, validation)
        found.append([*errors(model, panel, validation), *errors(model, panel, test)])
    name = f"mlp, {layer[0]} hidden, dropout {layer[1]}, {level}, decay {decay}"
    return row(name, found, (time.process_time() - began) / len(SEEDS), model.n_parameters)


def row(name: str, found: list[list[float]], cpu_seconds: float, parameters: int) -> dict[str, Any]:
    """The mean over the seeds of the errors on validation and test rows."""
    mean, spread = np.mean(found, axis=0), np.ptp(found, axis=0)
    return {
        "variant": name,
        "validation_mse": mean[0],
        "validation_mae": mean[1],
        "mse": mean[2],
        "mae": mean[3],
        "mse_range": spread[2],
        "mae_range": spread[3],
        "cpu_seconds": cpu_seconds,
        "parameters": parameters,
    }


def measure() -> list[dict[str, Any]]:
    """All variants, that of least validation MAE first."""
    levels: tuple[Normalisation, ...] = ("none", "last")
    rows = [exact(level, individual=individual) for level in levels for individual in (False, True)]
    kinds: tuple[WindowNormalisation, ...] = ("none", "revin")
    rows += [learned(kind, layer, decay) for kind in kinds for layer in LAYERS for decay in DECAYS]
    return sorted(rows, key=lambda one: one["validation_mae"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    if not SHARED.is_dir():
        print(
            "The real series were not found: put them beside the checkout as shared, or set PRESURGE_SHARED."
        )
        return 1
    rows = measure()
    if options.json:
        print(json.dumps({"variants": rows, "goal": GOAL}, indent=2))
        return 0
    print(f"ETTh1 {CONTEXT} -> {HORIZON}; networks: means of {len(SEEDS)} seeds; least validation MAE first")
    head = f"{'val. MSE':>8} {'val. MAE':>8} {'MSE':>7} {'MAE':>7} {'seeds apart':>11} {'CPU-s':>6} {'learned':>8}"
    print(f"  {'variant':<46} {head}")
    for one in rows:
        print(
            f"  {one['variant']:<46} {one['validation_mse']:>8.4f} {one['validation_mae']:>8.4f} {one['mse']:>7.4f} "
            f"{one['mae']:>7.4f} {one['mse_range']:>11.4f} {one['cpu_seconds']:>6.1f} {one['parameters']:>8,}"
        )
    best = rows[0]
    print(
        f"\nChosen on validation: MSE {best['mse']:.4f} (goal {GOAL['mse']}), MAE {best['mae']:.4f} (goal {GOAL['mae']})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
