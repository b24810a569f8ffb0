"""Which device a name stands for, and what surrounds the forward pass."""

import pytest
import torch
from training_cases import RegressionTask, settings

from presurge.errors import ConfigError
from presurge.training import devices
from presurge.training.devices import autocast, available_devices, resolve_device, threads
from presurge.training.trainer import fit


@pytest.mark.parametrize(
    ("name", "available", "expected"),
    [
        ("auto", ("cuda", "cpu"), "cuda:1"),
        ("auto", ("mps", "cpu"), "mps"),
        ("auto", ("cpu",), "cpu"),
        ("cpu", ("cuda", "mps", "cpu"), "cpu"),
        ("mps", ("cuda", "mps", "cpu"), "mps"),
    ],
)
def test_names(name: str, available: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: available)
    assert str(resolve_device(name, local_rank=1)) == expected


def test_a_missing_device_is_an_error_unless_fallback_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ("cpu",))
    with pytest.raises(ConfigError, match="no cuda device") as caught:
        resolve_device("cuda")
    assert "allow_fallback" in str(caught.value)
    assert str(resolve_device("cuda", allow_fallback=True)) == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_on_a_missing_gpu() -> None:
    assert available_devices()[-1] == "cpu"
    with pytest.raises(ConfigError):
        fit(RegressionTask(), settings(device="cuda"))
    assert len(fit(RegressionTask(), settings(device="cuda", allow_fallback=True)).history) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_run_on_a_gpu_gives_what_a_cpu_gives() -> None:
    outcomes = [fit(RegressionTask(), settings(device=device)) for device in ("cpu", "cuda")]
    losses = [[row["validation_loss"] for row in outcome.history] for outcome in outcomes]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_autocast() -> None:
    product = torch.ones(2, 2)
    with autocast(settings(precision="bf16"), torch.device("cpu")):
        assert (product @ product).dtype == torch.bfloat16
    with autocast(settings(), torch.device("cpu")):
        assert (product @ product).dtype == torch.float32


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
