"""Drive the planner of ai-dynamo with `presurge serve` as its predictor; run by scripts/dynamo.sh in an environment of its own.

Everything of the planner is its own but the capacity of an engine, whose package is not on PyPI: here a request every four seconds.
"""

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import yaml
from dynamo.planner.config.planner_config import PlannerConfig
from dynamo.planner.core import state_machine
from dynamo.planner.core.types import (
    EngineCapabilities,
    TickInput,
    TrafficObservation,
    WorkerCapabilities,
    WorkerCounts,
)
from dynamo.planner.plugins.clock import VirtualClock
from dynamo.planner.plugins.orchestrator.engine_adapter import OrchestratorEngineAdapter
from dynamo.planner.plugins.proto.v1 import plugin_pb2

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "dynamo" / "planner.yaml"
PROTO = ROOT / "src" / "presurge" / "serving" / "protos" / "planner.proto"
BEGIN, CONTEXT = 1_769_904_000, 24
VALUE = "requests,input_tokens/requests,output_tokens/requests"


class Engine:
    """Serves a request every four seconds."""

    def __init__(self, **_):
        pass

    def __getattr__(self, name):
        return lambda *_, **__: None

    def find_engine_capacity_rps(self, **_):
        return SimpleNamespace(rps=0.25, ttft_ms=1.0, itl_ms=1.0, e2e_ms=1.0, eligible=True)


def same_messages():
    """Compare every field of planner.proto with the planner's own messages; return how many there are."""
    fields = 0
    for name, body in re.findall(r"message (\w+) \{(.*?)\n\}", PROTO.read_text(), re.DOTALL):
        known = plugin_pb2.DESCRIPTOR.message_types_by_name[name].fields_by_name
        for optional, kind, field, number in re.findall(r"(optional )?(\w+) (\w+) = (\d+);", body):
            own = known[field]
            is_message = own.message_type is not None
            assert own.number == int(number), (name, field)
            assert own.has_presence == (bool(optional) or is_message), (name, field)
            assert kind == (
                own.message_type.name if is_message else {1: "double", 8: "bool", 9: "string"}[own.type]
            )
            fields += 1
    return fields


@contextmanager
def serving(presurge, folder):
    """`presurge serve` of the model in a folder, which keeps its state there; yields the address of the plugin."""
    command = [*presurge, "serve", f"llama={folder / 'run'}", "--port", "0", "--dynamo-port", "0"]
    process = subprocess.Popen([*command, "--state", folder / "state"], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        print(line, end="", file=sys.stderr) if not re.match("HTTP|Dynamo", line) else None
        if line.startswith("Dynamo: "):
            address = line.split()[1]
        if line.startswith("HTTP: "):
            break
    try:
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


class Planner:
    """Planners one after another in one span of time, each made anew from the example's configuration."""

    def __init__(self):
        self.now, self.window = float(BEGIN), 0

    async def run(self, address, priority, windows):
        """Tick every five seconds over some windows; return, of each, (prediction, replicas, observed requests)."""
        values = yaml.safe_load(CONFIG.read_text())
        (entry,) = values["scheduling"]["external_plugins"]
        assert entry["priority"] == -1
        entry |= {"endpoint": address, "priority": priority}
        engine = EngineCapabilities(num_gpu=1, max_num_batched_tokens=2048, max_kv_tokens=16384)
        clock = VirtualClock()
        clock.advance(self.now)
        adapter = OrchestratorEngineAdapter(
            PlannerConfig.model_validate(values), WorkerCapabilities(decode=engine), clock=clock
        )
        outcomes, inner = [], adapter._orchestrator.tick

        async def tick(*given, **named):
            outcomes.append(await inner(*given, **named))
            return outcomes[-1]

        adapter._orchestrator.tick = tick
        await adapter.bootstrap_plugins()
        scheduled, found = adapter.initial_tick(self.now), []
        while len(found) < windows:
            traffic = None
            if scheduled.need_traffic_metrics:
                self.window += 1
                requests = 240.0 + 120 * (self.window % 8 < 4)
                traffic = TrafficObservation(
                    scheduled.traffic_metrics_duration_s, requests, 1000, 250, kv_hit_rate=0.5
                )
            counts = WorkerCounts(ready_num_decode=1, expected_num_decode=1)
            given = TickInput(now_s=scheduled.at_s, traffic=traffic, worker_counts=counts)
            effects, self.now = await adapter.tick(scheduled, given), scheduled.at_s
            made = outcomes[-1].predict_outcome
            assert not made.final_from
            if traffic is None:
                assert made.prediction is None, "a forecast off the beat, which nobody uses"
            else:
                found.append((made.prediction, effects.scale_to, requests))
            scheduled = effects.next_tick
        await adapter.shutdown()
        return found


def told(what, found, expected):
    """Print a row of the table, after checking whose forecasts the planner used."""
    sources = [prediction.source for prediction, _, _ in found]
    used = {source: sources.count(source) for source in dict.fromkeys(sources)}
    prediction, replicas, observed = found[-1]
    assert sources == expected, (what, sources)
    for one, _, _ in found:
        assert None not in (one.predicted_num_req, one.predicted_isl, one.predicted_osl)
        assert one.predicted_kv_hit_rate == 0.5  # which the planner's own predictor fills in
    words = ", ".join(f"{number} {source}" for source, number in used.items())
    decode = replicas.num_decode if replicas else 1
    print(f"| {what} | {words} | {observed:.0f} | {prediction.predicted_num_req:.1f} | {decode} |")


async def check(presurge, folder):
    planner, own, builtin = Planner(), "presurge", "builtin_load_predict"
    print("| planner | forecasts used | last window | forecast | replicas |\n|---|---|--:|--:|--:|")
    with serving(presurge, folder) as address:
        found = await planner.run(address, -1, CONTEXT + 8)
        told("priority -1, from no history", found, [builtin] * (CONTEXT - 1) + [own] * 9)
        told("planner started anew", await planner.run(address, -1, 6), [own] * 6)
        told("priority 0", await planner.run(address, 0, 6), [builtin] * 6)
        told("priority 1", await planner.run(address, 1, 6), [builtin] * 6)
    with serving(presurge, folder) as address:
        told("Presurge started anew", await planner.run(address, -1, 6), [own] * 6)
    told("Presurge stopped", await planner.run(address, -1, 6), [builtin] * 6)


def main():
    presurge = sys.argv[1:]
    state_machine.PlannerEnginePerfModel = Engine
    print(f"planner.proto: {same_messages()} fields as in ai-dynamo\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in (
            "data synthesize --out trace.csv.gz --days 3 --rate 1",
            "prepare trace.csv.gz --step 3m --out data",
            f"train data --value {VALUE} --model linear --context {CONTEXT} --out run --no-plots",
        ):
            subprocess.run(
                [*presurge, *command.split(), "-q"], cwd=folder, check=True, stdout=subprocess.DEVNULL
            )
        asyncio.run(check(presurge, folder))


main()
