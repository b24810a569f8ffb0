"""From a table to a forecast in Python: read a table, train a model, measure its error, forecast.

Run it with: python examples/python_api.py
"""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

import presurge

HORIZON = 3  # minutes ahead


def four_days_of_load(seed: int = 0) -> pl.DataFrame:
    """Invent a frame with one row per minute, as a metrics store returns it, with a daily rhythm and noise."""
    rng = np.random.default_rng(seed)
    minute = np.arange(4 * 1440)
    level = 60 + 40 * np.sin(2 * np.pi * minute / 1440)
    requests = rng.poisson(level * rng.gamma(8, 1 / 8, len(minute)))
    begin = datetime(2026, 3, 2, tzinfo=UTC)
    stamps = [begin + timedelta(minutes=int(m)) for m in minute]
    return pl.DataFrame({"time": stamps, "requests": requests, "cpu": 0.01 * requests + 0.05})


def main(folder: Path) -> None:
    load = four_days_of_load()
    print(presurge.read(load))

    model = presurge.fit(load, horizon=HORIZON)
    print(model)

    model.save(folder / "model")
    forecast = presurge.load(folder / "model").predict(load)
    print(forecast.select("timestamp", "channel", "mean", "q0.1", "q0.9"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
