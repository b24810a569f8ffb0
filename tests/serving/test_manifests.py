"""The manifests of the examples: what Kubernetes, KEDA and KServe accept, and what the service really answers."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.kubernetes.apps.v1 import Deployment
from cloudcoil.models.kubernetes.core.v1 import Container, PersistentVolumeClaim, Service
from prometheus_client.parser import text_string_to_metric_families as families
from pydantic import BaseModel, ValidationError

from presurge.cli.serve import Models, Scalers, ServeOptions
from presurge.serving.config import ServeConfig
from presurge.serving.keda import Trigger

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, GUIDES = ROOT / "examples", ROOT / "docs" / "guides"
KINDS: dict[str, type[BaseModel]] = {
    kind.__name__: kind
    for kind in (keda.ScaledObject, keda.TriggerAuthentication, Deployment, Service, PersistentVolumeClaim)
}
KSERVE = jsonschema_rs.validator_for(json.loads((Path(__file__).parent / "kserve.schema.json").read_text()))


def documents(folder: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((EXAMPLES / folder).glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path, document


def check(kind: type[BaseModel], document: dict[str, Any]) -> None:
    """A model of a kind keeps every key and value of a document; it drops what it does not know."""
    kept = kind.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert kept == document


def trigger(name: str) -> dict[str, Any]:
    (found,) = [one for path, one in documents("keda") if path.stem == name and one["kind"] == "ScaledObject"]
    (only,) = found["spec"]["triggers"]
    return dict(only)


def test_keda_and_kubernetes() -> None:
    found = [*documents("keda")]
    assert {document["kind"] for _, document in found} == {*KINDS}
    for _, document in found:
        check(KINDS[document["kind"]], document)


def test_the_check_finds_mistakes() -> None:
    _, good = next(one for one in documents("keda") if one[1]["kind"] == "ScaledObject")
    for wrong in ({"pollingIntervall": 15}, {"pollingInterval": "often"}):
        with pytest.raises((AssertionError, ValidationError)):
            check(keda.ScaledObject, good | {"spec": good["spec"] | wrong})
    _, runtime = next(documents("kserve"))
    assert KSERVE.is_valid(runtime)
    assert not KSERVE.is_valid(runtime | {"spec": runtime["spec"] | {"protocolVersion": "v2"}})


def test_kserve() -> None:
    found = {document["kind"]: document for _, document in documents("kserve")}
    for document in found.values():
        KSERVE.validate(document)
    (container,) = found["ServingRuntime"]["spec"]["containers"]
    check(Container, container)
    name, model = (
        found["InferenceService"]["metadata"]["name"],
        found["InferenceService"]["spec"]["predictor"]["model"],
    )
    assert model["runtime"] == found["ServingRuntime"]["metadata"]["name"]
    # The command is one that there is, for the model and the port that the manifest names.
    program, verb, *_ = container["command"]
    named, *flags = [text.replace("{{.Name}}", name) for text in container["args"]]
    known = {f"--{field.replace('_', '-')}" for field in ServeOptions.__dataclass_fields__}
    assert (program, verb) == ("presurge", "serve")
    assert {*flags[::2]} <= known
    assert named == "web=/mnt/models"
    ServeConfig.model_validate({"models": dict([named.split("=")]), "port": flags[-1]})


def test_the_arguments_of_the_deployment() -> None:
    (deployment,) = [one for _, one in documents("keda") if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    known = {
        f"--{name.replace('_', '-')}"
        for kind in (Models, ServeOptions, Scalers)
        for name in kind.__dataclass_fields__
    }
    assert {flag for flag in container["args"] if flag.startswith("--")} <= known
    assert [port["containerPort"] for port in container["ports"]] == [8080, 9090]


def test_the_manifests_stand_in_the_guides() -> None:
    """A guide shows a manifest as it is, without its comments at the top."""
    shown = {
        path for path in EXAMPLES.glob("[dk]*/*.yaml") if path.parent.name in ("dynamo", "keda", "kserve")
    }
    for path in shown - {EXAMPLES / "keda" / "presurge.yaml"}:
        text = re.sub(r"\A(#.*\n)+", "", path.read_text())
        assert text in (GUIDES / f"{path.parent.name}.md").read_text(), path


def test_what_the_triggers_ask_is_answered(serving: Callable[..., Any], model_dir: Path) -> None:
    """The external trigger, the path into the JSON and the query all lead to the same forecast."""
    service = serving(models={"web": model_dir})
    last = int(time.time()) // 60 * 60 - 60
    rows = [
        {"item": "web", "time": last - 60 * (39 - i), "values": {"requests": 20 + i % 7}} for i in range(40)
    ]
    assert httpx.post(f"{service.url}/v1/observe", json={"rows": rows}).json()["accepted"] == 40

    external = Trigger.of(trigger("external")["metadata"], service.service)
    number = external.value.now(last * 1_000_000)

    asked = trigger("metrics-api")["metadata"]
    url = re.sub(r"^http://[^/]+", service.url, asked["url"])
    place: Any = httpx.get(url).raise_for_status().json()
    for key in re.split(r"(?<!\\)\.", asked["valueLocation"]):
        place = place[int(key)] if isinstance(place, list) else place[key.replace("\\.", ".")]
    assert place == pytest.approx(number, rel=1e-6)

    query, scraped = trigger("prometheus")["metadata"]["query"], httpx.get(f"{service.url}/metrics").text
    samples = {sample.name: sample for family in families(scraped) for sample in family.samples}
    assert "presurge_forecast_peak_quantile" in samples
    for name, labels in re.findall(r"(presurge_\w+)\{(.*?)\}", query):
        wanted = dict(re.findall(r'(\w+)="(.*?)"', labels))
        every = [sample for family in families(scraped) for sample in family.samples if sample.name == name]
        assert any(wanted.items() <= sample.labels.items() for sample in every), (name, wanted)
