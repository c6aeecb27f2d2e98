"""A reference stays where it was: of variables and NumPy arrays the value counts that they had when it was given."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from flax import nnx

import jaxreg
import jaxreg.keras
import jaxreg.nnx

START = np.array([1.0, -2.0, 3.0], np.float32)


def nnx_variable() -> tuple[Any, Any]:
    variable = nnx.Param(jnp.asarray(START))
    return variable, lambda value: variable.set_value(jnp.asarray(value))


def keras_variable() -> tuple[Any, Any]:
    variable = keras.Variable(START)
    return variable, variable.assign


def numpy_array() -> tuple[Any, Any]:
    array = START.copy()
    return array, lambda value: array.__setitem__(slice(None), value)


def jax_ref() -> tuple[Any, Any]:
    ref = jax.new_ref(jnp.asarray(START))
    return ref, lambda value: ref.__setitem__(slice(None), jnp.asarray(value))


KINDS = [nnx_variable, keras_variable, numpy_array, jax_ref]


@pytest.mark.parametrize("make", KINDS)
def test_the_reference_stays_when_the_variable_moves(make: Any) -> None:
    variable, move = make()
    reg = jaxreg.Anchored(jaxreg.L2(1.0), variable)
    now = START + np.array([1.0, 0.5, -2.0], np.float32)
    move(now)
    assert float(reg(now)) == np.square(now - START).sum()
    np.testing.assert_array_equal(jax.grad(reg)(jnp.asarray(now)), 2 * (now - START))
    assert reg == jaxreg.Anchored(jaxreg.L2(1.0), START)
    assert jaxreg.Anchored.from_config(reg.get_config(), reference=START) == reg


@pytest.mark.parametrize("make", KINDS)
def test_weights_stay_too(make: Any) -> None:
    variable, move = make()
    move(abs(START))
    reg = jaxreg.Anchored(jaxreg.L1(1.0), 0.0, weights=variable)
    move(0 * START)
    assert float(reg(START)) == np.square(START).sum()


def test_a_tree_of_variables() -> None:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    reg = jaxreg.TreeRegularizer([("kernel", jaxreg.L2(1.0))]).anchored(nnx.state(model, nnx.Param))
    start = np.asarray(model.kernel.get_value())
    model.kernel.set_value(model.kernel.get_value() + 1.0)
    np.testing.assert_allclose(reg(nnx.state(model, nnx.Param)), np.square(start + 1.0 - start).sum(), rtol=1e-6)


def test_a_layer_pulled_back_to_where_it_started() -> None:
    """Plain gradient descent on ½·|w − target|² + |w − start|² comes to rest at (target + 2·start) / 3."""
    layer = nnx.Linear(3, 2, use_bias=False, rngs=nnx.Rngs(0))
    start = np.asarray(layer.kernel.get_value())
    layer.kernel_regularizer = nnx.data(jaxreg.Anchored(jaxreg.L2(1.0), layer.kernel))
    optimizer = nnx.Optimizer(layer, optax.sgd(0.2), wrt=nnx.Param)

    @nnx.jit
    def step(layer: Any, optimizer: Any) -> None:
        def loss(layer: Any) -> Any:
            y, losses = jaxreg.nnx.with_losses(layer)(jnp.eye(3))
            return 0.5 * jnp.sum((y - 1.0) ** 2) + sum(losses.values())

        optimizer.update(layer, nnx.grad(loss)(layer))

    for _ in range(60):
        step(layer, optimizer)
    np.testing.assert_allclose(layer.kernel.get_value(), (1.0 + 2 * start) / 3, rtol=1e-5)


def test_made_inside_a_trace() -> None:
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    value = nnx.jit(lambda m: jaxreg.Anchored(jaxreg.L2(1.0), m.kernel)(m.kernel + 1.0))(layer)
    np.testing.assert_allclose(value, 6.0, rtol=1e-6)


def test_a_variable_that_holds_no_array_raises() -> None:
    with pytest.raises(TypeError, match=r"Anchored\(reference=\.\.\.\)`"):
        jaxreg.Anchored(jaxreg.L2(1.0), nnx.Param({"a": jnp.ones(3)}))
