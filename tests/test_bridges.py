"""Linen modules in NNX models and NNX modules in Linen models, by Flax's bridges: counted as at home, or refused."""

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

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
ENTRIES, SQUARES = jaxreg.L1(0.3), jaxreg.L2(0.5)
NUCLEAR = jaxreg.Spectral(jaxreg.L1(1.0))


def entries(w: Any) -> float:
    return float(0.3 * np.abs(np.asarray(w, np.float64)).sum())


def squares(w: Any) -> float:
    return float(0.5 * np.square(np.asarray(w, np.float64)).sum())


def nuclear(w: Any) -> float:
    return float(np.linalg.svd(np.asarray(w, np.float64), compute_uv=False).sum())


# ---------------------------------------------------------------------------------------------------- Linen inside NNX


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return jaxreg.linen.Dense(2, use_bias=False, kernel_regularizer=NUCLEAR)(x), None


class LinenNet(nn.Module):
    activity: Any = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = jaxreg.linen.Dense(2, kernel_regularizer=ENTRIES, activity_regularizer=self.activity)(x)
        return nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)[0]


class Outer(nnx.Module):
    def __init__(self, activity: Any = None) -> None:
        self.inside = nnx.bridge.ToNNX(LinenNet(activity), rngs=nnx.Rngs(0))
        self.head = jaxreg.nnx.Linear(2, 2, kernel_regularizer=SQUARES, rngs=nnx.Rngs(1))

    def __call__(self, x: Any) -> Any:
        return self.head(self.inside(x))


def outer(**arguments: Any) -> Any:
    return nnx.bridge.lazy_init(Outer(**arguments), X)


def test_linen_inside_nnx() -> None:
    """Stacks of layers included; in a rule and in the weights; the regularizer for optax is the same."""
    model = outer()
    kernels = model.inside.ScanLayer_0["Dense_0"]["kernel"].get_value()
    expected = {
        "head/kernel": squares(model.head.kernel),
        "inside/Dense_0/kernel": entries(model.inside.Dense_0["kernel"]),
        "inside/ScanLayer_0/Dense_0/kernel": sum(map(nuclear, kernels)),
    }
    _, losses = nnx.jit(lambda m: jaxreg.nnx.with_losses(m)(X))(model)
    assert losses == pytest.approx(expected, rel=1e-5)
    tree, params = jaxreg.nnx.regularizer(model), nnx.state(model, nnx.Param)
    assert {path: float(value) for path, value in tree.breakdown(params).items()} == pytest.approx(expected, rel=1e-5)
    gradient = nnx.grad(lambda m: jaxreg.nnx.with_losses(m)(X)[1]["inside/Dense_0/kernel"])(model)
    sign = 0.3 * np.sign(model.inside.Dense_0["kernel"].get_value())
    np.testing.assert_allclose(gradient["inside"]["Dense_0"]["kernel"].get_value(), sign, rtol=1e-6)


def test_the_output_of_a_linen_module_and_of_one_inside_of_it() -> None:
    model = outer(activity=SQUARES)
    with pytest.raises(ValueError, match=r"of the Linen module Dense_0 inside a `ToNNX` would be lost"):
        jaxreg.nnx.with_losses(model)(X)
    model = outer()
    hidden = model.inside(X)
    teacher = jaxreg.linen.Dense(2, activity_regularizer=SQUARES)  # is applied, and nobody asks it for penalties
    variables = teacher.init(jax.random.key(0), X)
    jaxreg.nnx.with_losses(model, method=lambda m: m(teacher.apply(variables, X) @ np.ones((2, 3))))()
    _, losses = jaxreg.nnx.with_losses(model, [("inside", SQUARES)])(X)
    assert float(losses["inside/activity"]) == pytest.approx(squares(hidden) / 4, rel=1e-5)
    assert "inside/Dense_0/kernel" in losses


def test_a_linen_module_that_has_not_run_in_this_process() -> None:
    """As after the model was read from a file: what it declares is known when the call has run it."""

    class Fresh(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return jaxreg.linen.Dense(2, kernel_regularizer=ENTRIES)(x)

    model = nnx.bridge.ToNNX(Fresh())
    model.Dense_0 = nnx.data({"kernel": nnx.Param(jnp.ones((3, 2))), "bias": nnx.Param(jnp.ones(2))})
    _, losses = jaxreg.nnx.with_losses(model)(X)
    assert losses == pytest.approx({"Dense_0/kernel": 0.3 * 6})


# ---------------------------------------------------------------------------------------------------- NNX inside Linen


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, activity: Any = None) -> None:
        self.first = jaxreg.nnx.Linear(3, 2, kernel_regularizer=ENTRIES, activity_regularizer=activity, rngs=rngs)
        self.plain = nnx.Linear(2, 2, rngs=rngs)
        self.plain.kernel_regularizer = NUCLEAR

    def __call__(self, x: Any) -> Any:
        return self.plain(self.first(x))


class Around(nn.Module):
    activity: Any = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nnx.bridge.to_linen(NnxNet, activity=self.activity, name="inside")(x)
        return jaxreg.linen.Dense(2, kernel_regularizer=SQUARES)(x)


def test_nnx_inside_linen() -> None:
    model = Around()
    variables = model.init(jax.random.key(0), X)
    params = variables["params"]
    expected = {
        "Dense_0/kernel": squares(params["Dense_0"]["kernel"]),
        "inside/first/kernel": entries(params["inside"]["first"]["kernel"]),
        "inside/plain/kernel": nuclear(params["inside"]["plain"]["kernel"]),
    }
    from_init = jaxreg.linen.regularizer(model, variables)
    _, losses = jax.jit(jaxreg.linen.with_losses(model))(variables, X)
    assert losses == pytest.approx(expected, rel=1e-5)
    for tree in (from_init, jaxreg.linen.regularizer(model, variables, X)):
        found = {path: float(value) for path, value in tree.breakdown(params).items()}
        assert found == pytest.approx(expected, rel=1e-5)
    _, state = model.apply(variables, X, mutable=["losses"])
    assert sum(jax.tree.leaves(state["losses"])) == pytest.approx(sum(expected.values()), rel=1e-5)


def test_the_output_of_an_nnx_module_and_of_one_inside_of_it() -> None:
    model = Around(activity=SQUARES)
    variables = model.init(jax.random.key(0), X)
    y = model.apply(variables, X)  # nobody asks for penalties
    for ask in (jaxreg.linen.with_losses(model), lambda v, x: model.apply(v, x, mutable=["losses"])):
        with pytest.raises(ValueError, match=r"of the NNX module first inside the `ToLinen` module inside would be"):
            ask(variables, X)
    model = Around()
    again, losses = jaxreg.linen.with_losses(model, [("inside", SQUARES)])(variables, X)
    np.testing.assert_array_equal(again, y)
    inside = variables["params"]["inside"]
    hidden = X.astype(np.float64)
    for name in ("first", "plain"):
        hidden = hidden @ inside[name]["kernel"] + inside[name]["bias"]
    assert float(losses["inside/activity"]) == pytest.approx(squares(hidden) / 4, rel=1e-5)
