"""How often the drift alarm of the service is raised for nothing, and how many rows it needs for a real shift.

Streams of three kinds are forecast by the distribution that they are drawn from, so every alarm is a false one: a rhythm with normal noise
around it that lasts (AR(1), 0.8), the same as logarithm of the load (heavy tails), and Poisson counts. Then the noise
grows to three times its size, or the load rises by three standard deviations of the noise, which the forecasts do not know.
The error that a model was trained with is that of 2,000 rows.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from presurge.models.forecaster import SeriesSpec
from presurge.models.naive import LastValue
from presurge.models.tracking import Tracked
from presurge.series.frequency import MINUTE
from presurge.series.panel import Channel, Panel
from presurge.serving.live import Live

ROWS, STREAMS, SHIFTS, RHO, NORMAL = 5_000, 10, 10, 0.8, 1.2815516
Row = tuple[float, npt.NDArray[np.float64]]
"""The value of a row, and [H, 4]: mean, median and the ends of the 80 % interval of the rows after it."""


def rows(
    kind: str, horizon: int, rng: np.random.Generator, noise: float = 1, level: float = 0
) -> Iterator[Row]:
    """Rows of a stream without an end; after 2,500 rows the noise has another size, and the load another level."""
    ahead = np.arange(1, horizon + 1)
    spread_H, z, row = np.sqrt((1 - RHO ** (2 * ahead)) / (1 - RHO**2)), 0.0, 0
    counts = rng.poisson(5.0, 200_000)
    told = np.tile([5.0, np.median(counts), *np.quantile(counts, (0.1, 0.9), method="lower")], (horizon, 1))
    while True:
        changed = row >= 2_500
        z = RHO * z + rng.normal() * (noise if changed else 1)
        x, mean_H = (
            z + (level / 0.6 if changed else 0),
            z * RHO**ahead,
        )  # 0.6 is the spread of a step over that of the noise
        base, base_H = np.sin(row / 100), np.sin((row + ahead) / 100)
        normal = np.stack((mean_H, mean_H, mean_H - NORMAL * spread_H, mean_H + NORMAL * spread_H), axis=1)
        if kind == "counts":
            yield (
                float(
                    rng.poisson(
                        5.0
                        * (1 + level * changed * 0.45)
                        * (rng.gamma(1 / noise) * noise if changed and noise > 1 else 1)
                    )
                ),
                told,
            )
        elif kind == "normal":
            yield 20 + 5 * base + x, 20 + 5 * base_H[:, None] + normal
        else:
            scale = np.exp(3 + 0.5 * base_H[:, None] + 0.5 * normal)
            scale[:, 0] *= np.exp(0.125 * spread_H**2)
            yield float(np.exp(3 + 0.5 * base + 0.5 * x)), scale
        row += 1


def live_of(horizon: int, window: int) -> Live:
    """The errors of an item of which nothing was forecast yet."""
    model = LastValue(context=10, horizon=horizon)
    model.spec = SeriesSpec.of(
        Panel(
            values=np.ones((9, 1), np.float32),
            channels=(Channel("load"),),
            step=MINUTE,
            start=np.zeros(1, np.int64),
        )
    )
    return Live.begin(model, window)


def walked(live: Live, stream: Iterator[Row], number: int) -> Iterator[str]:
    """The alarm after each of some rows."""
    values = np.full(number, np.nan, np.float32)

    def targets(begin: int, end: int) -> npt.NDArray[np.float32]:
        return np.array([values[k] if k >= 0 else np.nan for k in range(begin, end)], np.float32)[:, None]

    for bucket in range(number):
        values[bucket], told_H4 = next(stream)
        mean_1H1, median_1H1 = told_H4.T[:2, None, :, None].astype(np.float32)
        made = Tracked(
            mean_1H1,
            median_1H1,
            told_H4[None, :, 2:, None].astype(np.float32),
            np.zeros(1, np.int64),
            (0.1, 0.9),
        )
        live.add(bucket, made, targets)
        yield live.scores()[0]["alarm"] if live.expected[0] else ""


def main() -> None:
    """Print false alarms by kind of stream, and the rows until an alarm for each shift."""
    print(
        "stream  horizon  alarms in 1,000 rows  streams with one  rows until an alarm: noise x 3  level + 3 sd"
    )
    for kind in ("normal", "heavy", "counts"):
        for horizon in (3, 30):
            seed = [horizon, len(kind)]
            trained = live_of(horizon, 2_000)
            list(walked(trained, rows(kind, horizon, np.random.default_rng(seed)), 2_000))
            (expected,) = trained.scores()

            def alarms(
                number: int, *own: int, horizon=horizon, kind=kind, expected=expected, **shift: float
            ) -> npt.NDArray[np.bool_]:
                live = live_of(horizon, 200)
                live.expected = (expected,)
                stream = rows(kind, horizon, np.random.default_rng([*own, horizon]), **shift)
                return np.array([bool(one) for one in walked(live, stream, number)])

            calm = [alarms(ROWS, 1, k) for k in range(STREAMS)]
            raised = sum(int((np.diff(one.astype(int)) > 0).sum()) for one in calm)
            delays = []
            for shift in ({"noise": 3.0}, {"level": 3.0}):
                found = [alarms(2_900, 2, k, **shift)[2_500:] for k in range(SHIFTS)]
                rows_until = [int(one.argmax()) if one.any() else 400 for one in found]
                delays.append(f"{np.median(rows_until):.0f} ({sum(one.any() for one in found)} of {SHIFTS})")
            share = f"{sum(one.any() for one in calm)} of {STREAMS}"
            print(
                f"{kind:8}{horizon:7}{1000 * raised / ROWS / STREAMS:22.3f}{share:>18}{delays[0]:>33}{delays[1]:>14}",
                flush=True,
            )


if __name__ == "__main__":
    main()
