"""The generated messages are those of the .proto files, and the .proto files say what the protocols say."""

from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from presurge.serving.protos import externalscaler_pb2, planner_pb2

PROTOS = Path(externalscaler_pb2.__file__).parent
SRC = PROTOS.parents[2]

KEDA = {
    "ScaledObjectRef": "name=1 namespace=2 scalerMetadata=3",
    "IsActiveResponse": "result=1",
    "GetMetricSpecResponse": "metricSpecs=1",
    "MetricSpec": "metricName=1 targetSize=2 targetSizeFloat=3",
    "GetMetricsRequest": "scaledObjectRef=1 metricName=2",
    "GetMetricsResponse": "metricValues=1",
    "MetricValue": "metricName=1 metricValue=2 metricValueFloat=3",
}
"""kedacore/keda, externalscaler.proto."""
DYNAMO = {
    "PredictStageRequest": "context=1",
    "PredictStageResponse": "predictions=1 reason=2 final=3",
    "PipelineContext": "request_id=1 decision_id=2 observations=3",
    "ObservationData": "traffic=1",
    "TrafficMetrics": "duration_s=1 num_req=2 isl=3 osl=4 kv_hit_rate=5 accept_length=6",
    "PredictionData": "predicted_num_req=1 predicted_isl=2 predicted_osl=3 source=4 predicted_kv_hit_rate=5 "
    "predicted_accept_length=6",
}
"""ai-dynamo 1.6.1; scripts/dynamo.sh compares types and presence with its messages too."""


@pytest.mark.parametrize("file", [externalscaler_pb2.DESCRIPTOR, planner_pb2.DESCRIPTOR])
def test_generated_from_the_proto_file(file: FileDescriptor, tmp_path: Path) -> None:
    out = tmp_path / "descriptors"
    assert protoc.main(["protoc", f"-I{SRC}", f"--descriptor_set_out={out}", str(SRC / file.name)]) == 0
    (source,) = FileDescriptorSet.FromString(out.read_bytes()).file
    for field in (
        field
        for message in source.message_type
        for one in (message, *message.nested_type)
        for field in one.field
    ):
        field.ClearField("json_name")  # which generated code leaves out
    assert FileDescriptorProto.FromString(file.serialized_pb) == source, "run scripts/protos.sh"


@pytest.mark.parametrize(
    ("file", "known"), [(externalscaler_pb2.DESCRIPTOR, KEDA), (planner_pb2.DESCRIPTOR, DYNAMO)]
)
def test_fields_have_their_numbers(file: FileDescriptor, known: dict[str, str]) -> None:
    messages = {
        name: " ".join(f"{field.name}={field.number}" for field in message.fields)
        for name, message in file.message_types_by_name.items()
    }
    assert messages == known


def test_services_have_their_names() -> None:
    (keda,) = externalscaler_pb2.DESCRIPTOR.services_by_name.values()
    assert keda.full_name == "externalscaler.ExternalScaler"
    streams = {method.name: method.server_streaming for method in keda.methods}
    assert streams == {
        "IsActive": False,
        "StreamIsActive": True,
        "GetMetricSpec": False,
        "GetMetrics": False,
        "StreamMetricSpec": True,
    }
    (dynamo,) = planner_pb2.DESCRIPTOR.services_by_name.values()
    assert dynamo.full_name == "dynamo.planner.plugin.v1.PredictPlugin"
    assert [method.name for method in dynamo.methods] == ["Predict"]
