"""What commands print: results to stdout, everything else to stderr, as much as the user asked for."""

import json
import math
import shutil
import sys
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from presurge.errors import plain

Level = Literal["quiet", "normal", "verbose"]

_FLAGS = {"settings": "set", "model_settings": "set", "values": "value", "kinds": "kind"}
"""Settings that have another name on the command line."""

_SECONDS_BETWEEN_LINES = 10.0
"""How often a long phase reports its progress if stderr is not a terminal."""


class Console:
    """Printing of one process; the common options of every command set its fields."""

    def __init__(self) -> None:
        self.level: Level = "normal"
        self.debug = False
        self.flags: dict[str, str] = {}

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 if stdout is none, unless the variable COLUMNS says otherwise."""
        return shutil.get_terminal_size().columns

    def say(self, text: str, *, level: Level = "normal") -> None:
        """Write a message to stderr unless the level suppresses it."""
        if self.level != "quiet" and (level != "verbose" or self.level == "verbose"):
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Write a warning to stderr, even with ``--quiet``."""
        print(f"Warning: {text}", file=sys.stderr)

    def result(self, text: str) -> None:
        """Write a result to stdout."""
        print(text)

    def result_json(self, value: Any) -> None:
        """Write one JSON object to stdout; non-finite numbers become null."""
        print(json.dumps(finite(value), indent=2, ensure_ascii=False))

    @contextmanager
    def progress(self) -> Iterator["ProgressBar"]:
        """A progress display on stderr: a moving bar on a terminal, one line for each phase elsewhere."""
        bar = ProgressBar(self)
        try:
            yield bar
        finally:
            bar.close()


class ProgressBar:
    """Callable with (phase, share done, detail); cheap enough to be called often."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = ""
        self._began = self._told = self._heard = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, phase: str, share: float, detail: str = "") -> None:
        """Show that ``share`` (0 to 1) of ``phase`` is done."""
        if self._console.level == "quiet":
            return
        if phase != self._phase:
            self._finish()
            # A phase also counts the time before its first report, such as an import.
            self._phase, self._began, self._told = phase, self._heard, self._heard
            self._start(phase)
        self._heard = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=min(share, 1.0), detail=detail)
        elif time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            self._console.say(f"{phase}: {share:.0%}{', ' if detail else ''}{detail}, {self._left(share)}")

    def close(self) -> None:
        """Finish the last phase."""
        self._finish()
        self._phase = ""

    def _left(self, share: float) -> str:
        seconds = (self._told - self._began) * (1 - share) / max(share, 1e-9)
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"

    def _start(self, phase: str) -> None:
        if not sys.stderr.isatty():
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        text, detail = TextColumn("{task.description}"), TextColumn("{task.fields[detail]}")
        self._bar = Progress(
            text, BarColumn(), TimeRemainingColumn(), detail, console=RichConsole(stderr=True), transient=True
        )
        self._bar.start()
        self._task = self._bar.add_task(phase, total=1.0, detail="")

    def _finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._phase:
            self._console.say(f"{self._phase}: done in {self._heard - self._began:.1f} s")


def finite(value: Any) -> Any:
    """The value with every NaN and infinity replaced by None: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """A plain table; ``sides`` has ``<`` for each column aligned left and ``>`` for each aligned right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sides.endswith("<"):
        widths[-1] = len(header[-1])  # the text at the end of a line may be long

    def line(cells: Sequence[str]) -> str:
        columns = zip(cells, sides, widths, strict=True)
        return "  ".join(f"{cell:{side}{width}}" for cell, side, width in columns).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def flag(setting: str, value: str | None = None) -> str:
    """Spell a setting as the running command takes it: ``--horizon``, ``--step 60s``, or ``--set ridge=0.1`` for a model's own."""
    head, _, key = setting.partition(".")
    name = _FLAGS.get(head, head)
    if name == "model" and "models" in console.flags:
        name = "models"
    if name in console.flags and not (name == "set" and key):
        return console.flags[name] if value is None else f"{console.flags[name]} {value}"
    if "config" in console.flags and head in _trainer_settings():
        return f"{plain(setting, value)} in the {console.flags['config']} file"
    if "set" in console.flags:
        return f"--set {key or setting}={'...' if value is None else value}"
    return plain(setting, value)


def _trainer_settings() -> Container[str]:
    """Settings of the trainer; those without a flag can only stand in a file."""
    from presurge.training.config import TrainerConfig

    return TrainerConfig.model_fields


console = Console()
"""The console of this process."""
