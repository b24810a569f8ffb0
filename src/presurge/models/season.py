"""Finding the season of a series: a lag at which it resembles itself more than at the lags half a period beside it."""

import math
from typing import Any, NamedTuple

import numpy as np

from presurge.series.frequency import DAY, HOUR, WEEK
from presurge.series.panel import Panel
from presurge.series.scalers import Float64Array
from presurge.series.spans import Span

_CALENDAR = (HOUR, DAY, WEEK)
_CLEAR = 1.0
"""Largest contrast of a season: values a period apart must differ less than values out of phase."""
_CLEAR_UNCOMMON = 0.88
"""The same for a period read off the data, where the best of many lags looks good by chance, and for one seen only twice."""
_UNCOMMON = 0.9
"""A period read off the data replaces one of the calendar if it lowers the error at least to this share."""
_AS_HIGH = 0.9
"""The first peak of the autocorrelation counts if it reaches this share of the highest."""


class Season(NamedTuple):
    """A period in rows (1 where no season was found) and the candidates that it was chosen from."""

    period: int
    candidates: tuple[dict[str, Any], ...] = ()


def detect_season(panel: Panel, span: Span, channel: int = 0) -> Season:
    """Find the period of one channel in the rows of a span, one for all items.

    Candidates are an hour, a day and a week, if they are whole numbers of steps and the rows hold them twice, and the first
    high peak of the autocorrelation of the detrended series. A candidate counts as a season if values one and two periods
    apart differ clearly less than values half a period off, where a season is out of phase. Noise, a trend or a random walk
    do not achieve that, and bursts weigh little. Among the seasons, the one whose repetition has the least mean absolute
    error on these rows wins.
    """
    rows = zip(span.first, span.last, strict=True)
    pieces = [panel.values[a:b, channel].astype(np.float64) for a, b in rows]
    level = [_detrended(x_R) for x_R in pieces]
    longest = max(level, key=len)
    calendar = [unit // panel.step for unit in _CALENDAR if unit % panel.step == 0]
    periods = [period for period in calendar if 2 <= period <= len(longest) // 2]
    best, lowest = 1, np.inf
    candidates: list[dict[str, Any]] = []
    for period in dict.fromkeys([*periods, *_autocorrelation_peak(longest)]):
        uncommon = period not in periods
        error, contrast = _difference(pieces, period), _contrast(level, period)
        candidates.append({"period": period, "error": error, "contrast": contrast})
        clear = _CLEAR_UNCOMMON if uncommon or 3 * period > len(longest) else _CLEAR
        if contrast <= clear and error < lowest * (_UNCOMMON if uncommon else 1):
            best, lowest = period, error
    return Season(best, tuple(candidates))


def _detrended(x_R: Float64Array) -> Float64Array:
    """Take the straight line off a series and divide by its mean absolute deviation; a bare line becomes zero."""
    seen = ~np.isnan(x_R)
    result = np.where(seen, 0.0, np.nan)
    if seen.sum() >= 3:
        t_R = np.linspace(-1, 1, len(x_R))
        slope, height = np.polyfit(t_R[seen], x_R[seen], 1)
        rest_R = x_R - height - slope * t_R
        deviation = np.abs(rest_R[seen]).mean()
        if deviation > np.finfo(np.float32).eps * np.abs(x_R[seen]).max():
            result = rest_R / deviation
    return result


def _contrast(series: list[Float64Array], period: int) -> float:
    """The worse of two ratios: differences one period apart, and two periods apart, to those out of phase.

    Two periods apart are compared only where there are such pairs. Three standard errors of a mean over that many pairs are
    added, so that few rows prove little.
    """
    ratios = []
    for lag, out_of_phase in ((period, period // 2), (2 * period, period + period // 2)):
        if lag == period or any(len(x_R) > lag for x_R in series):
            apart = _difference(series, out_of_phase)
            ratios.append(_difference(series, lag) / apart if apart > 0 else 1.0)
    pairs = sum(max(0, len(x_R) - period) for x_R in series)
    return max(ratios) + 3 / math.sqrt(max(pairs, 1))


def _difference(series: list[Float64Array], lag: int) -> float:
    """Mean absolute difference of the observed values that lie ``lag`` rows apart."""
    gaps_R = np.concatenate([np.abs(x_R[lag:] - x_R[: max(0, len(x_R) - lag)]) for x_R in series])
    known = ~np.isnan(gaps_R)
    return float(gaps_R[known].mean()) if known.any() else 0.0


def _autocorrelation_peak(x_R: Float64Array) -> list[int]:
    """The first lag, up to a quarter of the rows, at which the autocorrelation peaks about as high as anywhere, if any.

    The highest of nearly equal peaks may be any multiple of the period.
    """
    rows, size = len(x_R), 1 << (2 * len(x_R)).bit_length()
    lags = rows // 4
    if lags < 4:
        return []
    clipped = np.clip(np.nan_to_num(x_R), -5, 5)
    power = np.abs(np.fft.rfft(clipped, size)) ** 2
    products_K = np.fft.irfft(power, size)[: lags + 1]
    correlation_K = products_K / (rows - np.arange(lags + 1)) / max(products_K[0] / rows, 1e-12)
    inner = correlation_K[1:-1]
    peaks = 1 + np.flatnonzero((inner > correlation_K[:-2]) & (inner >= correlation_K[2:]) & (inner > 0.1))
    peak_K = correlation_K[peaks]
    high: list[int] = peaks[peak_K >= _AS_HIGH * peak_K.max(initial=0)].tolist()
    return high[:1]
