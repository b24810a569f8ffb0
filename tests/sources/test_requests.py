"""One row a request."""

import numpy as np
import pandas as pd
import pytest

from presurge.errors import DataError
from presurge.sources.requests import requests_panel
from presurge.sources.trace import open_trace


@pytest.fixture
def trace(tmp_path):
    table = pd.DataFrame(
        {"Timestamp": [10.5, 2, 2, 7], "Request tokens": [4, 1, 2, 3], "Response tokens": [40, 10, 0, 30]}
    )
    table.to_csv(tmp_path / "trace.csv", index=False)
    return open_trace(tmp_path / "trace.csv")


def test_requests_follow_each_other_in_the_order_of_time(trace):
    panel = requests_panel(trace)
    expected = [[np.nan, 1, 10], [0, 2, 0], [5, 3, 30], [3.5, 4, 40]]
    np.testing.assert_array_equal(panel.values, np.array(expected, np.float32))
    assert panel.channel_names == ("inter_arrival", "input_tokens", "output_tokens")
    assert [channel.kind for channel in panel.channels] == ["gauge", "count", "count"]
    assert (panel.clock, panel.step_seconds, panel.start.tolist()) == ("relative", 1, [0])


def test_failed_requests_can_be_left_out(trace, tmp_path):
    assert requests_panel(trace, "drop").values[1].tolist() == [5, 3, 30]
    (tmp_path / "failed.csv").write_text("Timestamp,Request tokens,Response tokens\n1,5,0\n")
    with pytest.raises(DataError, match="no request is left"):
        requests_panel(open_trace(tmp_path / "failed.csv"), "drop")


def test_real_requests(shared):
    panel = requests_panel(open_trace(shared / "data" / "llm" / "AzureLLMInferenceTrace_conv.csv.gz"))
    assert len(panel) == 19_366
    assert np.nansum(panel.values[:, 0], dtype=np.float64) == pytest.approx(3_500, rel=0.05)
    assert (panel.values[1:, 0] >= 0).all()
