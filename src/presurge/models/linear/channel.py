"""One channel of the linear model: what it forecasts with, and the choice of its transform, terms and ridge.

    z(t+h) = l(t) + sum_j w[h,j] (z(t-j) - l(t)) + spread (b[h] + sum_k g[h,k] f_k(t)),    z = T(y / unit)

T is the identity, the square root or log(1 + x); unit and spread are those of the item. The f_k are further inputs: calendar
terms of the origin, the contexts of the covariates, and what is known of their rows after the origin. Reactions, which have
the size of z, count without the spread. The ridge shrinks towards the level l, not towards zero. The level is the last value.
Few windows cannot teach much more than the level itself: there it is the smoothed value with the least squared error (which
may be the last value or the mean of the context), b is zero, and w and g are shrunk once more.

Shapes: R rows, B windows, L context, H horizon, W = L + H, K inputs of one term, T transforms, P ridges, N outputs (H, or
P x H).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from presurge.models.calendar import Calendar
from presurge.models.linear.moments import Moments, joint_moments, moments_written_out, no_moments
from presurge.models.linear.scale import Scale
from presurge.models.linear.select import (
    Fold,
    complete_starts,
    item_sizes,
    no_window,
    quantile_loss,
    thinned,
    window_forecasts,
)
from presurge.models.linear.solve import DEFAULT_RIDGE, RIDGES, solve, squared_errors, without_anchor
from presurge.models.smoothing import SIMPLE, smoothing_maps
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.scalers import Float64Array, Scaler, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, chunks

if TYPE_CHECKING:
    from presurge.models.linear.linear import Linear

CALENDARS = ("calendar", "weekdays", "reactions")
"""Terms of the time of the origin: a rhythm of the day and of the week, weekdays with shapes of their own, and the harmonics
of the day that are multiplied by the last change and the level above the context, so that the reaction to them follows the
time of day."""
TERMS = (*CALENDARS, "covariates")
"""What a channel may forecast with beside its own past."""

WEEKDAYS_MARGIN = 0.05
"""Share of the error by which the many weights of the weekdays have to be better. On real series that gain less from them in
the folds they do harm on later rows."""
REACTIONS_MARGIN = 0.03
"""The same for those of the reactions, in the last fold: what they gain there they gain later, other than in earlier folds."""

FEW_WINDOWS = 500
"""With fewer training windows than these the level is a smoothed one. On real series of some 350 rows both do equally well."""
_DOUBT = 50
"""Windows that weigh as much as the doubt whether anything but the level can be learned from few, times the share of the squared
error about the level that is left: what explains all is not doubted."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SMALLEST_RIDGE = 1e-9
"""As a share of the mean eigenvalue: keeps weights finite where lags are collinear."""
_TINY = float(np.finfo(np.float64).tiny)
_VALUES_AT_ONCE = 1 << 21
_MOST_SCORED = 2_000
"""Windows of a fold that a quantile loss is taken of."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelModel:
    """The forecast of one channel.

    Attributes:
        scale: Its transform.
        weights: float64: ``weight`` [N, L] of the context in z, of which each row adds up to one; ``bias`` [N] in spreads; and
            one [N, K] by the name of each term in use.
        floor: Zero for counts, minus infinity for gauges.
    """

    scale: Scale
    weights: Mapping[str, Float64Array]
    floor: float

    def predict(
        self, batch: WindowBatch, context_BL: FloatArray, inputs: Mapping[str, Float64Array]
    ) -> Float64Array:
        """Forecast B windows in original units: float64 [B, N], NaN where the context has a missing value.

        Args:
            batch: The windows, which name their items.
            context_BL: Original units.
            inputs: float64 [B, K] for each term in use; others are ignored.
        """
        scale = self.scale.of(batch, context_BL)
        z_BL, further_BN = scale.forward(context_BL), self.weights["bias"]
        for term, input_BK in inputs.items():
            if term in self.weights and term != "reactions":
                further_BN = further_BN + input_BK @ self.weights[term].T
        z_BN = z_BL @ self.weights["weight"].T + scale.spread_X1 * further_BN
        if "reactions" in self.weights:
            z_BN += products(z_BL, inputs["reactions"]) @ self.weights["reactions"].T
        y_BN: Float64Array = np.clip(scale.inverse(z_BN, z_BL), self.floor, _FLOAT32_MAX)
        return y_BN

    def rows(self, rows: slice) -> "ChannelModel":
        """The model of some of the N outputs."""
        return replace(self, weights={name: array_N[rows] for name, array_N in self.weights.items()})


def further_inputs(
    terms: Collection[str], calendars: Mapping[str, Calendar], batch: WindowBatch
) -> dict[str, Float64Array]:
    """The inputs [B, K] of each term beside the context of the channel.

    ``calendar``, ``weekdays``, ``reactions``: harmonics of the time of the origin. ``covariates``: the context of each
    covariate of the batch and, if it is known, its H rows after that.
    """
    inputs = {term: calendars[term].terms(batch.origin_B) for term in CALENDARS if term in terms}
    if "covariates" in terms:
        known = [channel for channel in batch.channels if channel.role == "known"]
        parts = []
        for column, channel in enumerate(batch.channels):
            if channel.role != "target":
                parts.append(batch.context_BLC[:, :, column])
            if channel.role == "known" and batch.future_BHK is not None:
                parts.append(batch.future_BHK[:, :, known.index(channel)])
        inputs["covariates"] = np.concatenate(parts, axis=1).astype(np.float64)
    return inputs


def products(z_BL: Float64Array, daily_BK: Float64Array) -> Float64Array:
    """The change over the last row and the last four, and the level above the mean, times K harmonics: float64 [B, 3 K]."""
    before_B3 = np.stack((z_BL[:, -2:][:, 0], z_BL[:, -5:][:, 0], z_BL.mean(axis=1)), axis=1)
    moves_B3 = z_BL[:, -1:] - before_B3
    result: Float64Array = (moves_B3[:, :, None] * daily_BK[:, None]).reshape(len(z_BL), -1)
    return result


class ChannelFit(NamedTuple):
    """What was chosen for one channel.

    ``chosen`` and ``candidates`` are rows of a table: ``transform``, whether each term is used, ``ridge``, ``error`` and ``wql``.
    The ridge is chosen by ``error``, the geometric mean of WAPE and RMSE over mean size, over the folds (None if there were too
    few rows to judge); transform and terms by ``wql``, which only the best ridge of each has. ``at_fold`` holds the winner as fitted to the folds that
    were long enough, by their number; ``n_windows`` counts the complete training windows.
    """

    model: ChannelModel
    chosen: dict[str, Any]
    candidates: list[dict[str, Any]]
    at_fold: dict[int, ChannelModel]
    n_windows: int


class _Candidate(NamedTuple):
    """Some terms on one scale with the best ridge, as fitted to the folds; a row for each ridge; and the last fold's error."""

    chosen: dict[str, Any]
    rows: Sequence[dict[str, Any]]
    at_fold: dict[int, ChannelModel]
    last: float


