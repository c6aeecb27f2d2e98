"""Stacks of layers that the shapes do not tell apart, in Linen and NNX: sums over entries need no axis, others do."""

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

N = 4  # layers, inputs, outputs: every axis of the stack may be that of the layers
X = np.ones((2, N), np.float32)
ONE = np.linspace(-1, 1, N * N, dtype=np.float32).reshape(N, N)
ALL = np.linspace(-1, 1, N * N * N, dtype=np.float32).reshape(N, N, N)


class Layer(nn.Module):
    regularizer: Any

    @nn.compact
    def __call__(self, x, _):
        return jaxreg.linen.Dense(N, use_bias=False, kernel_regularizer=self.regularizer)(x), None


def linen_stack(regularizer: Any, axis: int) -> tuple[np.ndarray, Callable[[], Any], list[Callable[[], Any]]]:
    """The kernel, the loss of a call, and the ways to the regularizer of the stack; the last one is given no inputs."""
    scanned = nn.scan(Layer, variable_axes={"params": axis}, split_rngs={"params": True}, length=N)
    model = scanned(regularizer)
    variables = model.init(jax.random.key(0), X, None)

    def rule(*inputs: Any) -> Any:
        assignment = jaxreg.linen.regularizer(model, variables, *inputs).assignment(variables["params"])
        return assignment["Dense_0/kernel"]

    def loss() -> Any:
        return jaxreg.linen.with_losses(model)(variables, X, None)[1]["Dense_0/kernel"]

    return np.asarray(variables["params"]["Dense_0"]["kernel"]), loss, [lambda: rule(X, None), rule]


def nnx_stack(regularizer: Any, axis: int) -> tuple[np.ndarray, Callable[[], Any], list[Callable[[], Any]]]:
    @nnx.split_rngs(splits=N)
    @nnx.vmap(in_axes=0, out_axes=axis)
    def make(rngs: nnx.Rngs) -> Any:
        return jaxreg.nnx.Linear(N, N, use_bias=False, rngs=rngs)

    model = make(nnx.Rngs(0))
    model.kernel_regularizer = regularizer

    def loss() -> Any:
        return jaxreg.nnx.with_losses(model, method=lambda m: None)()[1]["kernel"]

    def rule() -> Any:
        return jaxreg.nnx.regularizer(model).assignment(nnx.state(model, nnx.Param))["kernel"]

    return np.asarray(model.kernel), loss, [rule]


def mcp(w: np.ndarray, strength: float, gamma: float) -> float:
    a = np.abs(w.astype(np.float64))
    return float(np.where(a <= gamma * strength, strength * a - a**2 / (2 * gamma), gamma * strength**2 / 2).sum())


def huber(w: np.ndarray, strength: float, delta: float) -> float:
    a = np.abs(w.astype(np.float64))
    return float(strength * np.where(a <= delta, a**2 / (2 * delta), a - delta / 2).sum())


def inside(is_inside: Any) -> float:
    return 0.0 if np.all(is_inside) else np.inf


# A regularizer, and its value on the whole stack w, which is the sum over the layers.
SUMS: dict[str, tuple[Any, Callable[[np.ndarray], float]]] = {
    "MCP": (jaxreg.MCP(0.2, 3.0), lambda w: mcp(w, 0.2, 3.0)),
    "Huber": (jaxreg.Huber(0.5, 0.3), lambda w: huber(w, 0.5, 0.3)),
    "2*L1+L2": (
        2 * jaxreg.L1(0.1) + jaxreg.L2(0.3),
        lambda w: float(0.2 * np.abs(w).sum() + 0.3 * np.square(w).sum()),
    ),
    "a sum with MCP": (
        jaxreg.L2(0.3) + 0.5 * jaxreg.MCP(0.2, 3.0),
        lambda w: float(0.3 * np.square(w).sum() + 0.5 * mcp(w, 0.2, 3.0)),
    ),
    "NonNegative": (jaxreg.NonNegative(), lambda w: inside(w >= 0)),
    "L1+NonNegative": (jaxreg.L1(0.1) + jaxreg.NonNegative(), lambda w: inside(w >= 0) + 0.1 * float(np.abs(w).sum())),
    "a wide Box": (jaxreg.Box(-9.0, 9.0), lambda w: inside(np.abs(w) <= 9)),
    "a narrow Box": (jaxreg.Box(-0.01, 0.01), lambda w: inside(np.abs(w) <= 0.01)),
    "Box of arrays": (jaxreg.Box(ALL - 9, jnp.asarray(ALL + 9)), lambda w: inside(np.abs(w - ALL) <= 9)),
    "anchored to a number": (jaxreg.Anchored(jaxreg.L1(0.1), 0.5), lambda w: 0.1 * float(np.abs(w - 0.5).sum())),
    "anchored to a stack": (jaxreg.Anchored(jaxreg.L2(0.1), ALL), lambda w: 0.1 * float(np.square(w - ALL).sum())),
    "anchored, weighted": (
        2 * jaxreg.Anchored(jaxreg.Huber(0.5, 0.3), 0.0, weights=np.abs(ALL)),
        lambda w: 2 * sum(a * huber(np.asarray(x), 0.5, 0.3) for a, x in zip(np.abs(ALL).flat, w.flat, strict=True)),
    ),
}


