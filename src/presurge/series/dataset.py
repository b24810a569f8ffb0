"""A data set: a panel, its chronological parts and where it came from."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from presurge.series.panel import IntArray, Panel
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

    def learning_from(self, last_I: IntArray) -> "Dataset":
        """The same series with all rows of each item before ``last_I`` to learn from; the test rows stay.

        The last of them choose and calibrate, in the same proportion as here, and the final fit includes them.
        """
        share = Fraction(len(self.validation), max(1, len(self.train) + len(self.validation)))
        train, validation = Span(self.panel.indptr[:-1], last_I).cut_tail(str(share))
        return replace(self, train=train, validation=validation, validation_given=False)
