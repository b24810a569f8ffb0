"""Requests and minutes as data frames, and a registry that forgets what a test registers."""

import pandas as pd
import polars as pl
import pytest

from presurge.predictor import model_registry
from presurge.sources.synthetic import SyntheticConfig, SyntheticTrace


@pytest.fixture(scope="session")
def requests() -> pl.DataFrame:
    """400 requests of a synthetic trace, in the columns of BurstGPT."""
    return next(SyntheticTrace(SyntheticConfig(rows=400, days=0.05, seed=3)).blocks())


@pytest.fixture(scope="session")
def requests_pandas(requests: pl.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: requests[name].to_numpy() for name in requests.columns})


@pytest.fixture(scope="session")
def minutes() -> pl.DataFrame:
    """240 minutes of a synthetic trace, in the columns of the guide's minute file."""
    trace = next(SyntheticTrace(SyntheticConfig(rows=8000, days=1 / 6, seed=4)).blocks())
    minute = (pl.col("Timestamp") // 60 * 60).cast(pl.Int64)
    return (
        trace.group_by(minute)
        .agg(
            pl.len().alias("Concurrent_requests"),
            pl.col("Request tokens").sum().alias("Request_tokens_sum"),
            pl.col("Response tokens").sum().alias("Response_tokens_sum"),
        )
        .sort("Timestamp")
        .with_columns(Time_interval=60.0)
    )


@pytest.fixture(autouse=True)
def _forgetful_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_registry, "_classes", {})
    monkeypatch.setattr(model_registry, "_models", {})
