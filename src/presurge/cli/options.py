"""The options that several commands share."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from presurge.cli.command import Options
from presurge.cli.console import console, flag
from presurge.errors import ConfigError, spelled

if TYPE_CHECKING:
    from presurge.series.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Common(Options):
    """Common options.

    Attributes:
        json: Print one JSON object instead of text.
        quiet: Print results only.
        verbose: Print more: the log, with the candidates of every choice and what each fit took.
        debug: Show the traceback of an error.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    def begin(self) -> None:
        """Tell the console how much to print."""
        console.level = "verbose" if self.verbose else "quiet" if self.quiet else "normal"
        console.debug = self.debug
        if self.verbose:
            logging.getLogger("presurge").setLevel(logging.INFO)


@dataclass(frozen=True, kw_only=True)
class CommonWithModels(Common):
    """Common options.

    Attributes:
        plugin: Run a Python file that registers models of your own; repeatable. Also read from $PRESURGE_PLUGINS.
    """

    plugin: Annotated[
        list[Path], typer.Option("--plugin", metavar="FILE.py", envvar="PRESURGE_PLUGINS", show_envvar=False)
    ] = field(default_factory=list)

    def begin(self) -> None:
        """Register the models of the plugins."""
        super().begin()
        if self.plugin:
            from presurge.models.registry import load_plugin

            for file in self.plugin:
                load_plugin(file)


@dataclass(frozen=True, kw_only=True)
class ModelDirectory(Options):
    """Arguments.

    Attributes:
        model_dir: Directory that `presurge train --out` wrote.
    """

    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR")]


@dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """Reading a table.

    Attributes:
        time: Column with the timestamps.
        value: Columns to forecast, or channels of a prepared directory or trace.
        known: Columns with covariates whose future is known, such as a price or a holiday.
        observed: Columns with covariates that are known only up to now.
        item: Column with the item names, for a table in long form.
        step: Time between two rows, such as 1s, 60s, 5m, 1h, 1d or 1w (default: 60s for a trace, inferred for a table).
        kind: Whether a column is a count or a gauge (default: count if its values are whole numbers, none is negative and its name is not that of a level such as gpu_temp).
        fill: How to fill times without a row; auto means zero for counts and missing for gauges (default: auto).
        now: What time it is: a date and time, seconds since 1970, or now-1h; later rows and counts whose step is not over are left out (default: the system clock, for stamps close to it).
    """

    time: Annotated[str | None, "COL"] = None
    value: Annotated[list[str], "COL[,COL...]"] = field(default_factory=list)
    known: Annotated[list[str], "COL[,COL...]"] = field(default_factory=list)
    observed: Annotated[list[str], "COL[,COL...]"] = field(default_factory=list)
    item: Annotated[str | None, "COL"] = None
    step: Annotated[str | None, "STEP"] = None
    kind: Annotated[list[str], "COL=count|gauge"] = field(default_factory=list)
    fill: Literal["auto", "zero", "missing"] | None = None
    now: Annotated[str | None, "TIME"] = None

    def changes(self) -> dict[str, Any]:
        """The options that were given, by their names in ``TableConfig``.

        Raises:
            ConfigError: A kind is not ``COL=count`` or ``COL=gauge``.
        """
        kinds = {}
        for pair in (part for value in self.kind for part in value.split(",")):
            name, _, kind = pair.rpartition("=")
            if not name or kind not in ("count", "gauge"):
                raise ConfigError(
                    f"{pair!r} names no kind", setting="kind", hint="For example: `kind=cpu=gauge`"
                )
            kinds[name] = kind
        given = {
            "time": self.time,
            "values": listed(self.value, "value"),
            "known": listed(self.known, "known"),
            "observed": listed(self.observed, "observed"),
            "item": self.item,
            "step": self.step,
            "kinds": kinds,
            "fill": self.fill,
        }
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True, kw_only=True)
class Split(Options):
    """Splitting.

    Attributes:
        test_fraction: Share of the rows, at the end, that is only scored (default: the prepared split, or 0.2).
        validation_fraction: Share of the rows before the test rows that chooses settings (default: the prepared split, or 0.2).
    """

    test_fraction: float | None = None
    validation_fraction: float | None = None

    def fractions(self) -> dict[str, float | None]:
        """The fractions by name, None if not given."""
        return {"test_fraction": self.test_fraction, "validation_fraction": self.validation_fraction}


