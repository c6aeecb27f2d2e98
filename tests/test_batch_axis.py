"""`with_losses(batch_axis=...)`: by what an activity penalty is divided, in both Flax APIs, against NumPy."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxreg
import jaxreg.linen
import jaxreg.nnx

SQUARES = jaxreg.L2(1.0)
X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)  # of which a layer of ones makes sums, twice
Y = np.repeat(X.sum(-1, keepdims=True), 2, axis=-1)
TOTAL = float(np.square(Y).sum())
OPTIONS: dict[str, Any] = {"use_bias": False, "activity_regularizer": SQUARES}

Call = Callable[..., tuple[Any, dict[str, jax.Array]]]


def linen(**options: Any) -> Call:
    model = jaxreg.linen.Dense(2, kernel_init=nn.initializers.ones, **OPTIONS)
    variables = model.init(jax.random.key(0), X)
    return lambda x: jaxreg.linen.with_losses(model, **options)(variables, x)


def plain_linen(**options: Any) -> Call:
    """A rule for a module that declares nothing."""
    model = nn.Dense(2, use_bias=False, kernel_init=nn.initializers.ones)
    variables = model.init(jax.random.key(0), X)
    return lambda x: jaxreg.linen.with_losses(model, [("", SQUARES)], **options)(variables, x)


def of_nnx(**options: Any) -> Call:
    model = jaxreg.nnx.Linear(3, 2, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0), **OPTIONS)
    return jaxreg.nnx.with_losses(model, **options)


def plain_nnx(**options: Any) -> Call:
    model = nnx.Linear(3, 2, use_bias=False, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    return jaxreg.nnx.with_losses(model, [("", SQUARES)], **options)


BOTH = pytest.mark.parametrize("make", [linen, plain_linen, of_nnx, plain_nnx])


@BOTH
@pytest.mark.parametrize(("axis", "divisor"), [(0, 4), (1, 2), (-2, 2), (2, 2), (-3, 4), (np.int64(1), 2), (None, 1)])
def test_divided_by_the_length_of_that_axis(make: Any, axis: Any, divisor: int) -> None:
    y, losses = make(batch_axis=axis)(X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_allclose(losses["activity"], TOTAL / divisor, rtol=1e-6)


@BOTH
def test_without_it_the_first_axis(make: Any) -> None:
    np.testing.assert_allclose(make()(X)[1]["activity"], TOTAL / 4, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("transform", [jax.vmap, nnx.vmap, lambda f: jax.jit(jax.vmap(f))])
def test_the_mean_over_examples_is_the_penalty_of_the_batch(make: Any, transform: Any) -> None:
    _, losses = transform(make(batch_axis=None))(X)
    assert losses["activity"].shape == (4,)
    np.testing.assert_allclose(losses["activity"].mean(), make()(X)[1]["activity"], rtol=1e-6)


def test_axes_of_a_penalty_are_those_of_the_example() -> None:
    """Without a batch nothing shifts: the groups along axis 0 of one example are its columns."""
    reg = jaxreg.Group(jaxreg.L1(1.0), axis=0)
    model = nn.Dense(2, kernel_init=nn.initializers.ones, use_bias=False)
    variables = model.init(jax.random.key(0), X[0])
    _, losses = jaxreg.linen.with_losses(model, [("", reg)], batch_axis=None)(variables, X[0])
    np.testing.assert_allclose(losses["activity"], reg(Y[0]), rtol=1e-6)
    assert float(reg(Y[0])) != float(reg(Y[:1]))


@BOTH
def test_empty_and_scalar_outputs(make: Any) -> None:
    for axis in (0, 1, None):
        assert float(make(batch_axis=axis)(X[:0])[1]["activity"]) == 0

    class Sum(jaxreg.nnx.Regularized, nnx.Module):
        def __call__(self, x: Any) -> Any:
            return jnp.sum(x)

    _, losses = jaxreg.nnx.with_losses(Sum(activity_regularizer=SQUARES), batch_axis=1)(X)
    np.testing.assert_allclose(losses["activity"], X.sum() ** 2, rtol=1e-6)


def test_nn_vmap_inside_the_model_adds_the_examples_up() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            dense = nn.vmap(
                jaxreg.linen.Dense,
                variable_axes={"params": None, "losses": 0},
                split_rngs={"params": False},
            )
            return dense(2, kernel_init=nn.initializers.ones, **OPTIONS)(x)

    variables = Model().init(jax.random.key(0), X)
    _, losses = jaxreg.linen.with_losses(Model(), batch_axis=None)(variables, X)
    (value,) = losses.values()
    np.testing.assert_allclose(value / len(X), TOTAL / 4, rtol=1e-6)


def test_nnx_vmap_inside_the_model_adds_the_examples_up() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.dense = jaxreg.nnx.Linear(3, 2, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0), **OPTIONS)

        def __call__(self, x: Any) -> Any:
            return nnx.vmap(lambda layer, x: layer(x), in_axes=(None, 0))(self.dense, x)

    _, losses = jaxreg.nnx.with_losses(Model(), batch_axis=None)(X)
    np.testing.assert_allclose(losses["dense/activity"] / len(X), TOTAL / 4, rtol=1e-6)


def test_nn_jit_reuses_no_trace_of_another_axis() -> None:
    model = nn.jit(jaxreg.linen.Dense)(2, kernel_init=nn.initializers.ones, **OPTIONS)
    variables = model.init(jax.random.key(0), X)
    for axis, divisor in ((0, 4), (1, 2), (None, 1), (0, 4)):
        _, losses = jaxreg.linen.with_losses(model, batch_axis=axis)(variables, X)
        np.testing.assert_allclose(losses["activity"], TOTAL / divisor, rtol=1e-6)


def test_nnx_jit_inside_reuses_no_trace_of_another_axis() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.dense = jaxreg.nnx.Linear(3, 2, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0), **OPTIONS)

        @nnx.jit
        def __call__(self, x: Any) -> Any:
            return self.dense(x)

    model = Model()
    for axis, divisor in ((0, 4), (1, 2), (None, 1), (0, 4)):
        _, losses = jaxreg.nnx.with_losses(model, batch_axis=axis)(X)
        np.testing.assert_allclose(losses["dense/activity"], TOTAL / divisor, rtol=1e-6)


@BOTH
def test_an_axis_that_an_output_does_not_have_raises_and_the_way_out_runs(make: Any) -> None:
    with pytest.raises(ValueError, match=r"with_losses\(batch_axis=3\)`: the module \(root\).*shape \(4, 2, 2\)"):
        make(batch_axis=3)(X)
    np.testing.assert_allclose(make(batch_axis=None)(X)[1]["activity"], TOTAL, rtol=1e-6)


@pytest.mark.parametrize("value", [True, 0.0, "0", (0,)])
@BOTH
def test_what_is_no_axis_raises(make: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=r"with_losses\(batch_axis=\.\.\.\)` must be the number of an axis, or None"):
        make(batch_axis=value)(X)