@pytest.mark.parametrize("stack", [linen_stack, nnx_stack])
@pytest.mark.parametrize("name", SUMS)
def test_a_sum_over_entries_needs_no_axis(name: str, stack: Any) -> None:
    regularizer, expected = SUMS[name]
    kernel, loss, rules = stack(regularizer, 1)
    np.testing.assert_allclose(loss(), expected(kernel), rtol=2e-5)
    for rule in rules:
        assert rule() == regularizer


def group(w: np.ndarray) -> float:
    return float(np.sqrt(np.square(w).sum(0)).sum())


def nuclear(w: np.ndarray) -> float:
    return float(np.linalg.svd(w, compute_uv=False).sum())


# A regularizer of one layer, and its value on one layer.
OF_LAYERS: dict[str, tuple[Any, Callable[[np.ndarray], float]]] = {
    "Group": (jaxreg.Group(jaxreg.L1(1.0), axis=0), group),
    "Spectral": (jaxreg.Spectral(jaxreg.L1(1.0)), nuclear),
    "L2+Spectral": (jaxreg.L2(0.1) + jaxreg.Spectral(jaxreg.L1(1.0)), lambda w: nuclear(w) + 0.1 * np.square(w).sum()),
    "anchored to a layer": (jaxreg.Anchored(jaxreg.L1(1.0), ONE), lambda w: float(np.abs(w - ONE).sum())),
    "Box of a layer": (jaxreg.Box(ONE - 9, None), lambda w: inside(w >= ONE - 9)),
    "a maximum": (jaxreg.Function(jnp.max), lambda w: float(w.max())),
}


@pytest.mark.parametrize("name", OF_LAYERS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_penalty_of_layers_needs_the_axis(name: str, axis: int) -> None:
    regularizer, one = OF_LAYERS[name]
    kernel, loss, (with_inputs, without) = linen_stack(regularizer, axis)
    expected = sum(one(layer) for layer in np.moveaxis(kernel, axis, 0))
    np.testing.assert_allclose(loss(), expected, rtol=1e-5)  # the trace of the call tells the axis
    assert with_inputs() == jaxreg.Stacked(regularizer, (axis,))
    with pytest.raises(ValueError, match="along an axis that the shapes do not tell"):
        without()
    kernel, loss, (rule,) = nnx_stack(regularizer, axis)
    for call in (loss, rule):
        with pytest.raises(ValueError, match="along an axis that the shapes do not tell"):
            call()
    for named in (jaxreg.Stacked(regularizer, (axis,)), 1.0 * jaxreg.Stacked(regularizer, (axis,))):
        kernel, loss, (rule,) = nnx_stack(named, axis)
        np.testing.assert_allclose(loss(), sum(one(layer) for layer in np.moveaxis(kernel, axis, 0)), rtol=1e-5)
        assert rule() == named
    both = jaxreg.L2(0.5) + jaxreg.Stacked(regularizer, (axis,))
    kernel, loss, _ = nnx_stack(both, axis)
    expected = sum(one(layer) for layer in np.moveaxis(kernel, axis, 0)) + 0.5 * np.square(kernel).sum()
    np.testing.assert_allclose(loss(), expected, rtol=1e-5)
    kernel, loss, _ = nnx_stack(jaxreg.Function(jnp.max) + jaxreg.Stacked(regularizer, (axis,)), axis)
    with pytest.raises(ValueError, match="along an axis that the shapes do not tell"):  # the maximum is of one layer
        loss()
