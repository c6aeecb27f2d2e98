"""Training under every strict mode of JAX, and with x64: no penalty, wrapper or layer needs a lax one."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxreg
import jaxreg.linen
import jaxreg.nnx

MODES: dict[str, Callable[[], Any]] = {
    "x64": lambda: jax.enable_x64(True),
    "strict dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "nan is an error": lambda: jax.debug_nans(True),
    "strict ranks": lambda: jax.numpy_rank_promotion("raise"),
    "leaks are errors": lambda: jax.checking_leaks(),
}
RULES = jaxreg.TreeRegularizer(
    {"**/bias": None, "a/kernel": jaxreg.L1(0.3) + jaxreg.Group(jaxreg.L1(0.2), axis=0), "**": jaxreg.MCP(0.3)}
)
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "add_regularization": lambda: optax.chain(jaxreg.add_regularization(RULES, track=True), optax.sgd(0.1)),
    "schedule": lambda: jaxreg.add_regularization(lambda step: jaxreg.L2(optax.linear_schedule(0.0, 0.1, 5)(step))),
    "proximal": lambda: jaxreg.proximal(optax.sgd(0.1), RULES, 0.1),
    "proximal_adam": lambda: jaxreg.proximal_adam(0.1, jaxreg.L1(0.3)),
}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def params(dtype: Any = None) -> Any:
    kernel = np.linspace(-1, 1, 12).reshape(3, 4)
    kernel[1] = 0
    layer = {"kernel": jnp.asarray(kernel, dtype or float), "bias": jnp.zeros(4, dtype or float)}
    return {"a": layer, "b": dict(layer)}


PAIRS = [
    pytest.param(make, mode, id=f"{name}, {mode_name}")
    for name, make in OPTIMIZERS.items()
    for mode_name, mode in MODES.items()
    if (name, mode_name) != ("proximal_adam", "strict dtypes")
]


def test_adam_itself_wants_lax_dtypes() -> None:
    """Why one pair is missing: `optax.adam` raises before anything of ours runs."""
    tx, p = optax.adam(0.1), jnp.ones(3)
    with jax.numpy_dtype_promotion("strict"), pytest.raises(ValueError, match="strict"):
        tx.update(p, tx.init(p), p)


@pytest.mark.parametrize(("make", "mode"), PAIRS)
def test_two_steps(make: Callable[[], Any], mode: Callable[[], Any]) -> None:
    def run(dtype: Any) -> Any:
        tx, tree = make(), params(dtype)
        state = tx.init(tree)

        @jax.jit
        def step(tree: Any, state: Any) -> Any:
            gradients = jax.tree.map(lambda p: jnp.asarray(0.1, p.dtype) * p, tree)
            updates, state = tx.update(gradients, state, tree)
            return optax.apply_updates(tree, updates), state

        for _ in range(2):
            tree, state = step(tree, state)
        return tree

    expected = run(jnp.float32)
    with mode():
        for result, other in zip(jax.tree.leaves(run(None)), jax.tree.leaves(expected), strict=True):
            assert result.dtype == jnp.result_type(float)
            np.testing.assert_allclose(result, other, rtol=1e-4, atol=1e-7)  # 1 − b2^t has four digits in float32


@each_mode
def test_trees_and_their_derivatives(mode: Callable[[], Any]) -> None:
    expected = jax.value_and_grad(RULES)(params(jnp.float32))
    with mode():
        value, gradient = jax.value_and_grad(RULES)(params())
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        for result, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected[1]), strict=True):
            np.testing.assert_allclose(result, other, rtol=1e-5, atol=1e-7)


@each_mode
def test_layers(mode: Callable[[], Any]) -> None:
    """Linen and NNX, a kernel and an activity penalty: Keras' documented example gives 0.25 + 5."""
    with mode():
        kwargs = {"kernel_init": nn.initializers.ones, "kernel_regularizer": jaxreg.L1(0.01)}
        x = jnp.full((5, 5), 2.0)
        layer = jaxreg.linen.Dense(5, activity_regularizer=jaxreg.L2(0.01), **kwargs)
        variables = layer.init(jax.random.key(0), x)
        _, linen = jaxreg.linen.with_losses(layer)(variables, x)
        other = jaxreg.nnx.Linear(5, 5, activity_regularizer=jaxreg.L2(0.01), rngs=nnx.Rngs(0), **kwargs)
        _, nnx_losses = jaxreg.nnx.with_losses(other)(x)
        for losses in (linen, nnx_losses):
            assert {path: round(float(loss), 4) for path, loss in losses.items()} == {"activity": 5.0, "kernel": 0.25}


@pytest.mark.parametrize("wide", [jnp.float32, jnp.float64])
def test_leaves_of_different_dtypes_under_strict_dtypes(wide: Any) -> None:
    """What is compared or summed over leaves is cast by us: ¾ and 4 of (½, ¾), (¼, 4) are the largest."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        narrow = jnp.bfloat16 if wide == jnp.float32 else jnp.float32
        tree = {"a": jnp.asarray([0.5, 0.75], narrow), "b": jnp.asarray([0.25, 4.0], wide)}
        budget = jaxreg.TreeBudget(0.5)
        kept = jax.jit(budget.prox)(tree)
        assert kept["a"].tolist() == [0, 0.75] and kept["b"].tolist() == [0, 4] and budget(kept) == 0
        if wide == jnp.float64:  # ½‖w − target‖² + |w|: the target, shrunk by 1

            def loss(w: Any) -> Any:
                halves = [0.5 * jnp.sum((w[name] - tree[name]) ** 2).astype(wide) for name in "ab"]
                return halves[0] + halves[1]

            found = jaxreg.minimize(loss, jaxreg.L1(1.0), jax.tree.map(jnp.zeros_like, tree))
            np.testing.assert_allclose(found.params["b"], [0, 3], atol=1e-5)
            assert found.converged and found.params["a"].dtype == narrow
        else:
            joint = jaxreg.JointGroup(jaxreg.L1(1.0), {"*": 0})(tree)
            assert float(joint) == pytest.approx(np.hypot(0.5, 0.25) + np.hypot(0.75, 4))
