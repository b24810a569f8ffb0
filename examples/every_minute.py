"""Forecast every minute as data arrives, with a trained model and the last rows in memory.

This replays the test rows of a prepared directory as if they were live, and prints a line whenever the upper end of the
80 % interval needs a different number of replicas. The 30 requests per minute of a replica are invented: measure yours.

Run it after `presurge demo`: python examples/every_minute.py demo_output
"""

import math
import sys
from pathlib import Path

from presurge.models import registry
from presurge.series.panel import Panel
from presurge.workflows.dataset import load_dataset

REQUESTS_PER_REPLICA = 30.0
ROWS_TO_FOLLOW = 1000
"""Rows before the context, whose errors the intervals adapt to."""


def window(panel: Panel, end: int, rows: int) -> Panel:
    """Return the ``rows`` rows before row ``end``, or as many as there are."""
    rows = min(rows, end)
    return Panel(
        values=panel.values[end - rows : end],
        channels=panel.channels,
        step=panel.step,
        start=panel.start + (end - rows) * panel.step,
        clock=panel.clock,
    )


def main(output: Path, minutes: int = 120) -> None:
    model, _ = registry.load(output / "run")
    dataset = load_dataset(output / "data")
    panel, channel = dataset.panel, dataset.panel.channel_names.index("requests")
    first = int(dataset.test.first[0])
    running = 0
    for end in range(first, min(first + minutes, len(panel))):
        forecast = model.forecast(window(panel, end, model.context + ROWS_TO_FOLLOW))
        upper = forecast.quantiles[0, -1, forecast.levels.index(0.9), channel]
        needed = max(1, math.ceil(upper / REQUESTS_PER_REPLICA))
        if needed != running:
            print(
                f"minute {end - first}: up to {upper:.0f} requests in {model.horizon} minutes, replicas: {needed}"
            )
            running = needed


if __name__ == "__main__":
    main(Path(sys.argv[1]))
