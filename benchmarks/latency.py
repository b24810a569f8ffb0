"""How long one forecast takes, 120 -> 3 with 3 channels, in memory: the NumPy core, the public call, and torch.

Run with one thread: OMP_NUM_THREADS=1 python benchmarks/latency.py
"""

import os
import time
from collections.abc import Callable

import numpy as np

from presurge.models.conformal import Calibration
from presurge.models.linear.dlinear import DLinear, DLinearConfig
from presurge.series.frequency import MINUTE
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span

CONTEXT, HORIZON, CHANNELS, KERNEL = 120, 3, 3, 25


def fitted(transform: str) -> tuple[DLinear, Panel]:
    rng = np.random.default_rng(0)
    panel = Panel(
        values=rng.negative_binomial(2, 0.02, (5000, CHANNELS)).astype(np.float32),
        channels=tuple(Channel(name, kind="count") for name in ("requests", "input_tokens", "output_tokens")),
        step=MINUTE,
        start=np.zeros(1, np.int64),
    )
    settings = DLinearConfig.model_validate({"transform": transform})
    model = DLinear(context=CONTEXT, horizon=HORIZON, config=settings)
    model.fit(panel, panel.full_span())
    actual = panel.values[: 900 * HORIZON].reshape(900, HORIZON, CHANNELS)
    model.calibration = Calibration.measure(actual, actual[::-1].copy(), panel.count_mask)
    return model, panel.take(Span(np.array([1000]), np.array([1000 + CONTEXT])))


def textbook(model: DLinear, context_LC: np.ndarray) -> Callable[[], object] | None:
    """DLinear in eager torch as published: pad, average, two linear maps a channel; scaled values in and out."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    parts = {name: torch.from_numpy(array) for name, array in model.weights.items()}
    average = torch.nn.AvgPool1d(KERNEL, stride=1)

    def forward() -> object:
        with torch.inference_mode():
            x_1CL = torch.from_numpy(context_LC).T[None]
            ends = (x_1CL[..., :1].repeat(1, 1, KERNEL // 2), x_1CL[..., -1:].repeat(1, 1, KERNEL // 2))
            trend = average(torch.cat([ends[0], x_1CL, ends[1]], dim=-1))[0]
            seasonal = x_1CL[0] - trend
            rows = [
                torch.nn.functional.linear(
                    seasonal[c], parts["seasonal.weight"][c], parts["seasonal.bias"][c]
                )
                + torch.nn.functional.linear(trend[c], parts["trend.weight"][c], parts["trend.bias"][c])
                for c in range(CHANNELS)
            ]
            return torch.stack(rows, dim=1).numpy()

    return forward


def microseconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    for _ in range(repeats // 10):
        call()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - started)
    median, late = np.percentile(taken, (50, 99)) / 1000
    return float(median), float(late)


def main() -> None:
    plain, history = fitted("identity")
    rooted, _ = fitted("sqrt")
    context_LC = history.values.copy()  # torch wants to be able to write
    calls: list[tuple[str, Callable[[], object] | None, int]] = [
        ("eager torch, textbook DLinear, scaled values", textbook(plain, context_LC), 3000),
        ("public call: forecast(panel) with intervals", lambda: plain.forecast(history), 3000),
        ("NumPy core, square root", lambda: rooted.folded.predict_one(context_LC), 20_000),
        ("NumPy core", lambda: plain.folded.predict_one(context_LC), 20_000),
    ]
    print(
        f"one forecast {CONTEXT} -> {HORIZON}, {CHANNELS} channels; threads: {os.environ.get('OMP_NUM_THREADS')}"
    )
    print(f"  {'':<46} {'median':>9} {'99 %':>9}   against the first")
    first = None
    for name, call, repeats in calls:
        if call is None:
            print(f"  {name:<46} left out: torch is not installed")
            continue
        median, late = microseconds(call, repeats)
        first = first or median
        print(f"  {name:<46} {median:>6.1f} us {late:>6.1f} us   {median / first:.3f}")


if __name__ == "__main__":
    main()
