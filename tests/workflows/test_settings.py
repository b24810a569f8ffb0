"""Settings of several models that are compared."""

import pytest

from presurge.errors import ConfigError
from presurge.workflows.settings import resolve_each


def test_a_setting_goes_to_every_model_that_has_it_and_a_named_one_to_its_model_only() -> None:
    own = {"gru:stride": 7, "stride": 3, "hidden_size": 16, "linear:ridge": 0.5}
    each = resolve_each(["linear", "gru", "mlp"], {"epochs": 4, "seed": None}, own)
    assert each["linear"].model_settings == {"stride": 3, "ridge": 0.5}
    assert each["gru"].model_settings == {"stride": 7, "hidden_size": 16}
    assert each["mlp"].model_settings == {"stride": 3, "hidden_size": 16}
    assert {each[name].epochs for name in ("linear", "gru", "mlp")} == {4}
    assert (each["gru"].batch_size, each["mlp"].weight_decay) == (32, 0.3)  # what suits the model stays
    assert each["gru"].training().epochs == 4
    assert each["gru"].training().batch_size == 32


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"hiden_size": 3}, "hiden_size"),
        ({"mlp:stride": 3}, "mlp:stride"),  # a model that is not compared
        ({"gru:stride": 0}, "stride"),
        ({"gru:strid": 2}, "strid"),
    ],
)
def test_a_setting_that_nobody_has_is_refused(own: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve_each(["linear", "gru"], {}, own)


def test_an_impossible_training_is_refused() -> None:
    with pytest.raises(ConfigError, match="epochs"):
        resolve_each(["gru"], {"epochs": 0}, {})


def test_baselines_are_compared_too_and_set_by_name() -> None:
    each = resolve_each(["dlinear"], {}, {"recent-mean:window": 5})
    assert each["recent-mean"].model_settings == {"window": 5}


def test_a_setting_of_training_that_a_model_has_itself_goes_to_it() -> None:
    own = {"challengers": ["gru"]}
    assert resolve_each(["auto"], {"epochs": 2}, own)["auto"].model_settings == {**own, "epochs": 2}
    assert resolve_each(["auto"], {"epochs": 2}, {"epochs": 3})["auto"].model_settings["epochs"] == 3


def test_a_device_that_is_not_there_is_refused_at_once() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no cuda device"):
        resolve_each(["dlinear"], {"device": "cuda"}, {})
    assert resolve_each(["dlinear"], {"device": "cuda", "allow_fallback": True}, {})
