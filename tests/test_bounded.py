"""`bounded`: the minima under a bound, on paper and by projections in NumPy; where the bound comes from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from tests.training import trained

A = np.array([3.0, -1.0, 0.5, 0.0])


def onto_l1_ball(a: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
    """By sorting: the soft threshold that leaves the norm `radius`."""
    u = np.sort(np.abs(a))[::-1]
    t = (np.cumsum(u) - radius) / np.arange(1, a.size + 1)
    threshold = max(0.0, t[np.flatnonzero(u > t)[-1]])
    return np.sign(a) * np.maximum(np.abs(a) - threshold, 0), threshold


def run(tx: Any, w: Any, target: Any, steps: int = 1500) -> tuple[Any, Any]:
    return trained(tx, lambda w: jax.tree.map(jnp.subtract, w, target), w, steps)


def test_the_minima_under_a_bound() -> None:
    """½‖w − a‖²: the projection onto the ball, λ = (‖a‖/‖w‖ − 1)/2 for ‖w‖², the threshold for ‖w‖₁; else a, and 0."""
    rules = {"ball": jaxreg.L2(1.0), "l1": jaxreg.Huber(1.0, 1e-3), "free": jaxreg.L2(0.01), "none": None}
    tx = optax.chain(
        jaxreg.bounded(jaxreg.TreeRegularizer(rules), kappa=2.0, rate=0.05),
        optax.sgd(optax.exponential_decay(0.1, 500, 0.5)),
    )
    params = {name: jnp.ones(4) for name in ("ball", "l1", "free", "none")}
    w, (state, _) = run(tx, params, dict.fromkeys(params, A), 3000)
    np.testing.assert_allclose(w["ball"], A * np.sqrt(2) / np.linalg.norm(A), atol=1e-3)
    np.testing.assert_allclose(state.strength["ball"], (np.linalg.norm(A) / np.sqrt(2) - 1) / 2, rtol=1e-2)
    projected, threshold = onto_l1_ball(A, 2.0)
    np.testing.assert_allclose(w["l1"], projected, atol=2e-2)
    np.testing.assert_allclose(state.strength["l1"], threshold, rtol=2e-2)
    for name in ("free", "none"):
        np.testing.assert_allclose(w[name], A, atol=1e-3)
    assert state.strength["free"] == 0 and state.strength["none"] is None and state.kappa is None


def test_every_step_is_that_of_the_formula() -> None:
    """One leaf in NumPy, with κ = 0.8·R(w) measured at the third step; before it nothing is added."""
    w, strength, bound = np.array([1.0, -2.0]), 0.0, np.inf
    tx = jaxreg.bounded(jaxreg.L2(0.5), None, 0.3, step=2, factor=0.8)
    params, state, update = jnp.float32(w), tx.init(jnp.float32(w)), jax.jit(tx.update)
    for t in range(6):
        value = 0.5 * (w**2).sum()
        bound = 0.8 * value if t == 2 else bound
        strength = max(0.0, strength + 0.3 * (value - bound))
        u = np.array([0.1, 0.1]) + strength * w
        found, state = update(jnp.full(2, 0.1), state, params)
        np.testing.assert_allclose(found, u, rtol=1e-5)
        np.testing.assert_allclose([state.strength, state.kappa], [strength, bound], rtol=1e-5)
        w, params = w - 0.1 * u, params - 0.1 * found
    assert state.strength > 0 and update._cache_size() == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "float64"])
def test_dtypes_and_missing_leaves(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        params = {"w": jnp.asarray([1.0, 2.0], dtype), "n": jnp.int32(1), "x": None}
        grads = {"w": jnp.asarray([1.0, 1.0], dtype), "n": jnp.int32(0), "x": None}
        tx = jaxreg.bounded(jaxreg.L2(1.0), 1.0, 0.5)
        updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
        assert updates["w"].dtype == params["w"].dtype and updates["x"] is None
        assert state.strength["w"].dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
        np.testing.assert_allclose(np.asarray(updates["w"], complex), [5, 9])  # λ = (5 − 1)/2, and 2λw


def test_inside_wrappers() -> None:
    tx = optax.partition({"a": jaxreg.bounded(jaxreg.L2(1.0), 1.0, 0.5), "b": optax.identity()}, {"w": "a", "v": "b"})
    params = {"w": jnp.array([1.0, 2.0]), "v": jnp.ones(2)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["w"].tolist() == [5, 10] and updates["v"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: jaxreg.bounded(jaxreg.L2(1.0), -1.0, 0.1), ValueError, r"`bounded\(kappa=...\)` must be .* got -1.0"),
        (lambda: jaxreg.bounded(jaxreg.L2(1.0), 1.0, 0.0), ValueError, r"`bounded\(rate=...\)` must be .* got 0.0"),
        (lambda: jaxreg.bounded(jaxreg.L2(1.0), 1.0, 0.1, step=3), ValueError, "leave `step` and `factor` out"),
        (lambda: jaxreg.bounded(jaxreg.L2(1.0), None, 0.1, step=-1), ValueError, "an int from 0, got -1"),
        (lambda: jaxreg.bounded(lambda x: x, 1.0, 0.1), TypeError, "takes a regularizer or a `TreeRegularizer`"),
        (lambda: jaxreg.bounded(jaxreg.L2(1.0) + jaxreg.TopK(1), 1.0, 0.1), TypeError, "holds a set.*jaxreg.proximal"),
        (lambda: jaxreg.bounded(jaxreg.TreeBudget(0.1), 1.0, 0.1), TypeError, "holds a set"),
        (lambda: jaxreg.bounded(jaxreg.L2(1.0), 1.0, 0.1).update(A, None), ValueError, "needs the parameters"),
    ],
    ids=["kappa", "rate", "both", "step", "function", "set", "budget", "params"],
)
def test_what_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
