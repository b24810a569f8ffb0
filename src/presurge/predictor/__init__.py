"""The published request-predictor interface: data frames in, the next requests out; your own models beside ours."""

from presurge.predictor.adapter import ForecasterPredictor
from presurge.predictor.config import ModelConfig, ModelDevice, ModelType
from presurge.predictor.enhanced import EnhancedRequestPredictor, create_enhanced_predictor
from presurge.predictor.interface import (
    BasePredictor,
    ModelRegistry,
    PredictionResult,
    TrainingResult,
    model_registry,
    register_model,
)
from presurge.predictor.manager import ModelManager

__all__ = [
    "BasePredictor",
    "EnhancedRequestPredictor",
    "ForecasterPredictor",
    "ModelConfig",
    "ModelDevice",
    "ModelManager",
    "ModelRegistry",
    "ModelType",
    "PredictionResult",
    "TrainingResult",
    "create_enhanced_predictor",
    "model_registry",
    "register_model",
]
