"""Models in ``.pt`` files: a damaged or foreign one is a plain error, whatever is wrong with it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge import store
from presurge.errors import ModelError
from presurge.models.linear.dlinear import DLinear
from presurge.series.panel import Panel

torch = pytest.importorskip("torch")

from presurge.models.networks.torch_file import read_torch_file, write_torch_file  # noqa: E402


@pytest.fixture
def file(make_panel: object, tmp_path: Path) -> Path:
    panel: Panel = make_panel([1.0, 2.0, 3.0, 4.0])  # type: ignore[operator]
    model = DLinear(context=2, horizon=1)
    model.fit(panel, panel.full_span())
    write_torch_file(tmp_path / "model.pt", model)
    return tmp_path / "model.pt"


def test_what_was_written_is_read(file: Path) -> None:
    config, arrays = read_torch_file(file)
    assert config["model"] == "dlinear"
    assert (config["format"], config["format_version"]) == (store.FORMAT, store.FORMAT_VERSION)
    plain = torch.load(file, weights_only=True)
    assert set(plain) == {"model_state_dict", "config"}
    assert plain["model_state_dict"].keys() == arrays.keys()


def test_a_flipped_bit_is_found_or_does_no_harm(file: Path) -> None:
    """Some bytes of the archive mean nothing; no other may change."""
    whole = file.read_bytes()
    config, arrays = read_torch_file(file)
    for position in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        file.write_bytes(damaged)
        try:
            again, weights = read_torch_file(file)
        except ModelError:
            continue
        assert again == config
        assert all(np.array_equal(weights[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("config", lambda text: text.replace('"context": 2', '"context": 3'), "its own checksum"),
        ("config", lambda text: text.replace('"format_version": 1', '"format_version": 9'), "version 9"),
        ("config", lambda text: text.encode(), "is not a Presurge model"),
        ("config", lambda text: "[" * 100_000, "not valid JSON"),
        ("model_state_dict", lambda tensors: {}, "do not match their checksum"),
        ("model_state_dict", lambda tensors: {k: t + 1 for k, t in tensors.items()}, "do not match"),
        ("model_state_dict", lambda tensors: {k: t.bfloat16() for k, t in tensors.items()}, "other than the"),
        ("model_state_dict", lambda tensors: {k: t.to_sparse() for k, t in tensors.items()}, "other than"),
        ("model_state_dict", lambda tensors: {k: torch.nn.Parameter(t) for k, t in tensors.items()}, "other"),
        ("model_state_dict", lambda tensors: 3, "something other than the tensors"),
    ],
)
def test_a_changed_file_is_refused(file: Path, key: str, change: Callable[[Any], Any], words: str) -> None:
    stored = torch.load(file, weights_only=True)
    torch.save({**stored, key: change(stored[key])}, file)
    with pytest.raises(ModelError, match=words):
        read_torch_file(file)


@given(garbage=st.binary(max_size=60), cut=st.integers(0, 900))
def test_a_damaged_file_is_named(garbage: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("damaged") / "model.pt"
    torch.save({"model_state_dict": {"a": torch.arange(3.0)}, "config": "{}"}, path)
    path.write_bytes(garbage + path.read_bytes()[:cut])
    with pytest.raises(ModelError) as caught:
        read_torch_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        3,
        {"config": "3", "model_state_dict": {}},
        torch.zeros(3),
        {"config": "{}"},
        {"config": "{}", "model_state_dict": [1]},
    ],
)
def test_another_file_of_torch_is_no_model(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="is not a Presurge model"):
        read_torch_file(tmp_path / "other.pt")


def test_a_plain_pickle_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"config": Path("x")}))
    with pytest.raises(ModelError) as caught:
        read_torch_file(tmp_path / "raw.pt")
    assert "weights_only" not in str(caught.value)
