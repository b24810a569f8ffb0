"""What a fitted model takes from a panel: its own channels, in its order and with its roles."""

from collections.abc import Callable

import numpy as np
import pytest

from presurge.errors import DataError
from presurge.models.forecaster import SeriesSpec
from presurge.series.panel import Panel

MakePanel = Callable[..., Panel]


def test_a_view_has_the_channels_of_the_model_in_its_order_and_roles(make_panel: MakePanel) -> None:
    panel = make_panel(np.arange(15).reshape(5, 3))
    spec = SeriesSpec.of(panel.select(["c2", "c0"]).with_roles(known=["c0"], observed=[]))
    view = spec.view(panel)  # in which every channel is a target
    assert [(channel.name, channel.role) for channel in view.channels] == [("c2", "target"), ("c0", "known")]
    np.testing.assert_array_equal(view.values, panel.values[:, [2, 0]])
    assert [channel.name for channel in spec.targets] == ["c2"]
    assert [channel.name for channel in spec.known] == ["c0"]


def test_a_panel_without_a_channel_of_the_model_is_refused(make_panel: MakePanel) -> None:
    spec = SeriesSpec.of(make_panel(np.zeros((5, 2))))
    with pytest.raises(DataError, match="c1"):
        spec.view(make_panel(np.zeros((5, 1))))
