"""Draws forecast.png, the picture of the README, from the output of `presurge demo`: `python draw_forecast.py DEMO_OUTPUT`."""

import io
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from presurge.evaluation.report.plots import burst_figure
from presurge.evaluation.walk import rolling_forecast
from presurge.models import registry
from presurge.series.plots_style import MUTED, WIDE, finish, styled
from presurge.workflows.dataset import load_dataset

CHANNELS = ("requests", "output_tokens")
LABEL = "synthetic trace of `presurge demo`; every minute was forecast one to three minutes before"
DPI = 100


def main(output: Path) -> None:
    """Draw the largest burst of the test rows, and say in the picture that the trace is synthetic."""
    model, _ = registry.load(output / "run")
    dataset = load_dataset(output / "data")
    kept = [dataset.panel.channel_names.index(name) for name in CHANNELS]
    rolling = rolling_forecast(model, dataset.panel, dataset.test)
    part = replace(
        rolling,
        actual_NC=rolling.actual_NC[:, kept],
        mean_NC=rolling.mean_NC[:, kept],
        quantiles_NQC=rolling.quantiles_NQC[:, :, kept],
        channels=tuple(dataset.panel.channels[c] for c in kept),
    )
    buffer = io.BytesIO()
    with styled(WIDE):
        figure = burst_figure(part)
        figure.supxlabel(LABEL, x=0.99, ha="right", fontsize=11, color=MUTED)
        finish(figure, WIDE).savefig(buffer, format="png", dpi=DPI)
    picture = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    picture.save(Path(__file__).with_name("forecast.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
