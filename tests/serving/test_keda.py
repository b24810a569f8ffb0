"""The KEDA external scaler, asked by a real gRPC client as KEDA does."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import polars as pl
import pytest
import trustme

import presurge
from presurge.serving.protos import externalscaler_pb2 as pb
from presurge.serving.protos.externalscaler_pb2_grpc import ExternalScalerStub

MINUTE = 60
ROWS = 40
Ask = Callable[..., Any]


def rows(model_dir: Path, minutes_ago: int = 1) -> tuple[pl.DataFrame, presurge.Forecast]:
    """Rows of ``host-0`` of which the last whole minute is the newest, and what the batch forecasts after them."""
    last = int(time.time()) // MINUTE * MINUTE - minutes_ago * MINUTE
    times = [last - MINUTE * (ROWS - 1 - row) for row in range(ROWS)]
    frame = pl.DataFrame(
        {
            "time": np.array(times, "datetime64[s]").astype("datetime64[us]"),
            "host": "host-0",
            "requests": [20 + row % 7 for row in range(ROWS)],
        }
    )
    return frame, presurge.load(model_dir).forecast(frame, time="time", value=["requests"], item="host")


def observe(url: str, frame: pl.DataFrame) -> None:
    body = [
        {"time": at.isoformat() + "Z", "item": host, "values": {"requests": value}}
        for at, host, value in frame.iter_rows()
    ]
    answer = httpx.post(f"{url}/v1/observe", json={"rows": body}).json()
    assert answer["accepted"] == len(body), answer


@pytest.fixture
def keda(serving: Callable[..., Any]) -> Iterator[tuple[Any, Ask]]:
    """A service with the scaler, and a way to call a method of it with metadata."""
    service = serving(keda_port=0)
    with grpc.insecure_channel(service.address("KEDA")) as channel:
        stub = ExternalScalerStub(channel)

        def ask(method: str, name: str = "", **metadata: str) -> Any:
            ref = pb.ScaledObjectRef(name="web", namespace="default", scalerMetadata=metadata)
            request = (
                pb.GetMetricsRequest(scaledObjectRef=ref, metricName=name) if method == "GetMetrics" else ref
            )
            return getattr(stub, method)(request, timeout=20)

        yield service, ask


def test_a_forecast_by_every_method(keda: tuple[Any, Ask], model_dir: Path) -> None:
    service, ask = keda
    frame, batch = rows(model_dir)
    observe(service.url, frame)
    metadata = {"item": "host-0", "perReplica": "7.5", "scalerAddress": "presurge:9090"}

    (spec,) = ask("GetMetricSpec", **metadata).metricSpecs
    assert (spec.metricName, spec.targetSizeFloat, spec.targetSize) == ("presurge-load-host-0", 7.5, 8)
    assert next(iter(ask("StreamMetricSpec", **metadata))).metricSpecs[0] == spec

    expected = float(batch.mean[0, 0, 0])
    (value,) = ask("GetMetrics", "s0-presurge-load-host-0", **metadata).metricValues
    assert value.metricName == "s0-presurge-load-host-0"
    assert value.metricValueFloat == expected
    assert expected % 1 > 0
    assert value.metricValue == math.ceil(expected)
    assert ask("GetMetrics", **metadata).metricValues[0].metricName == spec.metricName

    assert ask("IsActive", **metadata).result
    assert not ask("IsActive", **metadata, activation="1000").result
    assert next(iter(ask("StreamIsActive", **metadata))).result


def test_step_peak_and_quantile(keda: tuple[Any, Ask], model_dir: Path) -> None:
    service, ask = keda
    frame, batch = rows(model_dir)
    observe(service.url, frame)

    def value(**metadata: str) -> float:
        answer = ask("GetMetrics", item="host-0", perReplica="10", **metadata)
        return float(answer.metricValues[0].metricValueFloat)

    assert value(horizon="4") == float(batch.mean[0, 3, 0])
    at = batch.levels.index(0.9)
    assert value(quantile="0.9", horizon="4") == float(batch.quantiles[0, 3, at, 0])
    assert value(horizonFromEnv="4") == value(horizon="4")  # KEDA sends the looked-up value under this key
    assert batch.peak is not None
    # 330 seconds are five and a half steps: the peak of six, which is the model's whole horizon.
    assert value(lead="330") == float(batch.peak.mean_IC[0, 0])
    assert value(lead="330", quantile="0.9") == float(batch.peak.quantiles_IQC[0, at, 0])
    assert value(lead="330") >= batch.mean[0, :, 0].max()
    assert value(lead="60") == value(horizon="1") == value()


IMPOSSIBLE = [
    ({"perReplica": "1", "quantil": "0.9"}, "quantil"),
    ({"perReplica": "1", "quantilFromEnv": "0.9"}, "quantil"),
    ({"item": "host-0"}, "perReplica"),
    ({"perReplica": "0"}, "perReplica"),
    ({"perReplica": "nan"}, "perReplica"),
    ({"perReplica": "many"}, "perReplica"),
    ({"perReplica": "1", "activation": "some"}, "activation"),
    ({"perReplica": "1", "quantile": "90"}, "quantile"),
    ({"perReplica": "1", "horizon": "0"}, "horizon"),
    ({"perReplica": "1", "horizon": "2.5"}, "horizon"),
    ({"perReplica": "1", "horizon": "7"}, "horizon"),
    ({"perReplica": "1", "lead": "-30"}, "lead"),
    ({"perReplica": "1", "lead": "361"}, "horizon"),
    ({"perReplica": "1", "lead": "60", "horizon": "1"}, "lead"),
    ({"perReplica": "1", "channel": "gpus"}, "channel"),
]


def test_metadata_that_cannot_be_meant(keda: tuple[Any, Ask]) -> None:
    _, ask = keda
    for metadata, named in IMPOSSIBLE:
        for method in ("GetMetricSpec", "GetMetrics", "IsActive"):
            with pytest.raises(grpc.RpcError) as refused:
                ask(method, **metadata)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, metadata
            assert named in refused.value.details(), metadata
            assert "Traceback" not in refused.value.details()
        for method in ("StreamIsActive", "StreamMetricSpec"):
            with pytest.raises(grpc.RpcError) as refused:
                next(iter(ask(method, **metadata)))
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, metadata


def test_without_a_forecast(keda: tuple[Any, Ask]) -> None:
    _, ask = keda
    for metadata in ({"item": "host-0"}, {"item": "host-9"}):
        for method in ("GetMetrics", "IsActive"):
            with pytest.raises(grpc.RpcError) as refused:
                ask(method, perReplica="10", **metadata)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert metadata["item"] in refused.value.details()
    with pytest.raises(grpc.RpcError) as refused:
        ask("GetMetrics", perReplica="10", model="other")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    # The spec needs no forecast, so that KEDA can set the autoscaler up before the first row.
    assert ask("GetMetricSpec", perReplica="10", item="host-9").metricSpecs


def test_rows_that_stopped_coming(keda: tuple[Any, Ask], model_dir: Path) -> None:
    service, ask = keda
    frame, batch = rows(model_dir, minutes_ago=5)
    observe(service.url, frame)
    with pytest.raises(grpc.RpcError) as refused:
        ask("GetMetrics", perReplica="10", item="host-0")
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "no row was observed since" in refused.value.details()
    late = ask("GetMetrics", perReplica="10", item="host-0", horizon="6")  # which is still to come
    assert late.metricValues[0].metricValueFloat == float(batch.mean[0, 5, 0])


def test_activity_that_changes(keda: tuple[Any, Ask], model_dir: Path) -> None:
    service, ask = keda
    frame, _ = rows(model_dir)
    quiet = frame.with_columns(pl.lit(0).alias("requests"))
    stream = iter(ask("StreamIsActive", item="host-0", perReplica="10", activation="5"))
    observe(service.url, quiet)
    assert not next(stream).result
    last = frame.tail(1).with_columns(pl.lit(500).alias("requests"))
    observe(service.url, last)  # merges with the last row
    assert next(stream).result


def test_several_models_and_channels(serving: Callable[..., Any], model_dir: Path, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "time": np.datetime64("2026-03-02T00:00:00", "us") + np.arange(200) * np.timedelta64(60, "s"),
            "requests": [10 + row % 5 for row in range(200)],
            "tokens": [100 + row % 3 for row in range(200)],
        }
    )
    value = ["requests", "tokens/requests"]
    presurge.fit(frame, model="linear", context=12, horizon=2, time="time", value=value).save(
        tmp_path / "two"
    )
    service = serving(models={"load": model_dir, "two": tmp_path / "two"}, keda_port=0)
    with grpc.insecure_channel(service.address("KEDA")) as channel:
        stub = ExternalScalerStub(channel)

        def spec(**metadata: str) -> str:
            ref = pb.ScaledObjectRef(scalerMetadata={"perReplica": "1", **metadata})
            return str(stub.GetMetricSpec(ref, timeout=20).metricSpecs[0].metricName)

        with pytest.raises(grpc.RpcError, match="model"):
            spec()
        with pytest.raises(grpc.RpcError, match="Name one of: requests, tokens/requests"):
            spec(model="two")
        # Kubernetes takes the name into a path.
        assert spec(model="two", channel="tokens/requests") == "presurge-two-tokens-requests"
        assert spec(model="load", item="a b/c") == "presurge-load-a-b-c"


def test_tls(serving: Callable[..., Any], tmp_path: Path) -> None:
    authority, key, certificate = trustme.CA(), tmp_path / "key.pem", tmp_path / "certificate.pem"
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    service = serving(keda_port=0, key=key, certificate=certificate)
    address, ref = service.address("KEDA"), pb.ScaledObjectRef(scalerMetadata={"perReplica": "1"})
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with grpc.secure_channel(address, trusted) as channel:
        assert ExternalScalerStub(channel).GetMetricSpec(ref, timeout=20).metricSpecs
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        ExternalScalerStub(channel).GetMetricSpec(ref, timeout=20)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
