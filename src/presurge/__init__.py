"""Presurge forecasts load before it arrives.

    import presurge

    model = presurge.fit(frame, time="ds", value=["requests"], item="host", horizon=3)
    forecast = model.predict(frame)

Everything is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from presurge.door import Backtest, Model, backtest, fit, load, read
    from presurge.errors import PresurgeError
    from presurge.evaluation.backtest import Evaluation
    from presurge.frames import Columns
    from presurge.series.forecast import Forecast
    from presurge.series.panel import Channel, Panel

__version__ = "0.1.0"

__all__ = [
    "Backtest",
    "Channel",
    "Columns",
    "Evaluation",
    "Forecast",
    "Model",
    "Panel",
    "PresurgeError",
    "__version__",
    "backtest",
    "fit",
    "load",
    "read",
]

_HOMES = {
    **dict.fromkeys(("Backtest", "Model", "backtest", "fit", "load", "read"), "door"),
    **dict.fromkeys(("Channel", "Panel"), "series.panel"),
    "Columns": "frames",
    "Evaluation": "evaluation.backtest",
    "Forecast": "series.forecast",
    "PresurgeError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
