"""The service without its doors: one writer, identifiers, models that fail, reload, the clock."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presurge.errors import DataError, ModelError
from presurge.models import registry
from presurge.models.forecaster import Prediction
from presurge.models.naive import LastValue
from presurge.series.panel import Panel
from presurge.series.windows import WindowBatch
from presurge.serving import service as module
from presurge.serving.bodies import Observation, ObserveRequest, Record
from presurge.serving.config import ServeConfig
from presurge.serving.service import Service

START, STEP = 1_772_409_600, 60

Work = Callable[[Service], Awaitable[Any]]


def run(work: Work, **settings: Any) -> Any:
    """What a service answers to some work; then it stops."""

    async def main() -> Any:
        service = Service(ServeConfig(**settings))
        await service.start()
        try:
            return await asyncio.wait_for(work(service), 60)
        finally:
            await service.stop()

    return asyncio.run(main())


def row(number: int, value: float | None = None, item: str = "a") -> Observation:
    given = float(20 + number * 7 % 13) if value is None else value
    return Observation(START + STEP * number, {"requests": given}, item)


def rows(*numbers: int, **more: Any) -> ObserveRequest:
    return ObserveRequest([row(number) for number in numbers], **more)


def forecast(service: Service, name: str = "load") -> dict[str, Any]:
    return service.served[name].stream.forecast(["a"]).to_dict()


def test_an_identifier_is_counted_once(model_dir: Path, tmp_path: Path) -> None:
    """At once, later, and after a restart from the log and from a snapshot."""

    async def twice(service: Service) -> list[Any]:
        return await asyncio.gather(*(service.observe(rows(0, 1, id="first")) for _ in range(2)))

    async def once(service: Service) -> Any:
        return await service.observe(rows(0, 1, id="first"))

    settings = {"models": {"load": model_dir}, "state": tmp_path / "state"}
    first, second = run(twice, **settings)
    assert (first["accepted"], first["duplicate"], first["durable"]) == (2, 0, True)
    assert (second["accepted"], second["duplicate"], second["durable"]) == (0, 2, True)
    assert run(once, **settings)["duplicate"] == 2
    for snapshot in (tmp_path / "state").glob("snapshot-*"):
        shutil.rmtree(snapshot)
    assert run(once, **settings)["duplicate"] == 2


def test_observations_of_one_moment_are_logged_together(model_dir: Path, tmp_path: Path) -> None:
    async def work(service: Service) -> Any:
        appends, append = [], service.journal.append  # type: ignore[union-attr]

        def counting(records: Any) -> None:
            appends.append(len(records))
            append(records)

        service.journal.append = counting  # type: ignore[method-assign, union-attr]
        answers = await asyncio.gather(*(service.observe(rows(number)) for number in range(50)))
        return appends, answers

    appends, answers = run(work, models={"load": model_dir}, state=tmp_path / "state")
    assert sum(appends) == 50
    assert len(appends) <= 2
    assert sum(answer["accepted"] for answer in answers) == 50


class Moody(LastValue):
    """Fails where a value is 13; says nothing that is a number if it was trained to."""

    name, summary = "moody", "fails at 13"

    def predict(self, batch: WindowBatch) -> Prediction:
        if (batch.context_BLC == 13).any():
            raise ZeroDivisionError("thirteen")
        return super().predict(batch)


@pytest.fixture
def moody(model_dir: Path, tmp_path: Path) -> Path:
    if "moody" not in registry.model_names():
        registry.register(Moody)
    model, _ = registry.load(model_dir)
    own = Moody(context=model.context, horizon=model.horizon)
    panel = Panel(
        values=np.ones((60, 1), np.float32),
        channels=model.fitted_spec().channels,
        step=model.fitted_spec().step,
        start=np.zeros(1, np.int64),
    )
    own.fit(panel, panel.full_span())
    own.save(tmp_path / "moody")
    return tmp_path / "moody"


def test_a_model_that_fails_costs_no_other_its_forecast(model_dir: Path, moody: Path) -> None:
    async def work(service: Service) -> None:
        await service.observe(rows(*range(30)))
        took = await service.observe(ObserveRequest([row(30, 13.0)]))
        assert took["accepted"] == 1
        assert forecast(service)["forecast"]
        latest = service.served["moody"].stream.items["a"].latest
        assert latest.made is None
        assert "thirteen" in latest.reason
        await service.observe(rows(*range(31, 60)))
        assert forecast(service, "moody")["forecast"]

    run(work, models={"load": model_dir, "moody": moody})


def test_whatever_happens_each_client_is_answered(model_dir: Path) -> None:
    """The writer survives a fault of its own, and a client that went away."""

    async def work(service: Service) -> None:
        stream = service.served["load"].stream
        update, stream.update = stream.update, lambda now=0: 1 / 0  # type: ignore[assignment, method-assign]
        answers = await asyncio.gather(*(service.observe(rows(i)) for i in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ZeroDivisionError] * 3
        stream.update = update  # type: ignore[method-assign]
        gone = asyncio.create_task(service.observe(rows(3)))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await service.observe(rows(4)))["accepted"] == 1
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert stream.items["a"].rows.last == START // STEP + 4

    run(work, models={"load": model_dir})


def test_rows_that_are_refused_are_named(model_dir: Path) -> None:
    async def work(service: Service) -> None:
        now = service.now() // 1_000_000
        took = await service.observe(
            ObserveRequest([Observation(now - at, {"requests": 1.0}, "a") for at in (0, -3_600, 10**7, 60)])
        )
        assert (took["accepted"], took["late"]) == (2, 1)
        assert ["lies in the future" in one["reason"] for one in took["refused"]] == [True, False]
        assert "too late" in took["refused"][1]["reason"]
        with pytest.raises(DataError, match="no model reads these channels") as refused:
            await service.observe(ObserveRequest([row(0), Observation(START, {"bytes": 1.0})]))
        assert refused.value.where == "rows[1]"

    run(work, models={"load": model_dir})


def test_a_clock_that_jumps_back(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that go on as before are taken in, and buckets of events are closed."""

    async def work(service: Service) -> None:
        now = service.now() // 60_000_000 * 60
        system = module.time.time
        monkeypatch.setattr(module.time, "time", lambda: system() - 3_600)
        took = await service.observe(
            ObserveRequest(
                [Observation(now - 60, {"requests": 1.0}, "a")], [Observation(now - 61.0, item="b")]
            )
        )
        assert (took["accepted"], took["refused"]) == (2, [])
        assert service.served["load"].stream.items["b"].rows.last == now // 60 - 2
        monkeypatch.setattr(module.time, "time", lambda: system() + 86_400)  # and forth, for a moment
        assert service.now() > (now + 80_000) * 1_000_000
        monkeypatch.setattr(module.time, "time", system)
        assert service.now() < (now + 200) * 1_000_000

    run(work, models={"load": model_dir})


