"""How long the plugin of Dynamo's planner takes for a call, over gRPC, with every window on disk: the budget is 60 ms.

Beside it a call without traffic, which says so at once: what gRPC itself takes. OMP_NUM_THREADS=1 python benchmarks/planner.py
"""

import asyncio
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
import polars as pl

import presurge
from presurge.serving.config import ServeConfig
from presurge.serving.protos import planner_pb2 as pb
from presurge.serving.protos.planner_pb2_grpc import PredictPluginStub
from presurge.serving.server import running

WINDOW, CALLS = 180, 400
VALUE = ["requests", "input_tokens/requests", "output_tokens/requests"]


def traffic(rows: int) -> pl.DataFrame:
    rng, row = np.random.default_rng(0), np.arange(rows)
    requests = rng.poisson(200 * (1 + 0.5 * np.sin(2 * np.pi * row / 480))).astype(float)
    times = np.datetime64("2026-01-01", "us") + row * np.timedelta64(WINDOW, "s")
    return pl.DataFrame(
        {
            "time": times,
            "requests": requests,
            "input_tokens": requests * 1000,
            "output_tokens": requests * 250,
        }
    )


async def ask(folder: Path, context: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Milliseconds, by the clock and of a processor, of each call with traffic once there is a forecast, and of each without."""
    said, taken = list[str](), (list[tuple[float, float]](), list[tuple[float, float]]())
    settings = {"models": {"llama": folder / "model"}, "state": folder / f"state-{context}", "port": 0}
    async with running(ServeConfig.model_validate(settings | {"dynamo": {"port": 0}}), said.append):
        address = next(text.split("//")[1] for text in said if text.startswith("Dynamo"))
        async with grpc.aio.insecure_channel(address) as channel:
            predict = PredictPluginStub(channel).Predict
            for row in range(context + CALLS):
                request = pb.PredictStageRequest()
                request.context.request_id = f"tick-{1_770_000_000 + row * WINDOW}"
                for way in (1, 0):
                    if way == 0:
                        window = request.context.observations.traffic
                        window.duration_s, window.num_req, window.isl, window.osl = (
                            WINDOW,
                            150 + row % 99,
                            1000,
                            250,
                        )
                    began = time.perf_counter(), time.process_time()
                    answer = await predict(request)
                    if row >= context:
                        ended = time.perf_counter(), time.process_time()
                        taken[way].append(tuple((b - a) * 1000 for a, b in zip(began, ended, strict=True)))
                        assert answer.HasField("predictions") == (way == 0)
    return taken


def main() -> None:
    print("| context | call | p50 ms | p99 ms | CPU ms |\n|--:|---|--:|--:|--:|")
    for context in (24, 480):
        with tempfile.TemporaryDirectory() as name:
            fitted = presurge.fit(traffic(2400), model="linear", context=context, time="time", value=VALUE)
            fitted.save(Path(name) / "model")
            both = asyncio.run(ask(Path(name), context))
            for what, taken in zip(("a window", "no traffic"), both, strict=True):
                clock, cpu = np.array(taken).T
                middle, high = np.quantile(clock, [0.5, 0.99])
                print(f"| {context} | {what} | {middle:.1f} | {high:.1f} | {cpu.mean():.1f} |")


if __name__ == "__main__":
    main()
