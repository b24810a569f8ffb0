"""How long work tells that it moves on."""

from typing import Protocol


class Progress(Protocol):
    """Called with a phase, the share of it that is done (0 to 1), and perhaps a word about where it stands."""

    def __call__(self, phase: str, share: float, detail: str = "") -> None:
        """Take note."""
        ...


def silent(phase: str, share: float, detail: str = "") -> None:
    """Progress that nobody watches."""
    del phase, share, detail
