"""Short request traces, one step ahead: auto against the load predictors of a planner, which read the same rows.

Of an hour of requests, the first 70 % of the rows train and the last 30 % are forecast one row at a time. Peers are what NVIDIA
Dynamo's planner offers: the last value; ARIMA by ``pmdarima.auto_arima`` on the training rows and updated with every row; a
local linear Kalman filter; Prophet on the last 50 rows. Tokens of a request are ratios of sums; a row without a request
repeats the last ratio for the peers.

Shapes: N rows of a series.
"""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from peers import missing
from series import TRACES, buckets, frame

from presurge.evaluation.fit import fit_model
from presurge.evaluation.walk import walk
from presurge.models.conformal import at_levels
from presurge.models.forecaster import Forecaster
from presurge.series.dataset import Dataset
from presurge.series.frequency import SECOND
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span
from presurge.series.windows import window_origins

Array = npt.NDArray[np.float64]
Row = dict[str, Any]
PACKAGES = ("pmdarima", "filterpy", "prophet")
CONTEXTS = {10: 30, 60: 8, 180: 3}
"""Step in seconds -> rows of history."""
CHANNELS = ("requests", "input_tokens", "output_tokens")
SURPLUS, PROPHET_ROWS = 0.1, 50
BOUNDS = tuple(level / 100 for level in range(1, 100))
"""Levels of the quantiles that a bound is chosen from."""
DRAWS = 400


def series_of(events: pl.DataFrame, step: int) -> Array:
    """Requests and mean input and output tokens of a request: float64 [N, 3], NaN where there was no request."""
    rows = buckets(events, step)
    requests = rows["requests"].to_numpy().astype(np.float64)
    known = np.where(requests > 0, requests, np.nan)
    return np.stack([requests, *(rows[name].to_numpy() / known for name in CHANNELS[1:])], axis=1)


def measure(*, peers: bool, keep: Callable[..., Any]) -> list[Row]:
    """One row a trace, step and channel: errors of auto and of every peer, and auto over the best of them."""
    rows = []
    for trace, file, read in TRACES:
        events = read(frame(file))
        for step, context in CONTEXTS.items():
            values_N3 = series_of(events, step)
            first = round(0.7 * len(values_N3))
            own = auto(values_N3, step, first, context)
            for c, channel in enumerate(CHANNELS):
                x_N, name = values_N3[:, c], f"{trace}-{step}-{channel}"
                given = filled(x_N)
                made = {
                    peer: keep(f"{name}-{peer}", partial(f, given, first))
                    for peer, f in predictors(peers).items()
                }
                rows.append(
                    {"trace": trace, "step": step, "channel": channel, **compared(x_N[first:], own[c], made)}
                )
    return rows


def filled(x_N: Array) -> Array:
    """The last known value where one is missing."""
    known = np.flatnonzero(np.isfinite(x_N))
    place = np.searchsorted(known, np.arange(len(x_N)), side="right") - 1
    return x_N[known[np.maximum(place, 0)]]


def auto(values_N3: Array, step: int, first: int, context: int) -> list[Row]:
    """Forecasts of each channel for the rows from ``first`` on: mean, median, and a bound with the surplus asked for.

    The quantile of the bound is the one, of all whole percents, whose surplus over the training rows is nearest to ``SURPLUS``.
    """
    channels = (Channel("requests", kind="count"), *(Channel(name) for name in CHANNELS[1:]))
    found = []
    for c, channel in enumerate(channels):
        values_N1 = filled(values_N3[:, c])[:, None].astype(np.float32)
        panel = Panel(
            values=values_N1,
            channels=(channel,),
            step=step * SECOND,
            start=np.zeros(1, np.int64),
            clock="relative",
        )
        before, test = (Span(np.array([a]), np.array([b])) for a, b in ((0, first), (first, len(panel))))
        train, validation = before.cut_tail("0.2")
        dataset = Dataset(
            panel=panel, train=train, validation=validation, test=test, validation_given=False, source={}
        )
        model = fit_model("auto", dataset, context=context, horizon=1).model

        (_, _, bound_BQ, actual), (mean, median, later_BQ, _) = (
            forecasts(model, panel, span) for span in (before, test)
        )
        surplus_Q = [surplus(bound, actual) for bound in bound_BQ.T]
        chosen = int(np.argmin(np.abs(np.array(surplus_Q) - SURPLUS)))
        found.append({"mean": mean, "median": median, "bound": later_BQ[:, chosen], "level": BOUNDS[chosen]})
    return found


