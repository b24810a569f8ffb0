"""How wrong the forecasts of an item were: each is scored when its rows come, beside the plain baselines.

Shapes: A origins, H horizon steps, C target channels, W rows of the window, S sums.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from presurge.models.forecaster import Forecaster
from presurge.models.tracking import Tracked
from presurge.series.frequency import DAY
from presurge.series.panel import FloatArray

SUMS = ("cells", "size", "absolute", "error", "intervals", "inside", "last-value", "recent-mean", "day-ago")
"""What is summed over the steps of the forecasts of a row: cells scored, |actual|, |median - actual|, mean - actual, cells
with an 80 % interval, those inside it, and |baseline - actual| of three baselines."""
BASELINES = SUMS[6:]
_RECENT = 10
_LEAST, _DOUBLE, _SURE = 30, 2.0, 4.0


@dataclass(eq=False)
class Live:
    """The last forecasts of an item, and the errors of its last W rows.

    Attributes:
        made_AHVC: float32, forecasts by origin: mean, median, quantiles 0.1 and 0.9; bucket ``b`` at place ``b % A``.
        origin_A: The bucket of each.
        sums_WSC: float32, the sums of each row; NaN where nothing was scored, or a baseline has no value.
        bucket_W: The bucket of each row.
    """

    KEPT: ClassVar = ("made_AHVC", "origin_A", "sums_WSC", "bucket_W")

    expected_C: npt.NDArray[np.float64]
    day: int
    made_AHVC: FloatArray
    origin_A: npt.NDArray[np.int64]
    sums_WSC: FloatArray
    bucket_W: npt.NDArray[np.int64]

    @classmethod
    def begin(cls, model: Forecaster, window: int) -> "Live":
        """Nothing was forecast yet.

        Args:
            model: Its measured error is what a live error is compared with.
            window: W.
        """
        spec, horizon = model.fitted_spec(), model.horizon
        channels = len(spec.targets)
        measured = [model.error.get(channel.name, {}).get("mae", np.nan) for channel in spec.targets]
        return cls(
            expected_C=np.array(measured, np.float64),
            day=0 if DAY % spec.step else DAY // spec.step,
            made_AHVC=np.full((horizon, horizon, 4, channels), np.nan, np.float32),
            origin_A=np.full(horizon, -(1 << 62)),
            sums_WSC=np.full((window, len(SUMS), channels), np.nan, np.float32),
            bucket_W=np.full(window, -(1 << 62)),
        )

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from kept arrays, if they are of the same horizon, channels and window."""
        if all(getattr(self, name).shape == arrays[name].shape for name in self.KEPT):
            for name in self.KEPT:
                setattr(self, name, arrays[name].copy())

    @property
    def before(self) -> int:
        """Rows before one that its scores look at."""
        return len(self.origin_A) + max(self.day, _RECENT)

    def add(self, value_BC: FloatArray, bucket: int, made: Tracked | None) -> None:
        """Score what was forecast of a closed bucket, and keep the forecast made from it.

        Args:
            value_BC: The targets of the rows up to the bucket, at most ``before`` of them before it; NaN where missing.
            bucket: Its number.
            made: The forecast from it, if there is one.
        """
        horizon = len(self.origin_A)
        self._score(value_BC, bucket)
        place = bucket % horizon
        self.origin_A[place], self.made_AHVC[place] = bucket, np.nan
        if made is not None:
            self.made_AHVC[place, :, 0], self.made_AHVC[place, :, 1] = made.mean_BHC[0], made.median_BHC[0]
            if {0.1, 0.9} <= {*made.levels}:
                for value, level in ((2, 0.1), (3, 0.9)):
                    self.made_AHVC[place, :, value] = made.quantiles_BHQC[0, :, made.levels.index(level)]

    def _score(self, value_BC: FloatArray, bucket: int) -> None:
        """Sum the errors of the forecasts of the last row over the steps at which it was forecast."""
        steps = np.arange(len(self.origin_A))
        origins = bucket - 1 - steps
        made_HVC = self.made_AHVC[origins % len(steps), steps]
        made_HVC[self.origin_A[origins % len(steps)] != origins] = np.nan
        actual_C, past_BC = value_BC[-1], value_BC[:-1]
        mean_HC, median_HC, low_HC, high_HC = made_HVC.swapaxes(0, 1)
        known_HC = ~np.isnan(median_HC + actual_C)
        if not known_HC.any():
            return
        bounded_HC = known_HC & ~np.isnan(low_HC + high_HC)
        inside_HC = (low_HC <= actual_C) & (actual_C <= high_HC)
        naive = [np.abs(each_HC - actual_C) for each_HC in self._baselines(past_BC)]
        cells = [np.ones_like(median_HC), np.broadcast_to(np.abs(actual_C), median_HC.shape)]
        cells += [np.abs(median_HC - actual_C), mean_HC - actual_C]
        sums = [np.where(known_HC, cell, 0).sum(axis=0) for cell in cells]
        sums += [bounded_HC.sum(axis=0), (bounded_HC & inside_HC).sum(axis=0)]
        sums += [np.where(known_HC, each, 0).sum(axis=0) for each in naive]
        place = bucket % len(self.bucket_W)
        self.bucket_W[place], self.sums_WSC[place] = bucket, np.stack(sums)

    def _baselines(self, past_BC: FloatArray) -> tuple[FloatArray, ...]:
        """What the baselines forecast of the row after the past, from the origin of each step: [H, C] each."""
        horizon, rows = len(self.origin_A), len(past_BC)
        padded_BC = np.concatenate((np.full((horizon + _RECENT, past_BC.shape[1]), np.nan), past_BC))
        last_HC = padded_BC[: -horizon - 1 : -1]
        recent = np.lib.stride_tricks.sliding_window_view(padded_BC, _RECENT, axis=0)
        recent_HC = recent[: -horizon - 1 : -1].mean(axis=-1)
        day_HC = np.full_like(last_HC, np.nan)
        if self.day and rows >= self.day and self.day >= horizon:
            day_HC[:] = past_BC[-self.day]
        return last_HC, recent_HC, day_HC

    def by_row(self) -> list[tuple[int, dict[str, list[float]]]]:
        """The bucket of each scored row, oldest first, and for each channel its WAPE and that of the last value."""
        found = []
        for place in np.argsort(self.bucket_W):
            total = dict(zip(SUMS, self.sums_WSC[place].astype(np.float64), strict=True))
            if not np.isnan(total["cells"]).any():
                size = np.where(total["size"] > 0, total["size"], np.nan)
                row = {
                    "wape": (total["absolute"] / size).tolist(),
                    "last_value": (total["last-value"] / size).tolist(),
                }
                found.append((int(self.bucket_W[place]), row))
        return found

    def scores(self) -> list[dict[str, Any]]:
        """The scores of every channel over the window: rows, WAPE of the median, bias of the mean, coverage and baselines.

        A number that nothing was measured for is NaN.
        """
        held = ~np.isnan(self.sums_WSC[:, 0])
        found = []
        for c in range(self.sums_WSC.shape[2]):
            sums_WS = self.sums_WSC[held[:, c], :, c].astype(np.float64)
            total = dict(zip(SUMS, sums_WS.sum(axis=0).tolist(), strict=True))
            size = total["size"] or math.nan
            mae = total["absolute"] / (total["cells"] or math.nan)
            scores = {
                "rows": len(sums_WS),
                "wape": total["absolute"] / size,
                "mae": mae,
                "bias": total["error"] / (total["cells"] or math.nan),
                "relative_bias": total["error"] / size,
                "coverage_80": total["inside"] / (total["intervals"] or math.nan),
                "baselines": {name: total[name] / size for name in BASELINES},
            }
            found.append(scores | {"alarm": self._alarm(sums_WS, total, mae, float(self.expected_C[c]))})
        return found

    def _alarm(self, sums_WS: Any, total: dict[str, float], mae: float, expected: float) -> str:
        """Why the forecasts are not what was promised; empty if they are, or too few rows say otherwise."""
        if len(sums_WS) < _LEAST:
            return ""
        if mae > _DOUBLE * expected:
            return f"the error is {mae / expected:.1f} times the one measured in training"
        # The steps of a row share its surprise, so rows count and not cells.
        share_W = sums_WS[:, 5] / np.maximum(sums_WS[:, 4], 1)
        share_W = share_W[sums_WS[:, 4] > 0]
        horizon = len(self.origin_A)
        independent = max(len(share_W) / horizon, 1)
        away = abs(share_W.mean() - 0.8) if len(share_W) else 0.0
        if away > max(0.1, _SURE * np.sqrt(0.16 / independent)):
            return f"the 80 % intervals held {share_W.mean():.0%} of the last {len(share_W)} rows"
        return ""
