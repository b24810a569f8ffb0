"""Spans: the rows of a split. The targets of a window stay inside its span, its context inside its item."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from presurge.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """For each item of a panel, the rows ``first[i]:last[i]`` (absolute row numbers, ``last`` excluded)."""

    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return int((self.last - self.first).sum())

    def cut(self, fractions: Sequence[float | str | Fraction]) -> tuple["Span", ...]:
        """Cut every item chronologically into parts; the fractions must add up to 1.

        With n rows, the cut after the k-th part is at ``floor(n * (f_1 + ... + f_k))`` in exact arithmetic, so that
        0.6, 0.1, 0.2, 0.1 of 87,833 rows are 52,699, 8,784, 17,566 and 8,784 rows.

        Raises:
            ConfigError: A fraction is negative, or they do not add up to 1.
        """
        parts = [_fraction(fraction) for fraction in fractions]
        if not parts or min(parts) < 0 or abs(sum(parts, Fraction(0)) - 1) > Fraction(1, 10**6):
            raise ConfigError(
                f"the parts {', '.join(map(str, fractions))} do not split the rows",
                setting="split",
                hint="Give fractions that add up to 1, for example 0.6,0.1,0.2,0.1.",
            )
        parts[-1] = 1 - sum(parts[:-1], Fraction(0))
        lengths = [int(n) for n in self.last - self.first]
        cuts = [[int(n * sum(parts[:k])) for n in lengths] for k in range(len(parts) + 1)]
        return tuple(Span(self.first + np.array(a), self.first + np.array(b)) for a, b in pairwise(cuts))

    def cut_tail(self, fraction: float | str) -> tuple["Span", "Span"]:
        """Cut off the last ``fraction`` of every item: (head, tail)."""
        head, tail = self.cut([1 - Fraction(str(fraction)), Fraction(str(fraction))])
        return head, tail

    def joined(self, other: "Span") -> "Span":
        """This span and the one directly after it, as one."""
        return Span(self.first, other.last)


def _fraction(value: float | str | Fraction) -> Fraction:
    try:
        return Fraction(str(value))
    except ValueError as error:
        raise ConfigError(
            f"{value!r} is not a number", setting="split", hint="Give fractions such as 0.6,0.1,0.2,0.1."
        ) from error
