"""What Ctrl-C becomes during a training, and restarts by torchrun; needs no torch, so that anything can catch it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or a request to terminate; the last checkpoint was written first.

    Args:
        number: The signal: ``SIGINT`` or ``SIGTERM``.
    """

    def __init__(self, number: int | None = None) -> None:
        self.number = number if number is not None else signal.SIGINT
        super().__init__()


@dataclass(slots=True)
class StopRequest:
    """Whether somebody asked the training to stop, and by which signal."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


def restarted() -> bool:
    """Whether torchrun started this process again after a failure, so that it goes on from the last checkpoint."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextmanager
def stop_requests(*, alone: bool = True) -> Iterator[StopRequest]:
    """While the body runs, the first SIGINT or SIGTERM only asks to stop; a second one acts at once.

    So no step and no checkpoint is cut in the middle, and pressing Ctrl-C twice still helps in a hurry. A signal that is
    ignored, as under ``nohup``, stays ignored. Outside the main thread Python delivers no signals, and nothing changes.

    Args:
        alone: No other process trains with this one. Under torchrun every signal only asks: Ctrl-C arrives twice, from the
            terminal and from torchrun, which itself kills what does not end in time.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        request.number = number
        if alone:
            restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
