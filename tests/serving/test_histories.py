"""Forecasts from whole histories: requests that come together are answered together, each as if it had come alone."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presurge.errors import HistoryError
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.series.frequency import MINUTE
from presurge.series.panel import Panel
from presurge.serving import histories
from presurge.serving.bodies import ForecastRequest, History, encode
from presurge.serving.config import ServeConfig
from presurge.serving.service import Service
from presurge.workflows.predict import PredictConfig, forecast_items

END = 1_772_450_000 * 1_000_000
ASKED = [
    {"rows": 24},
    {"rows": 24, "item": "host-0"},
    {"rows": 700, "item": "host-1"},  # follows the errors of the rows before the context
    {"rows": 90, "item": "new"},
    {"rows": 24, "ago": 7},
    {"rows": 24, "hole": 3},
    {"rows": 24, "horizon": 2},
    {"rows": 24, "levels": (0.5, 0.9)},
    {"rows": 24, "levels": (0.3, 0.999)},
    {"rows": 23},  # too short
    {"rows": 24, "hole": 0},  # cannot be bridged
    {"rows": 24, "huge": True},
] * 2


def asked_of(
    *, rows: int, item: str = "", ago: int = 0, hole: int | None = None, huge: bool = False, **more: Any
) -> tuple[ForecastRequest, np.ndarray]:
    values = np.random.default_rng(rows + ago).poisson(30, rows).astype(np.float32)
    if hole is not None:
        values[-1 - hole] = np.nan
    sent = [None if np.isnan(value) else float(value) for value in values]
    if huge:
        sent[-1] = 1e300
    history = History(values={"requests": sent}, end=(END // MINUTE - ago) * 60.0, item=item)
    levels = [*more["levels"]] if "levels" in more else None
    return ForecastRequest(history=[history], horizon=more.get("horizon"), levels=levels), values


def alone(model: Forecaster, values: np.ndarray, *, item: str = "", ago: int = 0, **more: Any) -> bytes:
    spec = model.fitted_spec()
    start = np.array([(END // MINUTE - ago - len(values) + 1) * MINUTE])
    panel = Panel(values=values[:, None], channels=spec.channels, step=MINUTE, start=start, items=(item,))
    if np.isnan(values).any():
        bridged = PredictConfig(fill_gaps="interpolate")
        return encode(forecast_items(model, panel, bridged).to_dict())
    return encode(model.forecast(panel, more.get("horizon"), levels=more.get("levels")).to_dict())


def test_requests_that_come_together_are_answered_as_if_alone(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = registry.load(model_dir)
    sizes = []
    together = histories._together
    monkeypatch.setattr(histories, "_together", lambda asked: (sizes.append(len(asked)), together(asked)))

    async def ask() -> list[Any]:
        service = Service(ServeConfig(models={"load": model_dir}))
        requests = [asked_of(**one)[0] for one in ASKED]
        return await asyncio.gather(*map(service.forecast, requests), return_exceptions=True)

    for one, answer in zip(ASKED, asyncio.run(ask()), strict=True):
        if one["rows"] < 24 or one.get("hole") == 0 or "huge" in one:
            assert isinstance(answer, Exception), one
        else:
            assert answer == alone(
                model, asked_of(**one)[1], **{k: v for k, v in one.items() if k != "rows" and k != "hole"}
            ), one
    assert max(sizes) > 4  # they were answered together at all


def test_an_error_is_that_of_the_request_alone(model_dir: Path) -> None:
    async def ask(wanted: list[dict[str, Any]]) -> list[Any]:
        service = Service(ServeConfig(models={"load": model_dir}))
        return await asyncio.gather(
            *(service.forecast(asked_of(**one)[0]) for one in wanted), return_exceptions=True
        )

    bad = {"rows": 24, "horizon": 7}
    together, (lone,) = asyncio.run(ask([{"rows": 24, "horizon": 6}, bad, bad])), asyncio.run(ask([bad]))
    assert isinstance(together[0], bytes)
    assert isinstance(lone, HistoryError)
    assert [str(error) for error in together[1:]] == [str(lone)] * 2
