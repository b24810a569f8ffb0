"""Finding the season of a series: a period whose waves keep their phase, and whose values resemble those a period before."""

import math
from typing import Any, NamedTuple

import numpy as np

from presurge.series.frequency import DAY, HOUR, WEEK
from presurge.series.panel import Panel
from presurge.series.scalers import Float64Array
from presurge.series.spans import Span

_CALENDAR = (HOUR, DAY, WEEK)
_FALSE = 0.001
"""Probability of taking a series without a season for one with it, for each period."""
_WAVES = 13
"""Harmonics of a period that may show it: those of a week up to the second of a day."""
_MISSING = 0.25
"""Share of missing values up to which a repetition counts."""
_REPETITIONS = 20
"""With fewer of them the phases of a season may not yet show, but its contrast does."""
_CLEAR = 1.0
"""Largest contrast of a season: values a period apart must differ less than values out of phase."""
_PLAIN = 0.7
"""Contrast from which on the phases need not show: the straight line that each repetition loses may have been the season."""
_CLEAR_UNCOMMON = 0.88
"""The same for a period read off the data, where the best of many lags looks good by chance, and for one seen only twice."""
_LONGER = 0.95
"""A longer period replaces a shorter one if it lowers the error at least to this share."""
_UNCOMMON = 0.9
"""The same for a period read off the data."""
_AS_HIGH = 0.9
"""The first peak of the autocorrelation counts if it reaches this share of the highest."""


class Season(NamedTuple):
    """A period in rows (1 where no season was found) and the candidates that it was chosen from."""

    period: int
    candidates: tuple[dict[str, Any], ...] = ()


def detect_season(panel: Panel, span: Span, channel: int = 0) -> Season:
    """Find the period of one channel in the rows of a span, one for all items.

    Candidates are an hour, a day and a week, if they are whole numbers of steps and the rows hold them twice, and the first
    high peak of the autocorrelation of the detrended series. There are two signs of a season: its waves keep their phase,
    where those of noise, bursts, a trend or a random walk begin anew in every repetition; and values one and two periods
    apart differ clearly less than values half a period off, where a season is out of phase. A period of the calendar needs
    the first if it was repeated often, unless the second is plain, and else one of them; a period read off the data needs
    both. Among the seasons, the one whose repetition has the least mean absolute error on these rows wins, a longer one only
    if it is clearly better.
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
        chance = _chance(level, period, best) if period > 2 else 1.0
        candidates.append({"period": period, "error": error, "contrast": contrast, "chance": chance})
        clear = contrast <= (_CLEAR_UNCOMMON if uncommon or 3 * period > len(longest) else _CLEAR)
        found = chance <= _FALSE or contrast <= _PLAIN
        if uncommon:
            found = found and clear
        elif len(longest) < _REPETITIONS * period:
            found = found or clear
        if found and error < lowest * (_UNCOMMON if uncommon else _LONGER):
            best, lowest = period, error
    return Season(best, tuple(candidates))


def _chance(series: list[Float64Array], period: int, found: int) -> float:
    """The probability that the clearest wave of a period keeps its phase so well by chance.

    Each repetition, less its own straight line, gives one complex number a wave. Without a season their mean is zero, and
    D times its square over the variance of the D numbers has the F distribution with 2 and 2 (D - 1) degrees of freedom. The
    least probability counts once for every wave (Bonferroni). Source: Hartley, "Tests of significance in harmonic analysis",
    1949.

    Args:
        series: The pieces, without bursts.
        period: In rows.
        found: A shorter season, whose own waves do not count; 1 for none.
    """
    whole = [x_R[len(x_R) % period :].reshape(-1, period) for x_R in series]
    x_DP = np.concatenate(whole)
    x_DP = x_DP[np.isnan(x_DP).mean(axis=1) <= _MISSING]
    if len(x_DP) < 3:
        return 1.0
    t_P = np.linspace(-1, 1, period)
    known_DP = ~np.isnan(x_DP)
    x_DP = x_DP - np.nanmean(x_DP, axis=1, keepdims=True)
    slope_D1 = np.nansum(x_DP * t_P, axis=1, keepdims=True) / np.sum(known_DP * t_P**2, axis=1, keepdims=True)
    wave_DK = np.fft.rfft(np.nan_to_num(x_DP - slope_D1 * t_P), axis=1)
    orders = [k for k in range(1, min(_WAVES, (period - 1) // 2) + 1) if k * found % period or found == 1]
    wave_DK = wave_DK[:, orders]
    rest = len(x_DP) - 1
    mean_K = wave_DK.mean(axis=0)
    variance_K = np.square(np.abs(wave_DK - mean_K)).sum(axis=0) / rest
    ratio_K = len(x_DP) * np.square(np.abs(mean_K)) / np.maximum(variance_K, 1e-12)
    chance_K = (1 + ratio_K / rest) ** -float(rest)
    return min(1.0, float(len(orders) * chance_K.min(initial=1.0)))


def _detrended(x_R: Float64Array) -> Float64Array:
    """Take the straight line off a series, divide by its mean absolute deviation and flatten bursts; a bare line becomes zero."""
    seen = ~np.isnan(x_R)
    result = np.where(seen, 0.0, np.nan)
    if seen.sum() >= 3:
        t_R = np.linspace(-1, 1, len(x_R))
        slope, height = np.polyfit(t_R[seen], x_R[seen], 1)
        rest_R = x_R - height - slope * t_R
        deviation = np.abs(rest_R[seen]).mean()
        if deviation > np.finfo(np.float32).eps * np.abs(x_R[seen]).max():
            result = np.arcsinh(rest_R / deviation)
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
