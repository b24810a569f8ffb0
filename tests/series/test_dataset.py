"""Which rows of a data set the final fit of a closed-form model may use."""

import numpy as np
import pytest

from presurge.series.dataset import Dataset
from presurge.series.frequency import HOUR
from presurge.series.panel import Channel, Panel


@pytest.mark.parametrize(("given", "rows"), [(True, 60), (False, 70)])
def test_rows_of_a_given_validation_part_stay_out_of_the_final_fit(given: bool, rows: int) -> None:
    panel = Panel(values=np.zeros((100, 1)), channels=(Channel("load"),), step=HOUR, start=np.zeros(1))
    train, validation, test = panel.full_span().cut(["0.6", "0.1", "0.3"])
    data = Dataset(
        panel=panel, train=train, validation=validation, test=test, validation_given=given, source={}
    )
    assert (data.fit_span.first.tolist(), data.fit_span.last.tolist()) == ([0], [rows])
