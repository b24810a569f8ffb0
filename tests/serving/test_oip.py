"""The Open Inference Protocol v2: Triton's client as it is, and requests by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

CONTEXT, HORIZON = 24, 6
END = "2026-03-02T07:59:00Z"
Serving = Callable[..., Any]


@pytest.fixture
def service(standing: Any) -> Any:
    return standing


@pytest.fixture
def kserve(service: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def windows(loads: pl.DataFrame) -> np.ndarray[Any, Any]:
    """The last rows of both hosts: [2, 24, 1]."""
    rows = [loads.filter(host=f"host-{i}")["requests"].to_numpy()[-CONTEXT:] for i in (0, 1)]
    return np.array(rows, np.float32)[..., None]


def inputs(
    array: np.ndarray[Any, Any], *, binary: bool = True, kind: str = "FP32"
) -> list[triton.InferInput]:
    one = triton.InferInput("context", [*array.shape], kind)
    one.set_data_from_numpy(array, binary_data=binary)
    return [one]


def by_hand(array: np.ndarray[Any, Any], data: Any = None, **changed: Any) -> dict[str, Any]:
    given = array.ravel().tolist() if data is None else data
    tensor = {"name": "context", "shape": [*array.shape], "datatype": "FP32", "data": given} | changed
    return {"inputs": [tensor], "parameters": {"end": END}}


def test_the_server_and_the_model_describe_themselves(kserve: triton.InferenceServerClient) -> None:
    assert kserve.is_server_live()
    assert kserve.is_server_ready()
    assert kserve.is_model_ready("load")
    assert kserve.is_model_ready("load", "1")
    assert kserve.get_server_metadata()["name"] == "presurge"
    for version in ("", "1"):
        described = kserve.get_model_metadata("load", version)
        assert (described["name"], described["versions"]) == ("load", ["1"])
        assert described["inputs"] == [{"name": "context", "datatype": "FP32", "shape": [-1, -1, 1]}]
        shapes = {one["name"]: one["shape"] for one in described["outputs"]}
        levels = shapes.pop("levels")
        mean = [-1, HORIZON, 1]
        assert shapes == {"mean": mean, "median": mean, "quantiles": [-1, HORIZON, *levels, 1]}


@pytest.mark.parametrize("kind", ["FP64", "FP32", "FP16", "INT64", "UINT8"])
def test_triton_sends_binary(
    kserve: triton.InferenceServerClient, client: httpx.Client, windows: np.ndarray[Any, Any], kind: str
) -> None:
    array = windows.astype(kind.lower().replace("fp", "float"))
    found = kserve.infer("load", inputs(array, kind=kind), request_id="seven", parameters={"end": END})
    assert (found.get_response()["id"], found.get_response()["model_name"]) == ("seven", "load")

    history = [
        {"item": str(i), "end": END, "values": {"requests": window[:, 0].tolist()}}
        for i, window in enumerate(windows)
    ]
    rows = client.post("/v1/forecast", json={"history": history}).json()["forecast"]
    mean, quantiles, levels = (found.as_numpy(name) for name in ("mean", "quantiles", "levels"))
    np.testing.assert_array_equal(mean.ravel(), np.float32([row["mean"] for row in rows]))
    np.testing.assert_array_equal(
        quantiles[..., 0].reshape(len(rows), -1), np.float32([[*row["quantiles"].values()] for row in rows])
    )
    np.testing.assert_allclose(levels, [float(level) for level in rows[0]["quantiles"]], rtol=1e-6)


def test_data_may_be_flat_or_nested(client: httpx.Client, windows: np.ndarray[Any, Any]) -> None:
    answers = [
        client.post(f"/v2/models/load{version}/infer", json=by_hand(windows, data)).raise_for_status().json()
        for data in (windows.ravel().tolist(), windows.tolist(), windows[..., 0].tolist())
        for version in ("", "/versions/1")
    ]
    assert all(answer == answers[0] for answer in answers)
    assert [len(one["data"]) == np.prod(one["shape"]) for one in answers[0]["outputs"]] == [True] * 4


def test_outputs_are_those_that_are_asked_for(
    kserve: triton.InferenceServerClient, windows: np.ndarray[Any, Any]
) -> None:
    wanted = [triton.InferRequestedOutput("median"), triton.InferRequestedOutput("mean", binary_data=False)]
    found = kserve.infer("load", inputs(windows, binary=False), outputs=wanted)
    assert [one["name"] for one in found.get_response()["outputs"]] == ["median", "mean"]
    assert found.as_numpy("median").shape == (2, HORIZON, 1)
    with pytest.raises(InferenceServerException, match="there is no output 'mode'"):
        kserve.infer("load", inputs(windows), outputs=[triton.InferRequestedOutput("mode")])


def test_missing_values_are_null_or_nan(
    client: httpx.Client, kserve: Any, windows: np.ndarray[Any, Any]
) -> None:
    windows[0, 5] = np.nan
    data = [None if np.isnan(value) else value for value in windows.ravel().tolist()]
    by_json = client.post("/v2/models/load/infer", json=by_hand(windows, data)).raise_for_status().json()
    binary = kserve.infer("load", inputs(windows), parameters={"end": END})
    np.testing.assert_array_equal(np.float32(by_json["outputs"][0]["data"]), binary.as_numpy("mean").ravel())


def test_a_known_future(serving: Serving, covariates_dir: Path, loads: pl.DataFrame) -> None:
    service = serving(models={"wide": covariates_dir})
    columns = ["requests", "seconds", "campaign"]
    past = loads.filter(host="host-0").tail(CONTEXT)[columns].to_numpy().astype(np.float32)[None]
    context = triton.InferInput("context", [*past.shape], "FP32").set_data_from_numpy(past)
    means = []
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
        for value in (0, 1):
            future = np.full((1, HORIZON, 1), value, np.float32)
            known = triton.InferInput("known", [*future.shape], "FP32").set_data_from_numpy(future)
            means.append(client.infer("wide", [known, context]).as_numpy("mean"))
        with pytest.raises(InferenceServerException, match="is missing"):
            client.infer("wide", [context])
    assert means[0].shape == (1, HORIZON, 2)
    assert (means[0][..., 1] != means[1][..., 1]).any()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": [1.0, 2.0]}, "cannot be read"),
        ({"data": [[1.0], [1.0, 2.0]]}, "cannot be read"),
        ({"data": [[[[1.0]]]]}, "Expected"),
        ({"data": ["1"]}, "Expected"),
        ({"data": [True]}, "Expected"),
        ({"shape": [2, 24]}, "has the shape [2, 24]"),
        ({"shape": [-2, 24, 1]}, "Expected"),
        ({"shape": [0, 24, 1], "data": []}, "has the shape"),
        ({"shape": [2**31, 2**31, 2**31]}, "cannot be read"),
        ({"shape": [1] * 70}, "cannot be read"),
        ({"name": "past"}, "is unknown"),
        ({"datatype": "BYTES"}, "regex"),
        ({"datatype": "FP32", "parameters": {"binary_data_size": 10**6}}, "cannot be read"),
        ({"parameters": {"binary_data_size": -1}}, "Expected"),
        ({"parameters": {"binary_data_size": 1e300}}, "Expected"),
    ],
)
def test_a_tensor_that_cannot_be_read_is_refused(
    client: httpx.Client, windows: np.ndarray[Any, Any], changed: dict[str, Any], words: str
) -> None:
    answer = client.post("/v2/models/load/infer", json=by_hand(windows, **changed))
    assert (answer.status_code, words in answer.json()["error"]) == (422, True), answer.text


def test_infinite_values_are_refused(
    kserve: triton.InferenceServerClient, windows: np.ndarray[Any, Any]
) -> None:
    for value, kind in ((np.inf, np.float32), (1e300, np.float64)):
        array = windows.astype(kind)
        array[1, 3] = value
        with pytest.raises(InferenceServerException, match="infinite"):
            kserve.infer("load", inputs(array, kind=f"FP{array.itemsize * 8}"))


@pytest.mark.parametrize("size", ["x", "-1", "99999999", "1e3", ""])
def test_a_wrong_size_of_the_header_is_refused(
    client: httpx.Client, windows: np.ndarray[Any, Any], size: str
) -> None:
    headers = {"inference-header-content-length": size}
    answer = client.post("/v2/models/load/infer", json=by_hand(windows), headers=headers)
    assert answer.status_code == 422
    assert answer.json()["where"] == "inference-header-content-length"


def test_models_and_versions_that_there_are_not(kserve: triton.InferenceServerClient) -> None:
    assert not kserve.is_model_ready("Load")
    for name, version in (("Load", ""), ("load", "2"), ("..%2Fload", "")):
        with pytest.raises(InferenceServerException, match="there is no"):
            kserve.get_model_metadata(name, version)
