"""One number of a forecast, as autoscalers want it: the mean or a quantile of a channel at a step, or its peak until then."""

import math
from dataclasses import dataclass

from presurge.errors import ConfigError, HistoryError
from presurge.series.timestamps import format_stamp
from presurge.serving.service import Served


@dataclass(frozen=True)
class Value:
    """Which number of the newest forecast of an item.

    Attributes:
        served: The model.
        item: The item.
        channel: The channel; None for the only one.
        level: A quantile between 0 and 1; None for the mean.
        steps: The step, counted from 1.
        peak: Whether the largest value of all steps until then is meant.

    Raises:
        ConfigError: The model does not forecast that channel or that far.
    """

    served: Served
    item: str
    channel: str | None
    level: float | None = None
    steps: int = 1
    peak: bool = False

    def __post_init__(self) -> None:
        names = [channel.name for channel in self.served.model.fitted_spec().targets]
        if self.channel not in (names if len(names) > 1 else [None, *names]):
            what = "one channel alone" if self.channel is None else f"a channel {self.channel!r}"
            hint = f"Name one of: {', '.join(names)}."
            raise ConfigError(f"the model does not forecast {what}", setting="channel", hint=hint)
        if self.steps > (most := self.served.model.horizon):
            hint = f"Ask for at most {most}, or train a model with a longer `horizon`."
            raise ConfigError(f"{self.steps} steps were asked of a model that forecasts {most}", hint=hint)

    def now(self, at: int | None = None) -> float:
        """The number.

        Args:
            at: What time it is, in microseconds since the Unix epoch: a forecast of a step that was over a whole step before is
                no forecast any more. None takes any.

        Raises:
            HistoryError: There is no forecast of the item yet, or it is too old.
            ConfigError: The model has no quantiles.
        """
        levels = None if self.level is None else [self.level]
        made = self.served.stream.forecast([self.item], self.steps, levels)
        if at is not None and made.clock == "utc" and made.origin[0] + (self.steps + 2) * made.step < at:
            last = format_stamp(int(made.origin[0]), made.clock)
            hint = "Check what sends its rows to the service."
            raise HistoryError(f"no row was observed since {last}", where=f"item {self.item!r}", hint=hint)
        c = [one.name for one in made.channels].index(self.channel) if self.channel else 0
        if self.peak and made.peak is not None:
            number = made.peak.mean_IC[0, c] if levels is None else made.peak.quantiles_IQC[0, 0, c]
        else:
            steps_H = made.mean[0, :, c] if levels is None else made.quantiles[0, :, 0, c]
            number = steps_H.max() if self.peak else steps_H[-1]
        if not math.isfinite(number):
            raise HistoryError("the forecast is not a number", where=f"item {self.item!r}")
        return float(number)
