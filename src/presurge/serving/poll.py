"""Rows from a Prometheus server that is asked for each bucket, so that nothing has to be pushed."""

import asyncio
import time
from typing import Any

import polars as pl

from presurge.errors import DataError, PresurgeError
from presurge.series.frequency import SECOND, parse_step
from presurge.serving.bodies import Record
from presurge.serving.config import PollConfig
from presurge.serving.service import Service
from presurge.sources.prometheus import Query, fetch


class Poller:
    """Asks one server for the rows of its queries.

    Args:
        service: Takes the rows in.
        config: The server and its queries.
    """

    def __init__(self, service: Service, config: PollConfig) -> None:
        self._service, self._config = service, config
        served = service.named(config.model) if config.model else next(iter(service.served.values()))
        self._step = served.model.fitted_spec().step // SECOND
        rows = config.backfill if config.backfill is not None else served.stream.shape.rows
        self._most = max(rows, 1)
        self._delay = 0 if config.delay == "0s" else parse_step(config.delay) // SECOND
        self._asked = 0  # the end of the last bucket that was asked for
        service.sources[config.url] = "not asked yet"

    async def run(self) -> None:
        """Ask for every bucket as soon as it is over, and after an outage for those that were missed."""
        while True:
            now = int(time.time())
            end = (now - self._delay) // self._step * self._step
            if end > self._asked:
                await self._ask(max(self._asked + self._step, end - self._step * (self._most - 1)), end)
            wait = self._asked + self._step + self._delay - time.time() if self._asked == end else 5.0
            await asyncio.sleep(min(max(wait, 0.2), self._step))

    async def _ask(self, start: int, end: int) -> None:
        """Ask for the buckets that end between two moments, and take their rows in."""
        try:
            rows = await asyncio.to_thread(self._rows, start, end)
            await self._service.write(Record(time.time_ns() // 1000, rows, self._config.model))
        except PresurgeError as error:
            self._service.sources[self._config.url] = str(error).replace("\n", " ")
        else:
            self._service.sources[self._config.url], self._asked = "", end

    def _rows(self, start: int, end: int) -> list[tuple[str, int, dict[str, float | None], bool]]:
        """A row for each item and bucket: a sample at the end of a bucket belongs to it.

        Raises:
            FetchError: The server cannot be reached, or refuses a query.
            DataError: No query has a value.
        """
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for channel, query in self._config.queries.items():
            asked = Query(
                url=self._config.url,
                query=query,
                start=start,
                end=end,
                step=self._step,
                token_file=self._config.token_file,
            )
            for item, moment, value in self._samples(fetch(asked).frame):
                found.setdefault((item, (moment - self._step) * SECOND), {})[channel] = value
        empty = dict.fromkeys(self._config.queries)
        return [
            (item, at, empty | values, False)
            for (item, at), values in sorted(found.items(), key=lambda one: one[0][1])
        ]

    def _samples(self, frame: pl.DataFrame) -> list[tuple[str, int, float]]:
        """Item, moment and value of each sample of an answer, which has one value column."""
        value = [name for name in frame.columns if name not in ("time", "item")]
        if len(value) != 1:
            raise DataError(
                f"a query gives {len(value)} metrics",
                where=self._config.url,
                hint="Write one query a channel.",
            )
        items = frame["item"] if "item" in frame.columns else pl.repeat("", len(frame), eager=True)
        rows = zip(items, frame["time"], frame[value[0]], strict=True)
        return [(item, round(moment), number) for item, moment, number in rows if number is not None]
