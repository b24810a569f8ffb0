"""One number of a forecast, as autoscalers want it: a statistic of a channel at a step, or of its peak until then."""

import math
from typing import NamedTuple

from presurge.errors import ConfigError, HistoryError
from presurge.serving.service import Served, Service


class Value(NamedTuple):
    """Which number.

    Attributes:
        model: Name of the model.
        point: ``mean``, ``median`` or a quantile such as ``q0.9``.
        steps: The step, counted from 1.
        peak: Whether the largest value of all steps until then is meant.
    """

    model: str
    item: str
    channel: str
    point: str
    steps: int
    peak: bool

    @classmethod
    def of(
        cls, served: Served, *, item: str, channel: str | None, point: str, steps: int, peak: bool
    ) -> "Value":
        """A number of a model.

        Raises:
            ConfigError: The model does not forecast that channel or that far, or has no such quantile.
        """
        channels = [one.name for one in served.model.fitted_spec().targets]
        if channel is None and len(channels) > 1:
            raise ConfigError(
                "the model forecasts several channels",
                setting="channel",
                hint=f"Name one of: {', '.join(channels)}.",
            )
        if channel is not None and channel not in channels:
            raise ConfigError(
                f"the model forecasts no channel {channel!r}",
                setting="channel",
                hint=f"The channels are {', '.join(channels)}.",
            )
        if steps > served.model.horizon:
            hint = f"Ask for at most {served.model.horizon}, or train a model with a longer horizon."
            raise ConfigError(
                f"{steps} steps were asked of a model that forecasts {served.model.horizon}", hint=hint
            )
        if point not in ("mean", "median") and not 0 < float(point[1:]) < 1:
            raise ConfigError(f"{point!r} is no quantile", hint="Levels lie between 0 and 1: 0.9")
        return cls(served.name, item, channel or channels[0], point, steps, peak and steps > 1)

    def now(self, service: Service) -> float:
        """The number of the newest forecast.

        Raises:
            HistoryError: There is no forecast of the item yet.
            ConfigError: The model was never calibrated, so it has no quantiles.
        """
        served = service.named(self.model)
        levels = None if self.point in ("mean", "median") else [float(self.point[1:])]
        made = served.stream.forecast([self.item], self.steps, levels)
        c = [channel.name for channel in made.channels].index(self.channel)
        if self.peak and made.peak is not None:
            mean, median, quantiles = (part[0, ..., c] for part in made.peak)
        else:
            mean, median, quantiles = made.mean[0, -1, c], made.median[0, -1, c], made.quantiles[0, -1, :, c]
        if self.peak and made.peak is None:
            mean = median = made.mean[0, :, c].max()
        number = float(quantiles[0] if levels else mean if self.point == "mean" else median)
        if math.isnan(number):
            raise HistoryError("the forecast is no number", where=f"item {self.item!r}")
        return number
