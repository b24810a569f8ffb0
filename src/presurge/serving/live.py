"""How wrong the forecasts of an item were: each is scored when its rows come, beside the plain baselines.

A forecast keeps what the baselines of the same moment say of the same rows, so that both are judged on the same cells. A late row
scores its bucket again, if it is one of the last ``LATE``.

Shapes: A origins, H horizon steps, V values of a forecast, C target channels, W rows of the window, S sums, B rows.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from presurge.models.forecaster import Forecaster
from presurge.models.tracking import Tracked
from presurge.series.frequency import DAY
from presurge.series.panel import FloatArray

BASELINES = ("last-value", "recent-mean", "day-ago")
"""As in ``presurge.models.naive``: the last observed value, the mean of the last ten rows, the row of a day before."""
SUMS = ("cells", "size", "absolute", "error", "intervals", "inside", *BASELINES)
NEXT = ("mean", "low", "high", "actual")
"""What is summed over the forecasts of a row: cells scored, |actual|, |median - actual|, mean - actual, cells with an 80 %
interval, those inside it, and |baseline - actual|. ``NEXT``, kept beside them: the forecast a step before, and what came."""
LATE = 8
"""How many of the last rows a late value scores again."""
_RECENT = 10
_NEVER = -(1 << 62)
Sums = npt.NDArray[np.float64]
_DOUBLE, _SURE, _BLOCKS = 2.0, 3.0, 8
_LEAST, _CHANCE = 30, 1e-4


@dataclass(eq=False)
class Live:
    """The last forecasts of an item, and the errors of its last W rows.

    Attributes:
        made_AHVC: float32, forecasts by origin: mean, median, quantiles 0.1 and 0.9, baselines; bucket ``b`` at place ``b % A``.
        origin_A: The bucket of each.
        sums_WSC: float32, ``SUMS`` and ``NEXT`` of each row.
        bucket_W: The bucket of each.
        scored: The last bucket whose scores hold; a late row sets it back.
    """

    KEPT: ClassVar = ("made_AHVC", "origin_A", "sums_WSC", "bucket_W")

    context: int
    day: int
    expected: tuple[Mapping[str, float], ...]
    made_AHVC: FloatArray
    origin_A: npt.NDArray[np.int64]
    sums_WSC: FloatArray
    bucket_W: npt.NDArray[np.int64]
    scored: int = _NEVER

    @classmethod
    def begin(cls, model: Forecaster, window: int) -> "Live":
        """Nothing was forecast yet.

        Args:
            model: Its measured error is what a live error is compared with.
            window: W, which is at least ten horizons.
        """
        spec, horizon = model.fitted_spec(), model.horizon
        channels, window = len(spec.targets), max(window, 10 * horizon)
        return cls(
            context=model.context,
            day=day_rows(spec.step),
            expected=tuple(model.error.get(channel.name, {}) for channel in spec.targets),
            made_AHVC=np.full((horizon + LATE, horizon, 4 + len(BASELINES), channels), np.nan, np.float32),
            origin_A=np.full(horizon + LATE, _NEVER),
            sums_WSC=np.zeros((window, len(SUMS + NEXT), channels), np.float32),
            bucket_W=np.full(window, _NEVER),
        )

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from kept arrays, if they are of the same horizon, channels and window."""
        if all(getattr(self, name).shape == arrays[name].shape for name in self.KEPT):
            for name in self.KEPT:
                setattr(self, name, arrays[name].copy())
            self.scored = int(self.origin_A.max())

    def add(self, bucket: int, made: Tracked | None, targets: Callable[[int, int], FloatArray]) -> None:
        """Score what was forecast of the closed buckets since the last one, and keep the forecast made from this one.

        Args:
            bucket: The last closed bucket.
            made: The forecast from it, if there is one.
            targets: Gives the targets of the buckets from one to before another: [B, C], NaN where missing.
        """
        horizon, newest = self.made_AHVC.shape[1], int(self.origin_A.max())
        begin = max(self.scored + 1, newest - LATE + 1)
        if newest > _NEVER and begin <= (end := min(bucket, newest + horizon)):
            for number, actual_C in enumerate(targets(begin, end + 1)):
                self._score(actual_C, begin + number)
        self.scored, place = bucket, bucket % len(self.origin_A)
        self.origin_A[place], self.made_AHVC[place] = bucket, np.nan
        if made is not None:
            self.made_AHVC[place, :, 0], self.made_AHVC[place, :, 1] = made.mean_BHC[0], made.median_BHC[0]
            if {0.1, 0.9} <= {*made.levels}:
                ends = [made.levels.index(level) for level in (0.1, 0.9)]
                self.made_AHVC[place, :, 2:4] = made.quantiles_BHQC[0][:, ends]
            self.made_AHVC[place, :, 4:] = self._baselines(bucket, targets)

    def _baselines(self, bucket: int, targets: Callable[[int, int], FloatArray]) -> FloatArray:
        """What the baselines forecast from a bucket: [H, 3, C]."""
        context_BC, horizon = targets(bucket - self.context + 1, bucket + 1), self.made_AHVC.shape[1]
        known_BC = ~np.isnan(context_BC)
        newest_C = len(known_BC) - 1 - known_BC[::-1].argmax(axis=0)
        recent_BC, count_C = known_BC[-_RECENT:], known_BC[-_RECENT:].sum(axis=0)
        mean_C = np.where(recent_BC, context_BC[-_RECENT:], 0).sum(axis=0) / np.maximum(count_C, 1)
        told_HBC = np.full((horizon, len(BASELINES), len(count_C)), np.nan, np.float32)
        told_HBC[:, 0] = context_BC[newest_C, np.arange(len(newest_C))]
        told_HBC[:, 1] = np.where(count_C > 0, mean_C, told_HBC[0, 0])
        if self.day:
            before_BC = targets(first := bucket - self.day + 1, first + min(horizon, self.day))
            gaps_BC = np.isnan(before_BC)  # where all are, no day has passed
            before_BC = np.where(gaps_BC & ~gaps_BC.all(axis=0), told_HBC[0, 0], before_BC)
            told_HBC[:, 2] = before_BC[np.arange(horizon) % self.day]
        return told_HBC

    def _score(self, actual_C: FloatArray, bucket: int) -> None:
        """Sum the errors of the forecasts of a row over the steps at which it was forecast."""
        steps = np.arange(self.made_AHVC.shape[1])
        origins = bucket - 1 - steps
        made_HVC = self.made_AHVC[origins % len(self.origin_A), steps]
        made_HVC[self.origin_A[origins % len(self.origin_A)] != origins] = np.nan
        known_HC = ~np.isnan(made_HVC[:, 1] + actual_C)
        if not known_HC.any():
            return
        bounded_HC = known_HC & ~np.isnan(made_HVC[:, 2:4]).any(axis=1)
        inside_HC = bounded_HC & (made_HVC[:, 2] <= actual_C) & (actual_C <= made_HVC[:, 3])
        away_HVC = made_HVC - actual_C
        size_HC = np.broadcast_to(np.abs(actual_C), known_HC.shape)
        cells = [known_HC, size_HC, np.abs(away_HVC[:, 1]), away_HVC[:, 0], bounded_HC, inside_HC]
        cells_SHC = np.stack((*cells, *np.abs(away_HVC[:, 4:]).swapaxes(0, 1)))
        place = bucket % len(self.bucket_W)
        self.bucket_W[place] = bucket
        self.sums_WSC[place, : len(SUMS)] = np.where(known_HC, cells_SHC, 0).sum(axis=1)
        self.sums_WSC[place, len(SUMS) :] = (*made_HVC[0, [0, 2, 3]], actual_C)

    def _rows(self) -> npt.NDArray[np.int64]:
        """The places of the rows that were scored, oldest first."""
        order = np.argsort(self.bucket_W)
        return order[self.bucket_W[order] > _NEVER]

    def by_row(self, most: int = 500) -> list[tuple[int, dict[str, list[float]]]]:
        """The bucket of each scored row, oldest first, and for each channel its WAPE, that of the last value, and ``NEXT``."""
        found, own = [], [SUMS.index(name) for name in ("absolute", "last-value")]
        for place in self._rows()[-most:]:
            row_SC = self.sums_WSC[place].astype(np.float64)
            size_C = np.where(row_SC[1] > 0, row_SC[1], np.nan)
            told = [*(row_SC[own] / size_C).tolist(), *row_SC[len(SUMS) :].tolist()]
            found.append(
                (int(self.bucket_W[place]), dict(zip(("wape", "last_value", *NEXT), told, strict=True)))
            )
        return found

    def scores(self) -> list[dict[str, Any]]:
        """The scores of every channel over the window: rows, WAPE of the median, bias of the mean, coverage and baselines.

        A number that nothing was measured for is NaN.
        """
        found, sums_WSC = [], self.sums_WSC[self._rows()].astype(np.float64)
        for c, expected in enumerate(self.expected):
            row_WS = sums_WSC[sums_WSC[:, 0, c] > 0, :, c]
            total = dict(zip(SUMS, row_WS.sum(axis=0).tolist(), strict=False))
            cells, size, intervals = (total[name] or math.nan for name in ("cells", "size", "intervals"))
            scores: dict[str, Any] = {
                "rows": len(row_WS),
                "wape": total["absolute"] / size,
                "mae": total["absolute"] / cells,
                "bias": total["error"] / cells,
                "relative_bias": total["error"] / size,
                "coverage_80": total["inside"] / intervals,
                "baselines": {name: total[name] / size for name in BASELINES},
            }
            scores["alarm"] = self._worse(scores, expected, row_WS) or _outside(row_WS[:, len(SUMS) :])
            found.append(scores)
        return found

    def _worse(self, scores: Mapping[str, Any], expected: Mapping[str, float], row_WS: Sums) -> str:
        """Whether the error is beyond doubt more than twice the one measured in training, both in units and beside the load.

        The steps of a row share its surprise, and rows within a horizon share theirs: averages of blocks count as independent,
        and their mean has to lie three standard errors above the measured error.
        """
        block = max(self.made_AHVC.shape[1], _RECENT)
        blocks = len(row_WS) // block
        ratio = np.min([scores[name] / (expected.get(name) or math.nan) for name in ("mae", "wape")])
        if blocks < _BLOCKS or not ratio > _DOUBLE:
            return ""
        error_W = (row_WS[:, SUMS.index("absolute")] / row_WS[:, 0])[-blocks * block :]
        mean_B = error_W.reshape(blocks, block).mean(axis=1)
        if mean_B.mean() - _SURE * mean_B.std(ddof=1) / math.sqrt(blocks) <= expected["mae"]:
            return ""
        return f"the error is {ratio:.1f} times the one measured in training"


def day_rows(step: int) -> int:
    """Rows of a day that the baseline ``day-ago`` looks back; 0 where a day holds no whole number of rows, one, or too many to keep."""
    rows = 0 if DAY % step else DAY // step
    return rows if 2 <= rows <= 2_880 else 0


def _outside(next_W4: Sums) -> str:
    """Whether the 80 % intervals of the next row hold less than chance allows.

    One step ahead, the rows of calibrated intervals are independent, so that a share p or less of n rows has at most the
    probability exp(-n KL(p, 0.8)).

    Source: Chernoff's bound, in Arratia and Gordon, "Tutorial on large deviations for the binomial distribution", 1989.
    """
    _, low_W, high_W, actual_W = next_W4[~np.isnan(next_W4).any(axis=1)].T
    rows, share = (
        len(low_W),
        float(np.mean((low_W <= actual_W) & (actual_W <= high_W))) if len(low_W) else 1.0,
    )
    away = sum(p * math.log(p / q) for p, q in ((share, 0.8), (1 - share, 0.2)) if p)
    if rows < _LEAST or share >= 0.8 or rows * away < -math.log(_CHANCE):
        return ""
    return f"the 80 % intervals held the next row in {share:.0%} of {rows} rows"
