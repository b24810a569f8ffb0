"""Models in ``.pt`` files: a damaged or foreign one is a plain error, whatever is wrong with it."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import ModelError
from presurge.models.naive import RecentMean
from presurge.series.panel import Panel

torch = pytest.importorskip("torch")

from presurge.models.networks.torch_file import read_torch_file, write_torch_file  # noqa: E402


@pytest.fixture
def file(make_panel: object, tmp_path: Path) -> Path:
    panel: Panel = make_panel([1.0, 2.0, 3.0, 4.0])  # type: ignore[operator]
    model = RecentMean(context=2, horizon=1)
    model.fit(panel, panel.full_span())
    write_torch_file(tmp_path / "model.pt", model)
    return tmp_path / "model.pt"


def test_what_was_written_is_read(file: Path) -> None:
    config, _ = read_torch_file(file)
    assert config["model"] == "recent-mean"


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
        {"config": "{"},
        {"config": "{}"},
        {"config": "{}", "model_state_dict": [1]},
    ],
)
def test_another_file_of_torch_is_no_model(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="holds no model of Presurge"):
        read_torch_file(tmp_path / "other.pt")


def test_a_plain_pickle_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"config": Path("x")}))
    with pytest.raises(ModelError) as caught:
        read_torch_file(tmp_path / "raw.pt")
    assert "weights_only" not in str(caught.value)
