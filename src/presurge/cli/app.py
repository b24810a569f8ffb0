"""The table of commands, and what happens to an error on its way to the user."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from presurge import __version__
from presurge.cli import data, demo, evaluate, predict, prepare, serve, train, tune
from presurge.cli.command import command
from presurge.cli.console import console, flag
from presurge.errors import PresurgeError, spelled

USER_ERROR = 2
INTERNAL_ERROR = 1
INTERRUPTED = 130

_ORDER = ("demo", "data", "prepare", "train", "tune", "backtest", "evaluate", "predict", "serve", "models")


class _InOrder(TyperGroup):
    """Lists its commands in the order of work; typer itself puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_ORDER)


app = typer.Typer(
    name="presurge",
    cls=_InOrder,
    help="Forecast load before it arrives: from request logs to a trained, measured and reported forecast.",
    epilog="Start with `presurge demo`. Each command has its own help: `presurge train --help`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda t: t.replace("_", "-"),
    },
)


def _version(on: bool) -> None:
    if on:
        console.result(f"presurge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


app.add_typer(data.app)
app.add_typer(prepare.app)
for one in (
    demo.demo,
    train.train,
    tune.tune,
    evaluate.backtest,
    evaluate.evaluate,
    predict.predict,
    serve.serve,
    train.models,
):
    command(app)(one)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a user's error, 130 for Ctrl-C, 1 for a bug."""
    arguments = _spoken_booleans(sys.argv[1:] if argv is None else argv)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # more threads only cost time at these matrix sizes
    console.level, console.debug, console.flags = "normal", False, {}
    _show_warnings()
    try:
        code = app(arguments, standalone_mode=False)
    except PresurgeError as error:
        return _report(f"Error: {error.render(flag)}", USER_ERROR)
    except KeyboardInterrupt:  # TrainingInterrupted is one too
        return _report("Interrupted.", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):
            error.show()
            return int(error.exit_code)
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the latter is torch's
            hint = "Use a smaller model, a shorter --context or fewer rows."
            return _report(f"Error: this machine does not have enough memory.\n  {hint}", USER_ERROR)
        message = f"Error in Presurge itself: {type(error).__name__}: {error}\n  Run again with --debug and report it."
        return _report(message, INTERNAL_ERROR)
    return code if isinstance(code, int) else 0


def _report(message: str, code: int) -> int:
    if console.debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code


def _show_warnings() -> None:
    """Send the log of the package to stderr: warnings (a logger that could not log in, say), and the rest with --verbose."""
    package = logging.getLogger("presurge")
    package.setLevel(logging.NOTSET)  # of a former command in this process; --verbose lowers it
    if not any(isinstance(handler, _Warnings) for handler in package.handlers):
        package.addHandler(_Warnings(logging.INFO))


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = spelled(record.getMessage(), flag)
        if record.levelno < logging.WARNING:
            console.say(text, level="verbose")
        elif record.levelno < logging.ERROR:  # an error reaches the user as an exception
            console.warn(text)


def _spoken_booleans(argv: Sequence[str]) -> list[str]:
    """Turn ``--individual true`` and ``--use_wandb=false``, as the training guide writes them, into plain flags."""
    opposite = {"--individual": "--shared", "--use-wandb": "--no-wandb"}
    arguments: list[str] = []
    for word in argv:
        flag, _, value = word.replace("_", "-").partition("=")
        if arguments and arguments[-1] in opposite and word.lower() in ("true", "false"):
            value, flag = word, arguments.pop()
        if flag in opposite and value.lower() in ("", "true", "false"):
            arguments.append(opposite[flag] if value.lower() == "false" else flag)
        else:
            arguments.append(word)
    return arguments
