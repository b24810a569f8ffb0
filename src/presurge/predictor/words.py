"""Errors of the rooms below in the words of this interface: their hints speak of options of the command line."""

from collections.abc import Iterator
from contextlib import contextmanager

from presurge.errors import PresurgeError

_HINTS = (
    ("`fill_gaps", "Fill the missing values of the data frame first, for example with its interpolate()."),
    ("train with `horizon", "Ask for fewer steps, or train with a larger prediction_horizon."),
    ("`solver=sgd`", "Leave it out, or give custom_params={'solver': 'sgd'}."),
    ("`batch_size`", "Give a smaller batch_size, a smaller network or a shorter sequence_length."),
    ("`context`", "Give more rows, or a shorter sequence_length or prediction_horizon."),
    ("`horizon`", "Train with one prediction_horizon."),
    ("`kind", "Mend or remove this row."),
    ("prepare it with another `step`", "Give rows of the step that the model was trained on."),
    ("`step", "Check the column Timestamp: a stamp is wrong, or rows are missing."),
    ("`time_unit`", "Give all stamps in one unit."),
    ("`device", "Take 'auto' or 'cpu'."),
    ("`plugin", "get_available_models() lists the models; register one of your own first."),
    (
        "that `presurge train` wrote",
        "Name a file or directory that save_model wrote, or the directory of a training run.",
    ),
)
"""What a hint mentions, and what to do in this interface instead; the first that fits counts."""

_NAMES = {"model": "model_type"}


@contextmanager
def own_words(frame: str = "data frame") -> Iterator[None]:
    """Give what fails inside a hint, and a place, in the words of this interface.

    Args:
        frame: What the rows are called that a message counts.
    """
    try:
        yield
    except PresurgeError as error:
        if error.hint is not None:
            fitting = (ours for theirs, ours in _HINTS if theirs in error.hint)
            error.hint = next(fitting, error.hint)
        if error.where is not None:
            error.where = error.where.replace("data frame", frame, 1)
        if error.setting is not None:
            error.setting = _NAMES.get(error.setting, error.setting)
        raise
