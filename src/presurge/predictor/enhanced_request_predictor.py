"""The request predictor under the module name of the published guide."""

from presurge.predictor import *  # noqa: F403
