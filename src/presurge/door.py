"""The Python door: fit, forecast and backtest from a frame in memory, a panel, or a file.

A frame that comes back is of the kind that went in, pandas or Polars.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
import polars as pl

from presurge.config import validated
from presurge.errors import ConfigError, HistoryError, required
from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.report.tables import text_evaluation
from presurge.evaluation.rolling import blocks_of
from presurge.frames import Columns, Form, opened, reading_of, table_of
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.series.forecast import Forecast
from presurge.series.frequency import DAY, WEEK, format_step
from presurge.series.holidays import of_holidays
from presurge.series.panel import Panel
from presurge.sources.frames import Frame
from presurge.sources.table import DUPLICATES
from presurge.workflows import evaluate as workflow
from presurge.workflows.config import TrainConfig, check_model, resolve_config, resolve_each
from presurge.workflows.dataset import TableConfig, load_dataset
from presurge.workflows.predict import GapRule, PredictConfig, forecast_items, load_future, load_history
from presurge.workflows.train import finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Data = Frame | Panel | Path | str
"""A pandas or Polars frame, a panel, or the path of a table, a trace or a prepared directory."""

_LONGEST, _SHORTEST, _USUAL = 336, 48, 120
_ASKED = {"horizon", "fill_gaps", "max_age", "levels"}
"""What ``predict`` takes beside a future and the columns: settings of ``PredictConfig``."""


def read(data: Data, **columns: Unpack[Columns]) -> Panel:
    """Read a frame, a table, a request trace, a minute file or a prepared directory as a panel.

    Args:
        data: The frame or the path.
        columns: Which columns of a table are what; see ``presurge.Columns``.

    Raises:
        DataError: The data cannot be read.
    """
    dataset, _ = _dataset(data, columns)
    return dataset.panel


def fit(
    data: Data,
    *,
    model: str = "auto",
    horizon: int = 3,
    context: int | None = None,
    season: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **columns: Unpack[Columns],
) -> "Model":
    """Train a model and measure it beside the baselines on the last fifth of the rows; then fit ``auto`` to all rows.

    Args:
        data: A row for each time and item: a frame, a panel, or the path of a file or a prepared directory.
        model: Name of the model; ``auto`` chooses one by validation.
        horizon: Rows to forecast.
        context: Rows that a forecast reads (default: a week or a day of them, if these are at most 336, else 120).
        season: Period of the seasonal baseline, such as ``"1d"`` (default: detected).
        settings: Settings of the model, such as ``ridge``, and of the training, such as ``epochs``.
        progress: Called with the phase and its share done.
        columns: Which columns of a table are what; see ``presurge.Columns``.

    Raises:
        DataError: The data cannot be read, or hold too few rows.
        ConfigError: There is no such model, column or setting, or a value is impossible.
        MissingDependencyError: The model needs a package that is not installed.
    """
    dataset, form = _dataset(data, columns)
    training, own = _sorted(settings)
    given = {"model": model, "horizon": horizon, "context": context, "season": season}
    config = resolve_config({**given, **training, "model_settings": own})
    if context is None:
        config = config.model_copy(update={"context": usual_context(dataset, config.horizon)})
    check_model(config)
    fitted = workflow.fit(dataset, config, progress=progress)
    done = finish(fitted, dataset, config, progress=progress)
    record = done.record | {"reading": list(dataset.notes)}
    past = _Past(dataset.panel, form, TableConfig(**dataset.table) if dataset.table else None)
    return Model(forecaster=done.model, record=record, evaluation=done.evaluation, history=past)


def backtest(
    data: Data,
    *,
    models: Sequence[str] | str = ("auto",),
    horizon: int = 3,
    context: int | None = None,
    cutoffs: int | None = None,
    refit: int | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **columns: Unpack[Columns],
) -> "Backtest":
    """Train models on the first rows and score their forecasts of the last fifth, all from the same origins.

    Args:
        data: A row for each time and item: a frame, a panel, or the path of a file or a prepared directory.
        models: Names of the models; the baselines are always added.
        horizon: Rows to forecast.
        context: Rows that a forecast reads (default: as ``fit``).
        cutoffs: Number of evenly spaced origins (default: every row).
        refit: Number of origins after which all models are trained anew, on all rows up to there (default: never).
        settings: Settings of every model that has them, or ``"gru:epochs"`` for one; ``stride`` sets the rows between origins.
        progress: Called with the phase and its share done.
        columns: Which columns of a table are what; see ``presurge.Columns``.

    Raises:
        DataError: The data cannot be read, or hold too few rows.
        ConfigError: There is no such model, column or setting, or the cutoffs do not fit into the rows.
    """
    dataset, form = _dataset(data, columns)
    names = [models] if isinstance(models, str) else list(models)
    training, own = _sorted(settings)
    stride = own.pop("stride", 1)
    given, parts = {"horizon": horizon, "context": context, **training}, list[pl.DataFrame]()
    configs = list(resolve_each(names, given, own).values())
    if context is None:
        usual = usual_context(dataset, configs[0].horizon)
        configs = [config.model_copy(update={"context": usual}) for config in configs]
    origins = {"stride": stride, "cutoffs": cutoffs, "refit": refit}
    found = workflow.backtest(dataset, configs, **origins, keep=parts.append, progress=progress)
    table = pl.concat(parts, how="diagonal")
    scores = [
        {"channel": channel, "model": model, **values}
        for channel, models_of in found.averages().items()
        for model, values in models_of.items()
    ]
    items = [
        {"item": item, "channel": channel, "model": model, **values}
        for model, of_items in found.item_metrics().items()
        for item, channels in of_items.items()
        for channel, values in channels.items()
    ]
    return Backtest(
        evaluation=found,
        scores=form.write(_ranked(scores), named=True),
        item_scores=form.write(_ranked(items), named=True),
        forecasts=form.write(table),
        _table=table,
        _dataset=dataset,
    )


def load(directory: Path | str) -> "Model":
    """Load a model that ``save`` or ``presurge train`` wrote: a model directory or a run directory.

    Raises:
        ModelError: The directory is damaged, unsafe, of a newer format, or holds no forecaster.
    """
    forecaster, config = registry.load(Path(directory))
    return Model(forecaster=forecaster, record=config["training"])


def usual_context(dataset: Dataset, horizon: int) -> int:
    """Rows to read before a forecast: a week or a day of them, if these are at most 336, or else 120.

    At least twice the horizon, and at most half of the training rows of a middling item.
    """
    seasons = (period // dataset.panel.step for period in (WEEK, DAY))
    rows = next((rows for rows in seasons if _SHORTEST <= rows <= _LONGEST), _USUAL)
    learned = int(np.median(dataset.train.last - dataset.train.first))
    return max(1, min(max(rows, 2 * horizon), learned // 2))


def _dataset(data: Data, columns: Columns) -> tuple[Dataset, Form]:
    """Read data as a caller says, and how the caller writes them."""
    source = opened(data)
    table = table_of(source, columns)
    holidays = of_holidays(columns.get("holidays"))
    dataset = load_dataset(source, table, step=columns.get("step"), known=holidays)
    _warn_of_duplicates(dataset.notes)
    return dataset, Form.of(data, source, table)


def _warn_of_duplicates(notes: Iterable[str]) -> None:
    for note in notes:
        if note.startswith(DUPLICATES):
            warnings.warn(note, stacklevel=4)


def _ranked(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Scores as a frame, the best model of each channel and item first."""
    frame = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col(pl.Float64).fill_nan(None))
    keys = [name for name in ("channel", "item", "wql", "wape") if name in frame.columns]
    return frame.sort(keys, nulls_last=True, maintain_order=True)


