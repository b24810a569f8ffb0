"""DLinear as a network, which folds both maps into one before applying it: the same result, faster.

Shapes: B windows, L context, H horizon, C channels, G groups of weights (C or 1), Q outputs a step (1, or quantiles).
"""

import math
from functools import partial

import numpy as np
import torch
from torch import nn

from presurge.models.forecaster import FitReport
from presurge.models.linear.dlinear import DLinear, moving_average_matrix
from presurge.models.linear.moments import LEAST_SIZE, anchor
from presurge.models.networks.task import train_network
from presurge.progress import Progress
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, Panel
from presurge.series.spans import Span


class DLinearNetwork(nn.Module):
    """``(I - M) x`` through the seasonal map plus ``M x`` through the trend map, M the moving average.

    Args:
        model: Gives context, horizon and configuration; the forecast is [B, H, C], or [B, H, Q, C] under the quantile loss.
        channels: C.
    """

    def __init__(self, model: DLinear, channels: int) -> None:
        super().__init__()
        context, self.horizon, config = model.context, model.horizon, model.config
        self.outputs = len(QUANTILE_LEVELS) if config.loss == "quantile" else 1
        self.divides = config.normalisation == "meanabs"
        groups = channels if config.individual else 1
        rows, bound = self.outputs * self.horizon, 1 / math.sqrt(context)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))  # as torch draws a linear layer

        self.seasonal_weight, self.trend_weight = drawn(groups, rows, context), drawn(groups, rows, context)
        self.seasonal_bias, self.trend_bias = drawn(groups, rows), drawn(groups, rows)
        self.average_LL = nn.Buffer(
            torch.from_numpy(moving_average_matrix(context, config.kernel_size)).float(), persistent=False
        )
        level_L = anchor(config.normalisation, context)
        self.level_L = (
            nn.Buffer(torch.from_numpy(level_L).float(), persistent=False) if level_L.any() else None
        )

    def forward(
        self, context_BLC: torch.Tensor, known_BHK: torch.Tensor, item_B: torch.Tensor
    ) -> torch.Tensor:
        """Forecast on the model's scale: [B, H, C], or [B, H, Q, C]."""
        del known_BHK, item_B
        trend_less_seasonal = self.trend_weight - self.seasonal_weight
        weight_GRL = self.seasonal_weight + trend_less_seasonal @ self.average_LL + self._level_map()
        bias_GR = self.seasonal_bias + self.trend_bias
        x_CBL = context_BLC.permute(2, 0, 1)
        if self.divides:  # s (W x / s + b) = W x + s b
            size_CB1 = x_CBL.abs().mean(dim=2, keepdim=True).clamp(min=LEAST_SIZE)
            y_CBR = x_CBL @ weight_GRL.transpose(1, 2) + size_CB1 * bias_GR[:, None, :]
        elif len(weight_GRL) == 1:
            y_CBR = x_CBL @ weight_GRL[0].T + bias_GR[0]
        else:
            y_CBR = torch.baddbmm(bias_GR[:, None, :], x_CBL, weight_GRL.transpose(1, 2))
        if self.outputs == 1:
            return y_CBR.permute(1, 2, 0)
        return y_CBR.reshape(*y_CBR.shape[:2], self.horizon, self.outputs).permute(1, 2, 3, 0)

    def arrays(self) -> dict[str, FloatArray]:
        """The weights of a plain DLinear with the same forecasts, the level folded into both maps."""
        level_GRL = self._level_map()
        tensors = {
            "seasonal.weight": self.seasonal_weight + level_GRL,
            "seasonal.bias": self.seasonal_bias,
            "trend.weight": self.trend_weight + level_GRL,
            "trend.bias": self.trend_bias,
        }
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}

    def _level_map(self) -> torch.Tensor | float:
        """What subtracting the level ``a x`` and adding it back contributes to the map: ``(1 - Wt 1) a``.

        The moving average of a constant is that constant, so a level never reaches the seasonal map.
        """
        if self.level_L is None:
            return 0.0
        return (1 - self.trend_weight.sum(dim=2, keepdim=True)) * self.level_L


def learn(
    model: DLinear, panel: Panel, train: Span, validation: Span | None, progress: Progress | None
) -> tuple[dict[str, FloatArray], FitReport]:
    """Train a DLinear by gradient on a panel of targets: (its four arrays, report).

    Under the quantile loss the arrays have H x Q rows, the levels of one step next to each other.
    """
    array_RC = model.scaler.scale(panel.values).astype(np.float32)
    build = partial(DLinearNetwork, model, len(panel.channels))
    network, report = train_network(build, model, panel, array_RC, train, validation, progress)
    return network.arrays(), report
