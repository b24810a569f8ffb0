"""Accuracy on real series: trained on the first 70 % of the rows, scored on every window of the last 30 %.

Every model goes the way of ``presurge backtest`` and is scored on the same windows: Presurge's, the baselines, and LightGBM if
it is installed. WQL judges the distribution, WAPE the median, RMSE and bias the mean, ``cov`` is the share of the values inside
the 80 % interval. Then follow a fleet, pooled against one model an item, and short traces against the load predictors of a
planner. ETTh1 follows its own standard protocol. Run with one thread:

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py [--series NAME] [--no-peers] [--keep DIR] [--deep] [--json]

``--keep DIR`` keeps the forecasts of the peers, which take most of the time, for the next run (whose CPU-seconds then leave
their training out). ``--deep`` adds the networks
(some fifteen minutes): every one with its own defaults and the calendar, but the recurrent ones and the Transformer with at
most 3,000 different windows, and with epochs for 24,000 windows in all.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fleet
import numpy as np
import short
from exact import etth1_standard_protocol
from peers import lightgbm_peers, missing
from series import DATA, SERIES, Series, load

from presurge.evaluation.backtest import without_room
from presurge.evaluation.fit import Fitted, fit_model
from presurge.models.registry import BASELINES, model_class
from presurge.series.dataset import Dataset
from presurge.training.config import TrainingConfig
from presurge.workflows.evaluate import score_fitted

MODELS = ("auto", "linear", "dlinear", *BASELINES)
DEEP = ("mlp", "lstm", "gru", "transformer")
COSTLY = ("lstm", "gru", "transformer")
MOST_WINDOWS, ALL_WINDOWS = 3_000, 24_000
KEPT = ("wql", "wape", "rmse", "relative_bias", "mae", "mase", "coverage_80", "coverage_95")
SCORES = ("wql", "wape", "rmse")
ALIKE, BIASED, COVERED = 0.005, 0.03, (0.77, 0.83)
"""Scores that differ by less are alike; the bias and the coverage that are marked."""
FURTHER = ("fleet", "short", "etth1")
Row = dict[str, Any]
Keep = Callable[[str, Callable[[], Any]], Any]


def measure(series: Series, *, peers: bool, deep: bool, keep: Keep) -> list[Row]:
    """One row a model and scored channel: its scores, its cost, and its error over the reference."""
    dataset = load(series)
    shape = {"context": series.context, "horizon": series.horizon}
    left_out = without_room(dataset, **shape)
    fitted = {name: fit_model(name, dataset, **shape) for name in MODELS if name not in left_out}
    if peers:
        found = lightgbm_peers(
            dataset,
            **shape,
            scored=series.scored,
            keep=lambda name, make: keep(f"{series.name}-{name}", make),
        )
        fitted |= {one.model.name: one for one in found}
    if deep:
        fitted |= {name: fit_network(name, dataset, shape) for name in DEEP}
    evaluation = score_fitted(list(fitted.values()), dataset)
    metrics = evaluation.metrics()
    return [
        {
            "series": series.name,
            "channel": channel,
            "shape": f"{series.context}->{series.horizon}",
            "model": name,
            **scores_of(metrics[name][channel]),
            "cpu_seconds": one.cpu_seconds + evaluation.costs[name].predict_seconds,
            "parameters": one.model.n_parameters,
            "chosen": one.report.chosen.get(channel, one.report.chosen),
            "windows": evaluation.n_windows,
            "reference": series.reference if channel == series.scored[0] else None,
            "best_naive": series.best_naive if channel == series.scored[0] else None,
            "ratio": metrics[name][channel]["wape"] / series.reference
            if series.reference and channel == series.scored[0]
            else None,
        }
        for channel in series.scored
        for name, one in fitted.items()
    ]


def scores_of(values: dict[str, float | None]) -> dict[str, float | None]:
    """The scores that are kept."""
    return {name: values[name] for name in KEPT}


def fit_network(name: str, dataset: Dataset, shape: dict[str, int]) -> Fitted:
    """A network as it comes, the costly ones with fewer windows."""
    defaults, settings = model_class(name).training_defaults, {"calendar": True}
    if name in COSTLY:
        settings["stride"] = stride = -(-len(dataset.train) // MOST_WINDOWS)
        epochs = ALL_WINDOWS * stride // len(dataset.train)
        defaults = {**defaults, "epochs": min(epochs, defaults["epochs"])}
    return fit_model(name, dataset, **shape, settings=settings, training=TrainingConfig(**defaults))


def kept_in(folder: Path | None) -> Keep:
    """Keep arrays in a folder, if there is one."""

    def keep(name: str, make: Callable[[], Any]) -> Any:
        if folder is None:
            return make()
        file = folder / f"{name.replace('/', '-')}.npy"
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            np.save(file, make())
        return np.load(file)

    return keep


def measure_etth1() -> Row:
    """The variant of exact DLinear with the least validation error; the cost is that of all variants together."""
    tried = etth1_standard_protocol(DATA / "benchmark/ETTh1.csv.gz")
    best = tried[0]
    return {
        "series": "etth1",
        "shape": "336->96",
        "model": f"dlinear, {'individual' if best.individual else 'shared'}",
        "mse": best.mse,
        "mae": best.mae,
        "cpu_seconds": sum(one.cpu_seconds for one in tried),
        "windows": best.test_windows,
        "reference": {"mse": 0.376, "mae": 0.396},
        "ratio": best.mse / 0.376,
    }


def print_series(rows: list[Row]) -> None:
    """One table a channel."""
    for channel in dict.fromkeys(row["channel"] for row in rows):
        own = [row for row in rows if row["channel"] == channel]
        first = own[0]
        print(f"\n{first['series']}, {channel}: {first['shape']}, {first['windows']:,} windows")
        if first["reference"]:
            print(
                f"  WAPE of least squares after a square root {first['reference']}, best naive {first['best_naive']}"
            )
        print(
            f"  {'model':<15} {'WQL':>7} {'WAPE':>7} {'RMSE':>10} {'bias':>7} {'cov.':>5} {'MASE':>6} "
            f"{'CPU-s':>7} {'learned':>8}"
        )
        for row in own:
            print(
                f"  {row['model']:<15} {number(row['wql'], '7.4f')} {number(row['wape'], '7.4f')} {number(row['rmse'], '10.5g')} "
                f"{number(row['relative_bias'], '+7.1%')} {number(row['coverage_80'], '5.3f')} {number(row['mase'], '6.3f')} "
                f"{row['cpu_seconds']:>7.2f} {row['parameters']:>8,}"
            )
        chosen = [f"{key} {value}" for key, value in first["chosen"].items() if not isinstance(value, dict)]
        print(textwrap.fill(f"  auto chose {', '.join(chosen)}", 98, subsequent_indent="    "))


def number(value: float | None, form: str) -> str:
    """A number, or a dash of the same width."""
    return format(value, form) if value is not None else "-".rjust(int(form.lstrip("+").split(".")[0]))


def against(rows: list[Row]) -> list[Row]:
    """Auto against the best of the others on every channel, score by score: ratios, below 1 where auto is better.

    ``linear`` is left out, because it is what auto chooses most of the time.
    """
    found = []
    for auto in (row for row in rows if row["model"] == "auto"):
        key = (auto["series"], auto["channel"])
        others = [
            row
            for row in rows
            if (row["series"], row["channel"]) == key and row["model"] not in ("auto", "linear")
        ]
        one: Row = {"series": auto["series"], "channel": auto["channel"]}
        one |= {name: auto[name] for name in ("relative_bias", "coverage_80")}
        for score in SCORES:
            rivals = [row for row in others if row[score] is not None]
            best = min(rivals, key=lambda row: row[score])
            one |= {score: auto[score] / best[score], f"{score}_best": best["model"]}
        found.append(one)
    return found


def print_summary(rows: list[Row]) -> None:
    """Where auto is best, alike or worse than the best of all others, chosen in hindsight for every score."""
    compared = against(rows)
    if not compared:
        return
    print("\nauto over the best model but linear of each table, in hindsight (below 1: auto is better)")
    print(f"  {'series, channel':<24} {'WQL':<18} {'WAPE':<18} {'RMSE':<18} {'bias':>7}  {'cov.':>5}")
    for one in compared:
        cells = [
            f"{one[score]:.3f}{'*' if one[score] > 1 + ALIKE else ' '} {one[f'{score}_best']:<11.11}"
            for score in SCORES
        ]
        bias, coverage = one["relative_bias"], one["coverage_80"]
        marks = "*" if abs(bias) > BIASED else " ", " " if COVERED[0] <= coverage <= COVERED[1] else "*"
        name = f"{one['series']}, {one['channel']}"
        print(f"  {name:<24.24} {' '.join(cells)} {bias:>+7.1%}{marks[0]} {coverage:.3f}{marks[1]}")
    for score in SCORES:
        ratios = [one[score] for one in compared]
        better, worse = sum(r <= 1 + 1e-9 for r in ratios), sum(r > 1 + ALIKE for r in ratios)
        worst = max(compared, key=lambda one: one[score])
        print(
            f"  {score.upper():<5} best on {better} of {len(ratios)}, within 0.5 % on {len(ratios) - better - worse}, "
            f"worse on {worse}; worst {worst[score]:.3f} ({worst['series']}, {worst['channel']})"
        )
    biased = sum(abs(one["relative_bias"]) > BIASED for one in compared)
    outside = sum(not COVERED[0] <= one["coverage_80"] <= COVERED[1] for one in compared)
    print(f"  bias of the mean beyond 3 % on {biased}, coverage outside 0.77 to 0.83 on {outside} (marked *)")
    known = [row for row in rows if row["model"] == "auto" and row["ratio"]]
    if known:
        below, worst = sum(row["ratio"] < 1 for row in known), max(known, key=lambda row: row["ratio"])
        print(
            f"  WAPE below least squares after a square root on {below} of {len(known)}; "
            f"the worst ratio is {worst['ratio']:.3f} ({worst['series']})"
        )


def arguments() -> argparse.Namespace:
    names = [series.name for series in SERIES] + list(FURTHER)
    parser = argparse.ArgumentParser(description="Accuracy on real series against baselines and peers.")
    parser.add_argument("--series", choices=names, action="append", help="only this one; may be repeated")
    parser.add_argument("--no-peers", action="store_true", help="leave the models of other packages out")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the forecasts of peers for the next run"
    )
    parser.add_argument("--deep", action="store_true", help="also the networks: some fifteen minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    wanted = options.series or [series.name for series in SERIES] + list(FURTHER)
    if not DATA.is_dir():
        print(
            "The real series were not found: put them beside the checkout as shared/data, or set PRESURGE_SHARED."
        )
        return 1
    keep, absent = kept_in(options.keep), missing("lightgbm", *short.PACKAGES)
    if absent and not options.no_peers:
        print(f"Left out, not installed: {', '.join(absent)}. Install the extra `bench`.", file=sys.stderr)
    found: Row = {"series": [], "missing_peers": absent}
    for series in SERIES:
        if series.name in wanted:
            peers = not options.no_peers and "lightgbm" not in absent
            measured = measure(series, peers=peers, deep=options.deep, keep=keep)
            found["series"] += measured
            if not options.json:
                print_series(measured)
    found["summary"] = against(found["series"])
    if not options.json:
        print_summary(found["series"])
    further: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
        "fleet": (fleet.measure, fleet.show),
        "short": (lambda: short.measure(peers=not options.no_peers, keep=keep), short.show),
        "etth1": (measure_etth1, show_etth1),
    }
    for name, (work, show) in further.items():
        found[name] = work() if name in wanted else None
        if found[name] and not options.json:
            show(found[name])
    if options.json:
        print(json.dumps(found, indent=2))
    return 0


def show_etth1(etth1: Row) -> None:
    """One line."""
    print(
        f"\nETTh1 {etth1['shape']}, standard protocol, {etth1['windows']:,} windows: {etth1['model']} "
        f"MSE {etth1['mse']:.4f} (reference 0.376), MAE {etth1['mae']:.4f} (0.396), {etth1['cpu_seconds']:.2f} CPU-s"
    )


if __name__ == "__main__":
    sys.exit(main())
