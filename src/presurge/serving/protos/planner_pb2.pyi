from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrafficMetrics(_message.Message):
    __slots__ = ("duration_s", "num_req", "isl", "osl", "kv_hit_rate", "accept_length")
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    NUM_REQ_FIELD_NUMBER: _ClassVar[int]
    ISL_FIELD_NUMBER: _ClassVar[int]
    OSL_FIELD_NUMBER: _ClassVar[int]
    KV_HIT_RATE_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    duration_s: float
    num_req: float
    isl: float
    osl: float
    kv_hit_rate: float
    accept_length: float
    def __init__(
        self,
        duration_s: _Optional[float] = ...,
        num_req: _Optional[float] = ...,
        isl: _Optional[float] = ...,
        osl: _Optional[float] = ...,
        kv_hit_rate: _Optional[float] = ...,
        accept_length: _Optional[float] = ...,
    ) -> None: ...

class ObservationData(_message.Message):
    __slots__ = ("traffic",)
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    traffic: TrafficMetrics
    def __init__(self, traffic: _Optional[_Union[TrafficMetrics, _Mapping]] = ...) -> None: ...

class PipelineContext(_message.Message):
    __slots__ = ("request_id", "decision_id", "observations")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    decision_id: str
    observations: ObservationData
    def __init__(
        self,
        request_id: _Optional[str] = ...,
        decision_id: _Optional[str] = ...,
        observations: _Optional[_Union[ObservationData, _Mapping]] = ...,
    ) -> None: ...

class PredictStageRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: PipelineContext
    def __init__(self, context: _Optional[_Union[PipelineContext, _Mapping]] = ...) -> None: ...

class PredictionData(_message.Message):
    __slots__ = (
        "predicted_num_req",
        "predicted_isl",
        "predicted_osl",
        "source",
        "predicted_kv_hit_rate",
        "predicted_accept_length",
    )
    PREDICTED_NUM_REQ_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_ISL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_OSL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_KV_HIT_RATE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_ACCEPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    predicted_num_req: float
    predicted_isl: float
    predicted_osl: float
    source: str
    predicted_kv_hit_rate: float
    predicted_accept_length: float
    def __init__(
        self,
        predicted_num_req: _Optional[float] = ...,
        predicted_isl: _Optional[float] = ...,
        predicted_osl: _Optional[float] = ...,
        source: _Optional[str] = ...,
        predicted_kv_hit_rate: _Optional[float] = ...,
        predicted_accept_length: _Optional[float] = ...,
    ) -> None: ...

class PredictStageResponse(_message.Message):
    __slots__ = ("predictions", "reason", "final")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    predictions: PredictionData
    reason: str
    final: bool
    def __init__(
        self,
        predictions: _Optional[_Union[PredictionData, _Mapping]] = ...,
        reason: _Optional[str] = ...,
        final: _Optional[bool] = ...,
    ) -> None: ...
