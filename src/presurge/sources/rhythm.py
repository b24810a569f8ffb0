"""The minute-by-minute intensity of a synthetic LLM service: daily and weekly rhythm, bursts, failure episodes.

Bursts come from gamma-distributed multipliers with autocorrelation. Half the sum of ``k`` squared, independent
Gaussian AR(1) processes is gamma-distributed with shape ``k / 2`` and has the autocorrelation ``coefficient ** 2``
per step: a sum of squares needs no quantile function.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MINUTES_PER_DAY = 1440
_MINUTES_PER_WEEK = 7 * MINUTES_PER_DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteLoad:
    """The load of each of M minutes. ``conversation`` and ``api`` add up to one over all minutes.

    Attributes:
        conversation: Share of all requests that are conversation requests of this minute, [M].
        api: Share of all requests that are API requests of this minute, [M].
        failure: Probability that a request of this minute fails, [M].
        length: Shift of the logarithm of the token lengths in this minute, [M].
    """

    conversation: FloatArray
    api: FloatArray
    failure: FloatArray
    length: FloatArray


def minute_load(minutes: int, start: datetime, rng: np.random.Generator) -> MinuteLoad:
    """Draw the intensity of ``minutes`` minutes that begin at the wall-clock time ``start``."""
    offset = (start.weekday() * 24 + start.hour) * 60 + start.minute
    week_minute = (np.arange(minutes) + offset) % _MINUTES_PER_WEEK
    hour = week_minute % MINUTES_PER_DAY / 60
    weekday = week_minute // MINUTES_PER_DAY
    level = gamma_process(minutes, shape=30, minutes_to_forget=600, rng=rng)
    conversation = (
        _conversation_rhythm(hour, weekday)
        * level
        * gamma_process(minutes, shape=12, minutes_to_forget=45, rng=rng)
        * gamma_process(minutes, shape=6, minutes_to_forget=3, rng=rng)
    )
    api = _api_rhythm(hour, weekday, week_minute) * (
        0.25 * gamma_process(minutes, shape=3, minutes_to_forget=120, rng=rng)
        + 0.75
        * gamma_process(minutes, shape=0.5, minutes_to_forget=90, rng=rng)
        * gamma_process(minutes, shape=4, minutes_to_forget=4, rng=rng)
    )
    conversation *= _CONVERSATION_SHARE / conversation.sum()
    api *= (1 - _CONVERSATION_SHARE) / api.sum()
    return MinuteLoad(
        conversation=conversation,
        api=api,
        failure=_failure_episodes(minutes, rng),
        length=0.15 * _autoregressive(minutes, coefficient=np.exp(-1 / 30), rng=rng),
    )


def gamma_process(
    minutes: int, *, shape: float, minutes_to_forget: float, rng: np.random.Generator
) -> FloatArray:
    """Gamma-distributed multipliers of mean 1 whose autocorrelation falls to 1/e after ``minutes_to_forget``.

    Args:
        minutes: How many.
        shape: Of the gamma distribution, a multiple of 0.5; the variance is ``1 / shape``.
        minutes_to_forget: Time constant of the autocorrelation.
        rng: Source of randomness.
    """
    coefficient = np.exp(-0.5 / minutes_to_forget)
    total = np.zeros(minutes)
    for _ in range(round(2 * shape)):
        total += _autoregressive(minutes, coefficient=coefficient, rng=rng) ** 2
    return total / (2 * shape)


def _autoregressive(minutes: int, *, coefficient: float, rng: np.random.Generator) -> FloatArray:
    """A stationary Gaussian AR(1) process of variance 1, computed by repeated doubling instead of a loop over minutes."""
    z = rng.standard_normal(minutes)
    z[1:] *= np.sqrt(1 - coefficient**2)
    shift, factor = 1, float(coefficient)
    while shift < minutes and factor > 1e-12:
        z[shift:] += factor * z[:-shift]
        shift, factor = 2 * shift, factor * factor
    return z


_CONVERSATION_SHARE = 0.6
_WEEKDAY_CONVERSATION = np.array([1.0, 1.05, 1.03, 1.0, 0.95, 0.52, 0.55])
_WEEKDAY_API = np.array([1.0, 1.0, 1.1, 1.05, 0.9, 0.45, 0.4])


def _conversation_rhythm(hour: FloatArray, weekday: npt.NDArray[np.int64]) -> FloatArray:
    """People: quiet at night, a morning and an afternoon peak around lunch, a lower evening peak."""
    knots = [0, 2, 4, 6, 7.5, 9, 10.5, 12.5, 15, 17, 18.5, 20.5, 22.5, 24]
    level = [0.55, 0.2, 0.12, 0.12, 0.3, 1.1, 1.6, 1.0, 1.9, 1.6, 1.15, 1.4, 1.0, 0.55]
    rhythm: FloatArray = np.interp(hour, knots, level) * _WEEKDAY_CONVERSATION[weekday]
    return rhythm


def _api_rhythm(
    hour: FloatArray, weekday: npt.NDArray[np.int64], week_minute: npt.NDArray[np.int64]
) -> FloatArray:
    """Programs: flatter than people, with jobs at the full and, lighter, at the half hour."""
    flat = 0.6 + 0.5 * np.clip(np.sin((hour - 8) / 12 * np.pi), 0, None)
    minute = week_minute % 60
    jobs = 1 + 1.5 * np.exp(-minute / 3) + 0.6 * np.exp(-((minute - 30) % 60) / 3)
    rhythm: FloatArray = flat * jobs * _WEEKDAY_API[weekday]
    return rhythm


def _failure_episodes(minutes: int, rng: np.random.Generator) -> FloatArray:
    """A background of half a per cent, and about two short episodes a day with many failures."""
    failure = np.full(minutes, 0.005)
    episodes = rng.poisson(2 * minutes / MINUTES_PER_DAY)
    first = rng.integers(0, minutes, episodes)
    length = rng.geometric(0.15, episodes)
    severity = rng.uniform(0.2, 0.9, episodes)
    for begin, span, share in zip(first, length, severity, strict=True):
        failure[begin : begin + span] = share
    return failure
