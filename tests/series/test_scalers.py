"""Scaling there and back, against scikit-learn, and blind to every row but the training rows."""

import json
import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import preprocessing

from presurge.series.scalers import TRANSFORMS, Scaler, ScalerName, TransformName

NAMES = typing.get_args(ScalerName)
all_scalers = pytest.mark.parametrize("name", NAMES)
all_transforms = pytest.mark.parametrize("transform", typing.get_args(TransformName))

VALUES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 30), st.integers(1, 3)),
    elements=st.floats(-1e6, 1e6, width=32) | st.just(float("nan")),
)


@all_scalers
@all_transforms
@settings(max_examples=30)  # of each of 15 combinations
@given(values=VALUES)
def test_there_and_back(name: ScalerName, transform: TransformName, values: np.ndarray) -> None:
    scaler = Scaler.fit(values, name, transform)
    back = scaler.unscale(scaler.scale(values)).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    smallest = 1e-10 * np.nanmax(np.abs(values), initial=0, axis=0)  # where one channel spans ten decades
    assert np.all(np.isnan(values) | (np.abs(back - values) <= 1e-5 * np.abs(values) + smallest))


@all_scalers
@all_transforms
@settings(max_examples=30)  # of each of 15 combinations
@given(values=VALUES)
def test_json_keeps_every_bit(name: ScalerName, transform: TransformName, values: np.ndarray) -> None:
    scaler = Scaler.fit(values, name, transform)
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    np.testing.assert_array_equal(scaler.scale(values), again.scale(values))
    assert (again.name, again.transform) == (name, transform)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("minmax", preprocessing.MinMaxScaler()),
        ("standard", preprocessing.StandardScaler()),
        ("robust", preprocessing.RobustScaler()),
    ],
)
def test_against_scikit_learn(name: ScalerName, reference: typing.Any) -> None:
    values = np.random.default_rng(1).gamma(0.7, 300, (500, 3)).astype(np.float32)
    expected = reference.fit_transform(values.astype(np.float64))
    np.testing.assert_allclose(Scaler.fit(values, name).scale(values), expected, rtol=1e-10, atol=1e-12)


def test_mean_absolute() -> None:
    assert Scaler.fit(np.array([[1.0], [-3.0], [np.nan]]), "meanabs").scale(np.array([4.0])) == 2.0


@all_scalers
@pytest.mark.parametrize("constant", [0.0, 0.1, -7.0, np.nan])
def test_a_constant_channel_is_safe(name: ScalerName, constant: float) -> None:
    values = np.full((50, 1), constant, np.float32)
    scaler = Scaler.fit(values, name)
    scaled = scaler.scale(values)
    assert np.isnan(constant) or np.isfinite(scaled).all()
    np.testing.assert_allclose(scaler.unscale(scaled), values, rtol=1e-6)
    assert np.isfinite(scaler.scale(values + 1)).all() or np.isnan(constant)


def test_robust_scales_a_channel_that_is_mostly_zero() -> None:
    values = np.zeros((100, 1), np.float32)
    values[::10] = 50
    assert Scaler.fit(values, "robust").scale_C[0] == pytest.approx(values.std())


@all_transforms
def test_transforms_keep_the_order_and_the_sign(transform: TransformName) -> None:
    x = np.linspace(-1e4, 1e4, 401)
    y = TRANSFORMS[transform].forward(x)
    assert (np.diff(y) > 0).all()
    np.testing.assert_array_equal(np.sign(y), np.sign(x))


def test_a_wild_prediction_stays_finite() -> None:
    assert np.isfinite(TRANSFORMS["log1p"].inverse(np.array([1e4, -1e4])).astype(np.float32)).all()
