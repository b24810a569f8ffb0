"""The interface of models under the module name of the published guide."""

from presurge.predictor.config import ModelConfig, ModelDevice, ModelType
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult
from presurge.predictor.manager import ModelManager
from presurge.predictor.registry import ModelRegistry, model_registry, register_model

__all__ = [
    "BasePredictor",
    "ModelConfig",
    "ModelDevice",
    "ModelManager",
    "ModelRegistry",
    "ModelType",
    "PredictionResult",
    "TrainingResult",
    "model_registry",
    "register_model",
]
