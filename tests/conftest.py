"""What every test shares: the folder of real series, a plain terminal, Ctrl-C, property tests without a clock."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# A busy machine must not fail a property: no deadline for one example, no complaint about slow drawing.
hypothesis.settings.register_profile(
    "presurge", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("presurge")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real series and fixtures beside the checkout, or where PRESURGE_SHARED says."""
    folder = Path(os.environ.get("PRESURGE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"shared data folder not found: {folder} (set PRESURGE_SHARED)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Ctrl-C interrupts what tests start, even where a shell runs them in the background and has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output does not depend on the terminal, the window or the display that the tests were started from."""
    for name in ("FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("MPLBACKEND", "Agg")
