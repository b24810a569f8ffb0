"""ETTh1, 336 -> 96, by the standard protocol: the best network of the zoo, chosen on validation, as the mean of three seeds.

Errors are on standardised values over all 2,785 test windows and 7 channels. Run with one thread (some two minutes):

    OMP_NUM_THREADS=1 python benchmarks/etth1.py [--json]
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from exact import SHARED, etth1

from presurge.models.networks.mlp import MLP, MLPSettings
from presurge.models.plan import TrainingPlan
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, chunks, targets_of, window_origins

CONTEXT, HORIZON, SEEDS = 336, 96, (0, 1, 2)
GOAL = {"mse": 0.366, "mae": 0.385}
"""The best of five libraries on the same protocol: 0.3659 and 0.3853, one seed."""
VARIANTS = [(hidden, decay) for hidden in (0, 64) for decay in (0.0, 0.3, 1.0)]


def errors(model: MLP, panel: Panel, span: Span) -> tuple[float, float]:
    """Mean squared and mean absolute error over all windows of a span."""
    squares = sizes = count = 0.0
    for part in chunks(window_origins(panel, span, context=CONTEXT, horizon=HORIZON), 512):
        error = model.predict(batch_of(panel, part, CONTEXT)).mean_BHC - targets_of(panel, part, HORIZON)
        squares += float(np.square(error, dtype=np.float64).sum())
        sizes += float(np.abs(error).sum(dtype=np.float64))
        count += error.size
    return squares / count, sizes / count


def measure(hidden: int, decay: float) -> dict[str, Any]:
    """One variant: the mean over the seeds of its errors on validation and test rows."""
    panel, (train, validation, test) = etth1(SHARED / "data/benchmark/ETTh1.csv.gz")
    began, runs = time.process_time(), []
    for seed in SEEDS:
        plan = TrainingPlan.of({**MLP.training_defaults, "weight_decay": decay, "seed": seed})
        settings = MLPSettings(hidden_size=hidden, scaler="none")
        model = MLP(context=CONTEXT, horizon=HORIZON, settings=settings, plan=plan)
        model.fit(panel, train, validation)
        runs.append([*errors(model, panel, validation), *errors(model, panel, test)])
    mean, spread = np.mean(runs, axis=0), np.ptp(runs, axis=0)
    return {
        "hidden_size": hidden,
        "weight_decay": decay,
        "validation_mae": mean[1],
        "mse": mean[2],
        "mae": mean[3],
        "mse_range": spread[2],
        "mae_range": spread[3],
        "cpu_seconds": (time.process_time() - began) / len(SEEDS),
        "parameters": model.n_parameters,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    if not SHARED.is_dir():
        print(
            "The real series were not found: put them beside the checkout as shared, or set PRESURGE_SHARED."
        )
        return 1
    rows = sorted((measure(*variant) for variant in VARIANTS), key=lambda row: row["validation_mae"])
    if options.json:
        print(json.dumps({"variants": rows, "goal": GOAL}, indent=2))
        return 0
    print(f"ETTh1 {CONTEXT} -> {HORIZON}, mlp, means of {len(SEEDS)} seeds; least validation error first")
    print(
        f"  {'hidden':>6} {'decay':>5} {'val. MAE':>8} {'MSE':>7} {'MAE':>7} {'seeds apart':>11} {'CPU-s':>6} {'learned':>8}"
    )
    for row in rows:
        print(
            f"  {row['hidden_size']:>6} {row['weight_decay']:>5} {row['validation_mae']:>8.4f} {row['mse']:>7.4f} "
            f"{row['mae']:>7.4f} {row['mse_range']:>11.4f} {row['cpu_seconds']:>6.1f} {row['parameters']:>8,}"
        )
    best = rows[0]
    print(
        f"\nChosen on validation: MSE {best['mse']:.4f} (goal {GOAL['mse']}), MAE {best['mae']:.4f} (goal {GOAL['mae']})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
