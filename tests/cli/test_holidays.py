"""Public holidays from the option to the forecast: a model directory remembers them and makes their future itself."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import holidays as reference
import numpy as np
import polars as pl
import pytest

from presurge import fit
from presurge.models import registry

Run = Callable[..., tuple[int, str, str]]
COLUMNS = ("--time", "t", "--value", "requests")
WINDOWS = ("--model", "linear", "--context", 28, "--horizon", 4, "--no-plots", "--quiet")
CHANNEL = "holidays:DE-BY"


@pytest.fixture
def table(tmp_path: Path) -> pl.DataFrame:
    """Two years by the six hours with a fifth of the load on Bavarian holidays, in ``load.csv``; it ends on Christmas Eve."""
    rng = np.random.default_rng(1)
    first, after = datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 12, 25, tzinfo=UTC)
    stamps = [first + timedelta(hours=6 * k) for k in range((after - first).days * 4)]
    calendar = reference.country_holidays("DE", subdiv="BY")
    share = np.array([0.2 if stamp.date() in calendar else 1.0 for stamp in stamps])
    load = rng.poisson(400 * share * (1 + 0.3 * np.sin(np.arange(len(stamps)) * np.pi / 2)))
    frame = pl.DataFrame({"t": stamps, "requests": load})
    frame.write_csv(tmp_path / "load.csv")
    return frame


def test_a_model_remembers_the_country_and_makes_its_own_future(table: pl.DataFrame, run: Run) -> None:
    wape, highest = {}, {}
    for name, more in (("plain", ()), ("known", ("--holidays", "DE-BY"))):
        assert run("train", "load.csv", *COLUMNS, *WINDOWS, *more, "--out", name)[0] == 0
        code, out, _ = run("predict", name, "--history", "load.csv", "--json")
        assert code == 0
        highest[name] = max(row["mean"] for row in json.loads(out)["forecast"])
        code, out, _ = run("evaluate", name, "--data", "load.csv", "--json")
        assert code == 0
        wape[name] = json.loads(out)["metrics"]["linear"]["requests"]["wape"]
    model, _ = registry.load(Path("known"))
    assert [channel.name for channel in model.fitted_spec().known] == [CHANNEL]
    assert wape["known"] < 0.8 * wape["plain"]
    assert highest["known"] < 0.5 * highest["plain"]  # 25 December


def test_in_python(table: pl.DataFrame) -> None:
    columns = {"time": "t", "value": "requests"}
    known, plain = (
        fit(table, horizon=4, context=28, model="linear", **columns, **more).predict(table)
        for more in ({"holidays": "DE-BY"}, {})
    )
    assert known["mean"].max() < 0.5 * plain["mean"].max()


def test_a_relative_clock_is_refused(run: Run) -> None:
    pl.DataFrame({"t": np.arange(500) * 3600, "y": np.arange(500) % 24}).write_csv("load.csv")
    code, _, err = run("train", "load.csv", "--time", "t", "--value", "y", "--holidays", "DE", "--out", "run")
    assert code == 2
    assert "--holidays" in err
    assert "unknown origin" in err
    assert not Path("run/models").exists()


def test_beside_another_known_column_the_future_holds_only_that(table: pl.DataFrame, run: Run) -> None:
    frame = table.with_columns(sale=pl.int_range(pl.len()) % 5 // 4)
    frame = frame.with_columns(requests=pl.col("requests") + 300 * pl.col("sale"))
    frame[:-4].write_csv("history.csv")
    frame[-4:].select("t", "sale").write_csv("future.csv")
    options = ("--known", "sale", "--holidays", "DE-BY", "--out", "run")
    assert run("train", "history.csv", *COLUMNS, *WINDOWS, *options)[0] == 0
    model, _ = registry.load(Path("run"))
    assert {channel.name for channel in model.fitted_spec().known} == {"sale", CHANNEL}
    code, out, _ = run("predict", "run", "--history", "history.csv", "--future", "future.csv", "--json")
    assert code == 0
    assert len(json.loads(out)["forecast"]) == 4
    code, _, err = run("predict", "run", "--history", "history.csv")
    assert code == 2
    assert "the future of 'sale', 4 rows" in " ".join(err.split())


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("GER", "Did you mean GR or GE or ER?"),
        ("Nowhere", "Give the code of a country, such as DE or US."),
        ("DE-XX", "Choose one of: DE-BB, "),
    ],
)
def test_an_unknown_place_names_the_nearest(table: pl.DataFrame, run: Run, place: str, hint: str) -> None:
    code, _, err = run("train", "load.csv", *COLUMNS, "--holidays", place, "--out", "run")
    assert code == 2
    assert f"no public holidays are known for '{place}'\n  {hint}" in err
    assert len(err) < 500