def forecasts(model: Forecaster, panel: Panel, span: Span) -> tuple[Array, ...]:
    """Means, medians, the quantiles of all ``BOUNDS`` and what came, one row ahead over a span."""
    origins = window_origins(panel, span, context=model.context, horizon=1)
    (piece,) = walk([model], panel, origins)
    bound_BHQC = at_levels(piece.quantiles_BHQC, piece.levels, BOUNDS, model.fitted_spec().count_mask)
    parts = (
        piece.mean_BHC[:, 0, 0],
        piece.median_BHC[:, 0, 0],
        bound_BHQC[:, 0, :, 0],
        piece.actual()[:, 0, 0],
    )
    return tuple(part.astype(np.float64) for part in parts)


def surplus(bound: Array, actual: Array) -> float:
    """What is provided and not asked for, as a share of all that is asked for."""
    return float(np.nansum(np.maximum(bound - actual, 0)) / np.nansum(actual))


def unmet(bound: Array, actual: Array) -> float:
    """What is asked for and not provided, as a share of all that is asked for."""
    return float(np.nansum(np.maximum(actual - bound, 0)) / np.nansum(actual))


def with_surplus(point: Array, actual: Array, wanted: float) -> Array:
    """A forecast times the factor that gives the surplus, found on the very rows that are scored: in favour of the peer."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if surplus(point * middle, actual) < wanted else (low, middle)
    return point * low


def compared(actual: Array, own: Row, made: dict[str, Array]) -> Row:
    """Errors of all, and those of auto over the least of the peers with the standard error of their logarithm.

    The standard error is that of a bootstrap of the rows; the peer stays the same.
    """
    wanted = surplus(own["bound"], actual)
    bounds = {name: with_surplus(x, actual, wanted) for name, x in made.items()}
    row: Row = {"rows": len(actual), "level": own["level"], "surplus": wanted}
    draws = np.random.default_rng(0).integers(0, len(actual), (DRAWS, len(actual)))
    for score, error, mine, theirs in (
        ("wape", _wape, own["median"], made),
        ("rmse", _rmse, own["mean"], made),
        ("unmet", unmet, own["bound"], bounds),
    ):
        rivals = {name: error(x, actual) for name, x in theirs.items()}
        best = min(rivals, key=rivals.__getitem__)
        drawn = [ratio(score, *(error(x[i], actual[i]) for x in (mine, theirs[best]))) for i in draws]
        row |= {
            score: {"auto": error(mine, actual), **rivals},
            f"{score}_best": best,
            f"{score}_ratio": ratio(score, error(mine, actual), rivals[best]),
            f"{score}_error": float(np.std(np.log(np.maximum(drawn, 1e-9)))),
        }
    return row


def ratio(score: str, own: float, theirs: float) -> float:
    """One error over another; of unmet loads, which may be zero, each with half a percent of the load added."""
    added = 0.005 if score == "unmet" else 0.0
    return (own + added) / (theirs + added)


def _wape(made: Array, actual: Array) -> float:
    return float(np.nansum(np.abs(made - actual)) / np.nansum(np.abs(actual)))


def _rmse(made: Array, actual: Array) -> float:
    return float(np.sqrt(np.nanmean((made - actual) ** 2)))


def predictors(peers: bool) -> dict[str, Callable[[Array, int], Array]]:
    """The load predictors that are installed: each forecasts the rows from ``first`` on, from those before each."""
    found: dict[str, Callable[[Array, int], Array]] = {"last-value": lambda x, first: x[first - 1 : -1]}
    for package, more in (
        ("pmdarima", {"arima": arima, "arima-log": lambda x, first: _from_log(arima, x, first)}),
        ("filterpy", {"kalman": kalman, "kalman-log": lambda x, first: _from_log(kalman, x, first)}),
        ("prophet", {"prophet": prophet}),
    ):
        found |= more if peers and not missing(package) else {}
    return found


def _from_log(predictor: Callable[[Array, int], Array], x_N: Array, first: int) -> Array:
    return np.expm1(np.minimum(predictor(np.log1p(x_N), first), 50))


def arima(x_N: Array, first: int) -> Array:
    """Orders and parameters from the training rows; every row that follows updates them."""
    import pmdarima

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pmdarima.auto_arima(x_N[:first], suppress_warnings=True, error_action="ignore")
        made = []
        for row in range(first, len(x_N)):
            made.append(max(0.0, float(np.asarray(model.predict(1))[0])))
            model.update(x_N[row : row + 1])
    return np.array(made)


def kalman(x_N: Array, first: int) -> Array:
    """A local linear trend: level noise 1, trend noise 0.1, observation noise 10."""
    from filterpy.kalman import KalmanFilter

    state = KalmanFilter(dim_x=2, dim_z=1)
    state.x, state.P, state.R = np.array([[x_N[0]], [0.0]]), 1000 * np.eye(2), np.array([[10.0]])
    state.F, state.H, state.Q = (
        np.array([[1.0, 1.0], [0.0, 1.0]]),
        np.array([[1.0, 0.0]]),
        np.diag([1.0, 0.1]),
    )
    made = []
    for value in x_N[1:]:
        state.predict()
        made.append(max(0.0, state.x[0, 0]))
        state.update(np.array([[value]]))
    return np.array(made)[first - 1 :]


def prophet(x_N: Array, first: int) -> Array:
    """Prophet as it comes, fitted anew to the last 50 rows before every row."""
    import pandas as pd
    from prophet import Prophet

    for name in ("cmdstanpy", "prophet"):
        logging.getLogger(name).disabled = True
    stamps, made = pd.date_range("2024-01-01", periods=len(x_N), freq="180s"), []
    for row in range(first, len(x_N)):
        begin = max(0, row - PROPHET_ROWS)
        model = Prophet(uncertainty_samples=0)
        model.fit(pd.DataFrame({"ds": stamps[begin:row], "y": x_N[begin:row]}))
        made.append(
            max(0.0, float(model.predict(pd.DataFrame({"ds": stamps[row : row + 1]}))["yhat"].iloc[0]))
        )
    return np.array(made)


def show(rows: list[Row]) -> None:
    """One line a case, the geometric means and the worst cases."""
    names = list(rows[0]["wape"])
    print(f"\nshort traces, one step ahead: auto over the best of {', '.join(names[1:])}")
    print("  (in hindsight, score by score, ± one standard error; unmet load at the surplus that auto has)")
    head = f"{'trace':<9} {'step':>4} {'channel':<13} {'rows':>4} {'WAPE':>6}"
    print(f"  {head} {'ratio':<22} {'RMSE ratio':<22} {'unmet ratio':<22}")
    for row in rows:
        cells = [
            f"{row[f'{s}_ratio']:.3f}{'*' if row[f'{s}_ratio'] > 1.03 else ' '}±{row[f'{s}_error']:.2f} {row[f'{s}_best']:<10}"
            for s in ("wape", "rmse", "unmet")
        ]
        place = f"{row['trace']:<9} {row['step']:>3}s {row['channel']:<13} {row['rows']:>4}"
        print(f"  {place} {row['wape']['auto']:>6.4f} {' '.join(cells)}")
    for score in ("wape", "rmse", "unmet"):
        each = {
            name: geometric([ratio(score, row[score]["auto"], row[score][name]) for row in rows])
            for name in names[1:]
        }
        worst = max(rows, key=lambda row: row[f"{score}_ratio"])
        print(
            f"  {score.upper():<5} geometric mean {geometric([row[f'{score}_ratio'] for row in rows]):.3f}, "
            f"worst {worst[f'{score}_ratio']:.3f} ({worst['trace']}, {worst['step']} s, {worst['channel']})"
        )
        print(f"        over each peer: {', '.join(f'{name} {mean:.3f}' for name, mean in each.items())}")
        print(f"        each over the best of all others: {', '.join(in_hindsight(rows, score, names))}")


def in_hindsight(rows: list[Row], score: str, names: list[str]) -> list[str]:
    """What every forecaster loses to the best of the others, chosen afterwards: the geometric mean of the ratios."""
    found = []
    for own in names:
        least = [min(row[score][name] for name in names if name != own) for row in rows]
        ratios = [ratio(score, row[score][own], best) for row, best in zip(rows, least, strict=True)]
        found.append(f"{own} {geometric(ratios):.3f}")
    return found


def geometric(ratios: list[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9)))))
