"""Numbers of real and rebuilt traces, counted independently with pandas from the same files."""

import gzip

import numpy as np
import pandas as pd
import polars as pl
import pytest

from presurge.series.frequency import HOUR
from presurge.workflows.prepare import PrepareConfig, prepare


def test_rebuilt_burstgpt_has_the_real_count_of_every_hour(shared, tmp_path):
    prepared = prepare(
        shared / "data" / "llm" / "burstgpt_rebuilt_events.parquet",
        tmp_path,
        PrepareConfig(step=HOUR, dense=True),
    )
    assert prepared.totals["requests"] == 1_087_553
    hours = pd.read_csv(tmp_path / "burstgpt_rebuilt_events_compressed_3600s.csv").set_index("Timestamp")
    real = pd.read_csv(shared / "data" / "llm" / "burstgpt_hourly.csv.gz").set_index("t_s")
    assert (hours["Concurrent_requests"] == real["all"]).all()
    assert len(hours) == len(real)


@pytest.mark.parametrize(
    ("file", "stamp", "inputs", "outputs"),
    [
        ("AzureLLMInferenceTrace_conv.csv.gz", "TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        ("mooncake_conversation.csv.gz", "timestamp_ms", "input_tokens", "output_tokens"),
    ],
)
def test_an_hour_of_real_requests(shared, tmp_path, file, stamp, inputs, outputs):
    with gzip.open(shared / "data" / "llm" / file, "rt") as stream:
        table = pd.read_csv(stream)
    if stamp == "TIMESTAMP":
        seconds = pd.to_datetime(table[stamp]).to_numpy().astype("datetime64[s]").astype(np.int64)
    else:
        seconds = table[stamp].to_numpy() // 1000
    expected = table.groupby(seconds // 60 * 60).agg({stamp: "size", inputs: "sum", outputs: "sum"})
    prepare(shared / "data" / "llm" / file, tmp_path)
    minutes = pl.read_csv(tmp_path / f"{file.partition('.')[0]}_compressed_60s.csv")
    assert minutes["Timestamp"].to_list() == expected.index.tolist()
    assert minutes["Concurrent_requests"].to_list() == expected[stamp].tolist()
    assert minutes["Request_tokens_sum"].to_list() == expected[inputs].tolist()
    assert minutes["Response_tokens_sum"].to_list() == expected[outputs].tolist()
