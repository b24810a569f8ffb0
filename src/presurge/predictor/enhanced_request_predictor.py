"""The request predictor under the module name of the published guide."""

from presurge.predictor.enhanced import EnhancedRequestPredictor, create_enhanced_predictor

__all__ = ["EnhancedRequestPredictor", "create_enhanced_predictor"]
