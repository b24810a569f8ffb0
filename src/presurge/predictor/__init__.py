"""The published request-predictor interface: data frames in, the next requests out, models of your own beside ours."""

from presurge.predictor.adapter import ForecasterPredictor
from presurge.predictor.config import ModelConfig, ModelDevice, ModelType
from presurge.predictor.enhanced import EnhancedRequestPredictor, create_enhanced_predictor
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult
from presurge.predictor.manager import ModelManager
from presurge.predictor.registry import ModelRegistry, model_registry, register_model

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