@dataclass(frozen=True, kw_only=True)
class SeriesOptions(TableOptions):
    """Reading a table.

    Attributes:
        holidays: Public holidays of a country as a covariate with a known future, such as DE, DE-BY or US@America/New_York (default time zone: UTC).
    """

    holidays: Annotated[str | None, "PLACE"] = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(Split, SeriesOptions):
    """Arguments.

    Attributes:
        data: A prepared directory, a request trace of a known format, or a table with --time and --value.
    """

    data: Annotated[Path, typer.Argument(metavar="DATA")]

    def load(self) -> "Dataset":
        """Load the data set, and print what reading it changed.

        Raises:
            ConfigError: The options contradict each other.
            DataError: The data cannot be read.
        """
        from presurge.series.frequency import format_step, parse_step
        from presurge.series.holidays import of_holidays
        from presurge.workflows.dataset import TableConfig, examined, load_dataset, load_series

        changes, config = self.changes(), None
        if self.time is not None:
            if not self.value:
                raise ConfigError(
                    "a table also needs `value`", setting="time", hint="For example: `value=requests`"
                )
            config = TableConfig(**changes)
        elif lonely := [f"`{name}`" for name in ("item", "kind", "fill") if getattr(self, name)]:
            raise ConfigError(
                f"{' and '.join(lonely)} cannot be used without `time` and `value`",
                hint="Name the columns of the table.",
            )
        series = load_series(examined(self.data), config, step=self.step, now=moment(self.now))
        if self.step is not None and series.panel.step != parse_step(self.step):
            what = f"the rows are {format_step(series.panel.step)} apart, not {self.step}"
            hint = "Leave it out, or make the series again with this step."
            raise ConfigError(what, setting="step", where=str(self.data), hint=hint)
        dataset = load_dataset(
            series,
            channels=changes.get("values"),
            known=(*changes.get("known", ()), *of_holidays(self.holidays)),
            observed=changes.get("observed", ()),
            test_fraction=self.test_fraction,
            validation_fraction=self.validation_fraction,
        )
        say_notes(dataset.notes)
        return dataset


def moment(text: str | None) -> int | None:
    """What time it is, in microseconds since the Unix epoch or on the clock of the data; None if not given.

    Raises:
        ConfigError: It is no time.
    """
    from presurge.series.frequency import SECOND
    from presurge.sources.prometheus import parse_moment

    return None if text is None else parse_moment(text, "now") * SECOND


def listed(texts: list[str], setting: str) -> tuple[str, ...]:
    """The names in comma-separated lists; none of no lists.

    Raises:
        ConfigError: There are lists, and they name nothing.
    """
    names = tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
    if texts and not names:
        raise ConfigError("names nothing", setting=setting, hint="Name at least one, or leave it out.")
    return names


def say_notes(notes: tuple[str, ...]) -> None:
    """Print what reading the data changed."""
    for note in notes:
        console.say(f"Note: {spelled(note, flag)}")


@dataclass(frozen=True, kw_only=True)
class Windows(Options):
    """Windows.

    Attributes:
        context: Rows of history that a forecast reads (default: the preset's, or 120).
        horizon: Rows to forecast (default: the preset's, or 3).
    """

    context: Annotated[int | None, "L", "--context", "--sequence-length"] = None
    horizon: Annotated[int | None, "H", "--horizon", "--prediction-horizon"] = None


@dataclass(frozen=True, kw_only=True)
class ConfigFile(Options):
    """Configuration.

    Attributes:
        preset: Context, horizon and model of the training guide: minute-3 (120 and 3 rows) or long-20 (100 and 20 rows), with dlinear unless --model names another.
        config: JSON or YAML file with settings; options on the command line override it.
    """

    preset: str | None = None
    config: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Learning(Options):
    """Learning by gradient.

    Attributes:
        epochs: Maximum number of epochs (default: 150 unless the model sets its own).
        seed: Random seed for weights, shuffling and dropout (default: 0).
        device: Device to train on (default: auto).
        allow_fallback: Use the CPU if the device does not exist.
    """

    epochs: int | None = None
    seed: int | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    allow_fallback: Annotated[bool | None, "--allow-fallback"] = None


@dataclass(frozen=True, kw_only=True)
class LearningRate(Learning):
    """Learning by gradient.

    Attributes:
        batch_size: Windows per batch (default: 128 unless the model sets its own).
        learning_rate: Peak learning rate (default: 0.001 unless the model sets its own).
        patience: Epochs without a better validation loss before training stops (default: 15).
        threads: CPU threads for torch (default: 1).
    """

    batch_size: int | None = None
    learning_rate: float | None = None
    patience: Annotated[int | None, "--patience", "--early-stopping-patience"] = None
    threads: int | None = None


def setting_pairs(texts: list[str]) -> dict[str, Any] | None:
    """The pairs KEY=VALUE of ``--set``, with values read as JSON if they are JSON; None if there are none.

    Raises:
        ConfigError: One of them is not a pair.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(
                f"{text!r} is not KEY=VALUE", setting="set", hint="For example: `set=ridge=100`"
            )
        try:
            pairs[key] = json.loads(value)
        except ValueError:
            pairs[key] = value
    return pairs or None
