"""Rows from a Prometheus server that is asked for each bucket, so that nothing has to be pushed."""

import asyncio
import logging
import time

from presurge.errors import ConfigError, DataError, PresurgeError
from presurge.series.frequency import SECOND
from presurge.serving.bodies import Record
from presurge.serving.config import PollConfig
from presurge.serving.service import Service
from presurge.sources.prometheus import Query, answers

TIMEOUT_SECONDS = 10.0
_AGAIN = 5.0
_log = logging.getLogger("presurge.serving")

Found = dict[tuple[int, str], dict[str, float | None]]
"""(The moment at which a bucket ends, item) -> channel -> value."""


class Poller:
    """Asks one server for the rows of one model.

    Args:
        service: Takes the rows in.
        config: The server and its queries.
        name: The model.

    Raises:
        ConfigError: The queries are not the channels that the model reads.
    """

    def __init__(self, service: Service, config: PollConfig, name: str) -> None:
        self._service, self._config, self._name = service, config, name
        self._source = f"{config.url} for {name}"
        self._step = self._asked = 0  # the end of the last bucket that was asked for
        needed = [channel.name for channel in service.served[name].stream.shape.channels]
        if {*needed} != {*config.queries}:
            raise ConfigError(
                f"the queries are for {', '.join(config.queries)}, and model {name!r} reads {', '.join(needed)}",
                setting="prometheus",
                hint="Write one query for each of these channels.",
            )
        service.sources[self._source] = "not asked yet"

    async def run(self) -> None:
        """Ask for every bucket as soon as it is over, and after an outage for those that were missed."""
        while True:
            stream, delay = self._service.served[self._name].stream, self._config.delay / SECOND
            step = max(stream.shape.step // SECOND, 1)
            end = int(time.time() - delay) // step * step
            # From the beginning after a reload with another step; again where the clock jumped back.
            self._asked, self._step = min(self._asked, end) if step == self._step else 0, step
            if end > self._asked:
                await self._ask(end)
            wait = self._asked + step + delay - time.time() if self._asked == end else _AGAIN
            await asyncio.sleep(min(max(wait, 0.05), step))

    async def _ask(self, end: int) -> None:
        """Ask for the buckets that end between the last that was asked for and a moment, and take their rows in."""
        service, step = self._service, self._step
        stream = service.served[self._name].stream
        start = max(self._asked + step, end - step * (stream.shape.rows - 1))
        try:
            found = await asyncio.to_thread(self._found, start, end)
            empty = dict.fromkeys(self._config.queries)
            last = {name: item.rows.start(item.rows.last) for name, item in stream.items.items()}
            rows = [
                (item, at, empty | values, False)
                for (moment, item), values in sorted(found.items())
                if values and (at := (moment - step) * SECOND) > last.get(item, -1)
            ]
            for first in range(0, len(rows), service.config.max_windows):
                part = rows[first : first + service.config.max_windows]
                await service.write(Record(service.now(), part, self._name))
        except Exception as error:  # whatever it is, the next rows are asked for
            if not isinstance(error, PresurgeError):
                _log.exception("asking for rows failed")
            service.sources[self._source] = ". ".join(line.strip() for line in str(error).splitlines())
            return
        silent = [channel for channel in empty if all(channel not in values for values in found.values())]
        service.sources[self._source] = f"no value of {', '.join(silent)}" if silent else ""
        self._asked = end

    def _found(self, start: int, end: int) -> Found:
        """The values of the buckets that end between two moments: a sample at the end of a bucket belongs to it.

        Raises:
            FetchError: The server cannot be reached, or refuses a query.
            DataError: Several series of a query belong to one item.
        """
        found: Found = {}
        server, label = self._config, self._config.item
        for channel, text in server.queries.items():
            query = Query(
                url=server.url,
                query=text,
                start=start,
                end=end,
                step=self._step,
                token_file=server.token_file,
            )
            seen: dict[str, dict[str, str]] = {}
            for series, _ in answers(query, TIMEOUT_SECONDS):
                for labels, points in series:
                    item = labels.get(label, "") if label else ""
                    if seen.setdefault(item, labels) != labels:
                        raise DataError(
                            f"{text} gives several series" + (f" of {label} {item!r}" if label else ""),
                            where=server.url,
                            hint=f"Add them up: sum by ({label or 'LABEL'}) (...), with that label as `item`.",
                        )
                    for moment, value in points:
                        own = found.setdefault((round(moment), item), {})
                        if abs(value) <= 3.4e38:  # and not NaN
                            own[channel] = value
        return found
