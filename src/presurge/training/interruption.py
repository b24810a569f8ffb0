"""What Ctrl-C during a training becomes; apart from the loop, so that nothing needs torch to catch it."""

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


@contextmanager
def stop_requests(*, alone: bool = True) -> Iterator[StopRequest]:
    """While the body runs, the first SIGINT or SIGTERM only asks; the next one acts as it always does.

    So no step and no checkpoint is ever cut in the middle, and who is in a hurry presses twice. Outside of the main thread
    Python delivers no signals, and nothing changes.

    Args:
        alone: No other process works on the same. Where some do, SIGTERM means that one of them failed, and acts at once.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    taken = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    before = {number: signal.getsignal(number) for number in taken}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        request.number = number
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
