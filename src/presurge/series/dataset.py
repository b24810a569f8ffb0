"""A data set: a panel, its chronological parts and where it came from."""

from dataclasses import dataclass
from typing import Any

from presurge.series.panel import Panel
from presurge.series.spans import Span


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """A panel with its chronological parts.

    Attributes:
        panel: The series.
        train: Rows that the weights are fitted to.
        validation: Rows that choose between settings and calibrate intervals.
        test: Rows that are only scored.
        validation_given: Whether the data came with their own validation rows, which then stay out of fitting. Otherwise
            these are the tail of the training rows, and the final fit of a closed-form model includes them.
        source: Path, format and fingerprint of the input, as JSON values.
        notes: Sentences about what reading changed.
        table: How the table was read, as JSON values; None if the input was not a table.
    """

    panel: Panel
    train: Span
    validation: Span
    test: Span
    validation_given: bool
    source: dict[str, Any]
    notes: tuple[str, ...] = ()
    table: dict[str, Any] | None = None

    @property
    def fit_span(self) -> Span:
        """All rows that the final fit of a closed-form model may use."""
        return self.train if self.validation_given else self.train.joined(self.validation)