def _sorted(settings: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the training, and those of the models; what is an argument of its own is neither."""
    settings = dict(settings or {})
    known = TrainConfig.model_fields.keys() - {"model", "horizon", "context"}
    training = {key: settings.pop(key) for key in known & settings.keys()}
    return training, settings


class _Past(NamedTuple):
    """A history, how it was written, and how it was read."""

    panel: Panel
    form: Form
    table: TableConfig | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Model:
    """A trained forecaster and how it was trained.

    Attributes:
        forecaster: Forecasts many windows of a panel at once; see ``presurge.models.forecaster``.
        record: How and on what it was trained.
        evaluation: Its scores beside the baselines, on rows that it had not seen; None if it was loaded.
        history: The series that it was fitted to, which ``predict`` continues by default; None if it was loaded.
    """

    forecaster: Forecaster
    record: dict[str, Any]
    evaluation: Evaluation | None = None
    history: _Past | None = None

    def predict(
        self,
        data: Data | None = None,
        *,
        horizon: int | None = None,
        future: Data | None = None,
        fill_gaps: GapRule = "error",
        max_age: str | None = None,
        levels: Sequence[float] | None = None,
        **columns: Unpack[Columns],
    ) -> Frame:
        """Forecast what follows the last row of every item: a frame in long form, whose ``plot()`` draws it.

        Its columns are ``item`` (where items have names), ``timestamp``, ``channel``, ``mean``, ``median`` and the quantiles
        ``q0.1`` ...; or ``unique_id``, ``ds``, ``mean`` ... where Nixtla's long format came in. Times and items have the type
        that they came in. A warning names the items that cannot be forecast, and what else you must know.

        Args:
            data: The history, read as the training data were; by default these themselves.
            horizon: Rows to forecast, at most the model's horizon, which is the default.
            future: The known covariates of the rows to forecast, as many as the model's horizon.
            fill_gaps: Whether an item with a gap in the context has no forecast (``error``), or the gap is interpolated.
            max_age: Largest age of the last row of an item, such as ``"15m"``; an older item has no forecast.
            levels: Levels of the quantiles (default: those that were calibrated).
            columns: What differs from the training data in the names or types of columns.

        Raises:
            HistoryError: No item can be forecast, because the history is too short or has gaps, or the future does not fit.
        """
        config = {"horizon": horizon, "fill_gaps": fill_gaps, "max_age": max_age, "levels": levels}
        made, past = self._forecast(data, {**config, "future": future, **columns})
        reasons = [f"no forecast of {item!r}: {reason}" for item, reason in made.missing.items()]
        for sentence in (*reasons, *made.flags):
            warnings.warn(sentence, stacklevel=2)
        return past.form.write(made.to_frame(), lambda: made.plot(past.panel))

    def forecast(self, data: Data | None = None, **asked: Any) -> Forecast:
        """As ``predict``, but as arrays, with the peak over the horizon, flags, and a JSON form (``to_dict``).

        Args:
            data: As for ``predict``.
            asked: The other arguments of ``predict``.
        """
        return self._forecast(data, asked)[0]

    def _forecast(self, data: Data | None, asked: dict[str, Any]) -> tuple[Forecast, _Past]:
        config = validated(PredictConfig, {key: asked.pop(key) for key in _ASKED & asked.keys()})
        future, past = asked.pop("future", None), self.history
        columns = reading_of(asked)
        if data is not None:
            source = opened(data)
            series = load_history(source, self.forecaster, self.record, columns)
            _warn_of_duplicates(series.notes)
            past = _Past(series.panel, Form.of(data, source, series.table), series.table)
        elif past is None:
            what = "a model that was loaded has no history of its own"
            raise HistoryError(what, setting="data", hint="Give the rows before those to forecast.")
        if future is not None:
            future = opened(future)
            if not isinstance(future, Panel):
                future = load_future(future, self.forecaster, past.table)
        return forecast_items(self.forecaster, past.panel, config, future=future), past

    def save(self, directory: Path | str) -> None:
        """Write the model directory, which ``presurge.load`` and every command of ``presurge`` read.

        Raises:
            ConfigError: The directory contains something else.
            StorageError: The file system refused.
        """
        self.forecaster.save(Path(directory), training=self.record)

    @property
    def notes(self) -> tuple[str, ...]:
        """How the data were read, what was filled and added up, and what the fit has to say."""
        return (*self.record.get("reading", ()), *self.record.get("notes", ()))

    def __repr__(self) -> str:
        model, spec, rows = self.forecaster, self.forecaster.fitted_spec(), self.record.get("rows", {})
        steps = f"{model.horizon} rows of {format_step(spec.step)} ahead, from {model.context}"
        lines = [f"{model.name}: {steps}", f"  forecasts  {_few(channel.name for channel in spec.targets)}"]
        covariates = [channel.name for channel in spec.channels if channel.role != "target"]
        for word, names in (("reads", (*covariates, *spec.features)), ("items", spec.items)):
            if any(names):
                lines.append(f"  {word:<9}  {_few(names)}")
        if rows:
            lines.append(
                f"  fitted to  {rows['fitted']:,} rows; scored on {rows['test']:,} by a fit that had not seen them"
            )
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self.record.get("verdicts", ()))])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Backtest:
    """The scores of several models and all their forecasts, from the same origins.

    Attributes:
        evaluation: The scores as arrays, and the verdicts.
        scores: A row for each channel and model, the best first, with a column for each metric.
        item_scores: The same for each item, if there are several.
        forecasts: A row for each item, origin, time, channel and model: ``actual``, ``mean``, ``median``, ``q0.1`` ...; in
            Nixtla's long format the origin is ``cutoff`` and the actual value ``y``.
    """

    evaluation: Evaluation
    scores: Frame
    item_scores: Frame
    forecasts: Frame
    _table: pl.DataFrame
    _dataset: Dataset

    def plot(self, model: str | None = None, item: str | None = None) -> "Figure":
        """Draw the forecasts of a model against what came, one after another, none over the other.

        Args:
            model: Its name (default: the first that is no baseline).
            item: Name of an item (default: the first).

        Raises:
            ConfigError: There is no such model or item.
            MissingDependencyError: Matplotlib is not installed.
        """
        with required("matplotlib", purpose="a plot", extra="plots"):
            from presurge.evaluation.report.plots import forecast_figure
            from presurge.series.plots import drawn
        models, panel = self.evaluation.models, self._dataset.panel
        own = [name for name in models if name not in self.evaluation.baselines] or models
        model, item = model or own[0], item or panel.items[0]
        for setting, name, names in (("model", model, models), ("item", item, panel.items)):
            if name not in names:
                hint = f"Choose one of: {', '.join(names)}."
                raise ConfigError(f"there is no {setting} {name!r}", setting=setting, hint=hint)
        table = self._table.filter(pl.col("model") == model)
        blocks = blocks_of(table, panel, self._dataset.test, panel.items.index(item))

        def titled() -> "Figure":
            figure = forecast_figure(blocks)
            for axes in figure.axes:
                axes.set_title(f"{model}: {axes.get_title(loc='left')}{f' of {item}' if item else ''}")
                if np.isnan(blocks.mean_NC).any():
                    axes.lines[-1].set(marker="o", ms=3)  # forecasts with rows between them
            return figure

        return drawn(titled)

    def __repr__(self) -> str:
        return text_evaluation(self.evaluation)


def _few(names: Iterable[str], most: int = 6) -> str:
    """The first names, and how many there are if that is not all."""
    names = list(names)
    return ", ".join(names[:most]) + (f" ... ({len(names)} in all)" if len(names) > most else "")