def test_the_clock_closes_buckets_that_nobody_adds_to(model_dir: Path) -> None:
    async def work(service: Service) -> None:
        record = Record(service.now() - 120_000_000, [("a", service.now() - 90_000_000, {}, True)])
        await service.write(record)
        rows = service.served["load"].stream.items["a"].rows
        assert rows.last == rows.top

    run(work, models={"load": model_dir})


def test_reload_swaps_only_what_has_forecast(model_dir: Path, moody: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(model_dir, path)

    async def work(service: Service) -> None:
        await service.observe(rows(*range(40)))
        before, old = forecast(service), service.served["load"]
        (path / "model.safetensors").write_bytes(b"broken")
        with pytest.raises(ModelError):
            await service.reload("load")
        shutil.rmtree(path)
        with pytest.raises(ModelError):
            await service.reload("load")
        assert service.served["load"] is old
        assert forecast(service) == before
        shutil.copytree(model_dir, path)
        observing = [asyncio.create_task(service.observe(rows(number))) for number in range(40, 60)]
        new = await service.reload("load")
        await asyncio.gather(*observing)
        assert service.served["load"] is new is not old
        assert new.stream.items["a"].rows.last == START // STEP + 59
        assert not service.warnings
        alone = Service(service.config)
        for number in range(60):
            one = row(number)
            alone.served["load"].stream.add("a", int(one.time) * 1_000_000, one.values)  # type: ignore[arg-type]
        alone.served["load"].stream.update()
        assert forecast(service) == forecast(alone)
        assert (
            new.stream.items["a"].live.scores()[0]["rows"] < 30
        )  # what the old one forecast is not its merit

    run(work, models={"load": path})


def test_reload_of_a_model_of_other_channels_says_so(
    model_dir: Path, covariates_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    shutil.copytree(model_dir, path)

    async def work(service: Service) -> None:
        await service.observe(rows(0))
        shutil.rmtree(path)
        shutil.copytree(covariates_dir, path)
        await service.reload("load")
        assert not service.served["load"].stream.items
        assert "its rows begin anew" in service.state()["warnings"][0]

    run(work, models={"load": path})


def test_a_model_that_gives_no_number_is_not_swapped_in(
    model_dir: Path, moody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(service: Service) -> None:
        old = service.served["moody"]
        monkeypatch.setattr(
            Moody,
            "predict",
            lambda self, batch: Prediction(LastValue.predict(self, batch).point_BHC * np.nan),
        )
        with pytest.raises(ModelError):
            await service.reload("moody")
        assert service.served["moody"] is old

    run(work, models={"moody": moody})


def test_stopping_answers_what_is_in_flight(model_dir: Path, tmp_path: Path) -> None:
    """Whoever writes the records, a client or the clock, the stop waits for it."""

    async def main() -> Any:
        service = Service(ServeConfig(models={"load": model_dir}, state=tmp_path / "state"))
        await service.start()
        asking = [asyncio.create_task(service.observe(rows(number))) for number in range(5)]
        await asyncio.sleep(0)
        writing = asyncio.create_task(service._write_all())  # as the clock does
        await asyncio.sleep(0)
        await service.stop()
        await writing
        return [task.result()["durable"] for task in asking if task.done()]

    assert asyncio.run(main()) == [True] * 5
