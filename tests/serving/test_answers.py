"""What the service writes is byte for byte what the model says of the request alone."""

import numpy as np
import pytest

from presurge.series.forecast import QUANTILE_LEVELS, Forecast, Peak
from presurge.series.frequency import MINUTE
from presurge.series.panel import Channel
from presurge.serving.answers import written
from presurge.serving.bodies import encode


@pytest.mark.parametrize("items", [("",), ("a",), ("", 'b,"%s')])
@pytest.mark.parametrize("levels", [QUANTILE_LEVELS, (0.1, 0.1000000001, 0.5), ()])
def test_a_forecast_is_written_as_its_dictionary_is(
    items: tuple[str, ...], levels: tuple[float, ...]
) -> None:
    shape = len(items), 2, 3
    rng = np.random.default_rng(0)
    numbers = {name: rng.gamma(2, 10, shape).astype(np.float32) for name in ("mean", "median")}
    numbers["mean"][0, 0, 0] = np.nan
    quantiles = rng.gamma(2, 10, (len(items), 2, len(levels), 3)).astype(np.float32)
    forecast = Forecast(
        **numbers,
        quantiles=quantiles,
        levels=levels,
        origin=np.arange(len(items)) * MINUTE,
        step=MINUTE,
        channels=tuple(Channel(name) for name in "xyz"),
        items=items,
        clock="utc",
        model="linear",
        error={"x": {"mae": 1.0}},
        flags=("of 80 %",),
        peak=Peak(numbers["mean"][:, 0], numbers["median"][:, 0], quantiles[:, 0]) if levels else None,
        missing={"c": "too short"},
    )
    assert written(forecast) == encode(forecast.to_dict())