class ChannelProblem:
    """One target of a panel, with the windows that learn and judge.

    Args:
        model: What to solve for: its sizes, configuration and calendar.
        panel: The target, then the covariates that may help to forecast it.
        train: The training rows.
        folds: Rows to choose by.

    Raises:
        DataError: There is no complete training window.
    """

    def __init__(self, model: "Linear", panel: Panel, train: Span, folds: Sequence[Fold]) -> None:
        self.config, self.calendars, self.panel = model.config, model.calendars, panel
        self.context, self.horizon = model.context, model.horizon
        size = (model.context, model.horizon)
        learn = (*(fold.learn for fold in folds), train)
        # Each fold, and last the training rows, holds the windows of the one before.
        self.learn_F = [complete_starts(panel, span, *size, model.config.stride)[0] for span in learn]
        self.judge_F = [thinned(complete_starts(panel, fold.judge, *size)[0]) for fold in folds]
        if len(self.learn_F[-1]) == 0:
            raise no_window(train, *size, panel.channels[0].name)
        self.few = len(self.learn_F[-1]) < FEW_WINDOWS
        self.levels_PHL = smoothing_maps(SIMPLE if self.few else SIMPLE[-1:], *size)
        nested_F = [self.learn_F[0][:0], *self.learn_F]
        self.new_F = [np.setdiff1d(later, less, assume_unique=True) for less, later in pairwise(nested_F)]
        self.usable = [f for f, judge in enumerate(self.judge_F) if len(judge) and len(self.learn_F[f])]
        harmonics = [*self.calendars["calendar"].harmonics, *self.calendars["weekdays"].harmonics]
        self.calendar = Calendar(step=panel.step, harmonics=tuple(harmonics))
        self.covariates = Scaler.fit(panel.take(train).values[:, 1:], "standard")
        self.covariate_PR = np.nan_to_num(self.covariates.scale(panel.values[:, 1:])).T
        y_IR = [panel.values[a:b, 0] for a, b in zip(train.first, train.last, strict=True)]
        observed_IR = [y_R[~np.isnan(y_R)].astype(np.float64) for y_R in y_IR]
        self.train_IR = {name: y_R for name, y_R in zip(panel.items, observed_IR, strict=True) if y_R.size}
        self.unit_I = item_sizes(panel, train)[:, 0]
        self.counts = panel.channels[0].kind == "count"
        lengths = {"known": sum(size), "observed": model.context}
        self.rows_P = [lengths[channel.role] for channel in panel.channels[1:]]
        self.columns = self._columns()

    def choose(self, term_sets: Sequence[Mapping[str, bool]]) -> ChannelFit:
        """Choose by the pooled error over the folds, and fit the winner to all training windows.

        The ridge is carried from the folds to the final fit as a number of rows. Where no fold holds windows both to learn
        from and to judge by, the choice is a default: the square root where it is possible, and a firm ridge.

        Args:
            term_sets: Whether each term that there is may be used, the default first, those with weekdays last.
        """
        scales = self._scales()
        moments = self._moments_by_fold(scales)
        chosen = {
            "transform": list(scales)[min(1, len(scales) - 1)],
            **term_sets[0],
            "ridge": DEFAULT_RIDGE if self.config.ridge is None else self.config.ridge,
            "error": None,
        }
        best, tried = _Candidate(chosen, (), {}, np.inf), []
        if self.usable:
            pairs = product(term_sets, scales)
            tried = [self._judged(scales[name], terms, moments[name]) for terms, name in pairs]
            best = min(tried, key=_handicapped)
        name, terms = best.chosen["transform"], {term: best.chosen[term] for term in term_sets[0]}
        scale, joint_F = scales[name], moments[name]
        use = self.config.reactions if terms.get("weekdays") else "off"
        if use == "on" or (use == "auto" and self.usable):
            joint_F, terms = self._with_reactions(joint_F, scale), {**terms, "reactions": True}
            reacting = best._replace(chosen={**best.chosen, "reactions": True})
            if self.usable:
                reacting = self._judged(scale, terms, joint_F)
                tried.append(reacting)
            if use == "on" or _clearly_better(reacting, best):
                best = reacting
        used = [term for term in terms if best.chosen.get(term)]
        model = self._solve(joint_F[-1], scale, used, [best.chosen["ridge"]])
        rows = [row for one in tried for row in one.rows]
        return ChannelFit(model, best.chosen, rows, best.at_fold, len(self.learn_F[-1]))

    def _judged(self, scale: Scale, terms: Mapping[str, bool], joint_F: Sequence[Moments]) -> _Candidate:
        """Fit some terms on one scale to the folds with every ridge, and choose the ridge."""
        ridges = RIDGES if self.config.ridge is None else (self.config.ridge,)
        used = [term for term in terms if terms[term]]
        fits = {f: self._solve(joint_F[f], scale, used, ridges) for f in self.usable}
        scored = [self._scored(f, fit, used) for f, fit in fits.items()]
        error_P = _pooled(np.sum([sums_KP for sums_KP, *_ in scored], axis=0))
        rows: list[dict[str, Any]] = [
            {"transform": scale.transform, **terms, "ridge": ridge, "error": error}
            for ridge, error in zip(ridges, error_P.tolist(), strict=True)
        ]
        p = int(error_P.argmin())
        own = slice(p * self.horizon, (p + 1) * self.horizon)
        at_fold = {f: fit.rows(own) for f, fit in fits.items()}
        size = sum(float(np.abs(actual_BH).sum()) for _, actual_BH, _ in scored)
        losses = (quantile_loss(y_BH, made_BPH[:, p], counts=self.counts) for _, y_BH, made_BPH in scored)
        rows[p]["wql"] = sum(float(loss_B.sum()) for loss_B in losses) / (size or 1.0)
        return _Candidate(rows[p], rows, at_fold, float(_pooled(scored[-1][0])[p]))

    def _scales(self) -> dict[TransformName, Scale]:
        """The scales to choose from: roots and logarithms only of channels that are never negative."""
        low = min(y_R.min() for y_R in self.train_IR.values())
        high = max(y_R.max() for y_R in self.train_IR.values())
        names: tuple[TransformName, ...] = ("identity",)
        if self.config.transform != "auto":
            names = (self.config.transform,)
        elif low >= 0 and high > 0:
            names = ("identity", "sqrt", "log1p")
        return {name: Scale.fit(self.train_IR, name) for name in names}

    def _columns(self) -> dict[str, IntArray]:
        """Where the joint moments hold the inputs of each term, after the target and beside the rows of covariates."""
        width, slow = self.context + self.horizon, self.calendars["calendar"].size // 2
        rows = [p * width + np.arange(n) for p, n in enumerate((0, *self.rows_P))]
        end = width * len(rows)
        wave_2M = end + np.arange(self.calendar.size).reshape(2, -1)  # sines, then cosines
        return {
            "covariates": np.concatenate(rows),
            "calendar": wave_2M[:, :slow].reshape(-1),
            "weekdays": wave_2M[:, slow:].reshape(-1),
            "reactions": end + self.calendar.size + np.arange(3 * self.calendars["reactions"].size),
        }

    def _moments_by_fold(self, scales: dict[TransformName, Scale]) -> dict[TransformName, list[Moments]]:
        """For each scale, the joint moments of the windows of every fold and of all; every window is summed once."""
        x_TR = np.array([scale.standard(self.panel) for scale in scales.values()])
        width, calendar, time_R = self.context + self.horizon, self.calendar, self.panel.times()
        joint_FT = [
            joint_moments(
                x_TR, self.covariate_PR, new, width, calendar=calendar, time_R=time_R, context=self.context
            )
            for new in self.new_F
        ]
        joint_TF = zip(*joint_FT, strict=True)
        return {name: list(accumulate(joint_F)) for name, joint_F in zip(scales, joint_TF, strict=True)}

    def _with_reactions(self, joint_F: Sequence[Moments], scale: Scale) -> list[Moments]:
        """The moments of every fold with those of the reactions, which are no sums over windows and are written out."""
        daily, width, old = self.calendars["reactions"], self.context + self.horizon, len(joint_F[0].total_W)
        series, times_R = (scale.standard(self.panel), *self.covariate_PR), self.panel.times()
        own, cross_WK = no_moments(3 * daily.size), np.zeros((old, 3 * daily.size))
        wider_F = []
        for joint, new in zip(joint_F, self.new_F, strict=True):
            for part in chunks(new, max(1, _VALUES_AT_ONCE // old)):
                time_B = times_R[part + self.context - 1]
                windows = [sliding_window_view(one_R, width)[part] for one_R in series]
                terms_BK = products(windows[0][:, : self.context], daily.terms(time_B))
                own += moments_written_out(terms_BK)
                cross_WK += np.concatenate((*windows, self.calendar.terms(time_B)), axis=1).T @ terms_BK
            wider_F.append(joint.beside(own, cross_WK))
        return wider_F

    def _solve(
        self, joint: Moments, scale: Scale, terms: Sequence[str], ridges: Sequence[float]
    ) -> ChannelModel:
        """Least squares of the windows that ``joint`` holds the moments of, for each ridge: N is P x H.

        Inputs and targets are differences to the level. The terms are brought to the size of the differences, so that
        one ridge suits both.
        """
        context, width = self.context, self.context + self.horizon
        level_W = self._level(joint)
        differences = joint.relative_to(level_W)
        if self.few:
            differences = replace(differences, total_W=np.zeros_like(differences.total_W))  # without a bias
        own = np.trace(differences.gram_WW[:context, :context])
        size_X = np.ones(len(joint.total_W))
        size_X[width:] = float(np.sqrt(max(own, 0) / (joint.n * context))) or 1.0
        if "reactions" in terms:
            reactions = self.columns["reactions"]
            size_X[reactions] /= np.sqrt(joint.gram_WW.diagonal()[reactions] / joint.n) + _TINY
        used = np.concatenate([np.arange(context), *(self.columns[term] for term in terms)])
        order = np.concatenate([used, np.arange(context, width)])
        sums = differences.take(order, size_X[order])
        weight_PHI, bias_PH = solve(sums, len(used), ridges, least=_SMALLEST_RIDGE)
        if self.few:
            left_P, all_P = (squared_errors(sums, part * weight_PHI, bias_PH) for part in (1, 0))
            weight_PHI *= (joint.n / (joint.n + _DOUBT * left_P / (all_P + _TINY)))[:, None, None]
        weight_NI = size_X[used] * weight_PHI.reshape(-1, len(used))
        ends = np.cumsum([context, *(len(self.columns[term]) for term in terms)])[:-1]
        weight_NL, *further = np.split(weight_NI, ends, axis=1)
        weights = {"weight": without_anchor(weight_NL, level_W[:context]), "bias": bias_PH.reshape(-1)}
        weights |= zip(terms, further, strict=True)
        if "covariates" in weights:  # from their scale to original units
            weights["covariates"] /= np.repeat(self.covariates.scale_C, self.rows_P)
            weights["bias"] -= weights["covariates"] @ np.repeat(self.covariates.shift_C, self.rows_P)
        return ChannelModel(scale, weights, 0.0 if self.counts else -np.inf)

    def _level(self, joint: Moments) -> Float64Array:
        """The weights [W] of the level of a window: the last value, or smoothed with the least squared error."""
        width = self.context + self.horizon
        own = Moments(joint.n, joint.total_W[:width], joint.gram_WW[:width, :width])
        best = squared_errors(own, self.levels_PHL, np.zeros(self.levels_PHL.shape[:2])).argmin()
        return np.concatenate((self.levels_PHL[best, 0], np.zeros(self.horizon)))

    def _scored(
        self, f: int, model: ChannelModel, terms: Sequence[str]
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Forecast the windows that judge in a fold with each ridge, every item in its size.

        Returns:
            Sums float64 [4, P]: absolute and squared errors, absolute actual values and the number of values; and of evenly
            spaced windows, for the quantile loss, the actual values [B, H] and the forecasts [B, P, H].
        """

        def forecast(batch: WindowBatch) -> Float64Array:
            inputs = further_inputs(terms, self.calendars, batch)
            return model.predict(batch, batch.context_BLC[:, :, 0], inputs)[:, :, None]

        origins, size = self.judge_F[f] + self.context - 1, (self.context, self.horizon)
        most = min(_MOST_SCORED, max(1, _VALUES_AT_ONCE // (self.context + 20 * self.horizon)))
        spaced, kept = thinned(origins, most), []
        sums_KP = np.zeros((4, len(model.weights["bias"]) // self.horizon))
        for part, *values in window_forecasts(forecast, self.panel, origins, *size):
            unit_B11 = self.unit_I[self.panel.items_of(part), None, None]
            actual_B1H, made_BPH = (value[..., 0] / unit_B11 for value in values)
            error_BPH = made_BPH - actual_B1H
            sums_KP[0] += np.abs(error_BPH).sum(axis=(0, 2))
            sums_KP[1] += np.square(error_BPH).sum(axis=(0, 2))
            sums_KP[2:] += np.array([[np.abs(actual_B1H).sum()], [actual_B1H.size]])
            kept_B = np.isin(part, spaced)
            kept.append((actual_B1H[kept_B, 0], made_BPH[kept_B]))
        actual_BH, point_BPH = (np.concatenate(pieces) for pieces in zip(*kept, strict=True))
        return sums_KP, actual_BH, point_BPH


def _pooled(sums_KP: Float64Array) -> Float64Array:
    """The geometric mean of WAPE and RMSE over mean size, for each ridge: float64 [P]."""
    absolute_P, squared_P, size_P, n_P = sums_KP
    pooled_P: Float64Array = np.sqrt(absolute_P * np.sqrt(squared_P * n_P)) / np.where(size_P > 0, size_P, 1)
    return pooled_P


def _handicapped(one: _Candidate) -> float:
    """What the folds judge a candidate by."""
    level: float = one.chosen["wql"] / (1 - WEEKDAYS_MARGIN if one.chosen.get("weekdays") else 1)
    return level


def _clearly_better(reacting: _Candidate, best: _Candidate) -> bool:
    """Whether reactions pay in all folds together, and by a margin in the last, which learned from most rows."""
    better: bool = reacting.chosen["wql"] < best.chosen["wql"]
    return better and reacting.last < (1 - REACTIONS_MARGIN) * best.last
