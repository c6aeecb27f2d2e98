"""Norms that are kept: `keep_norms` in NumPy and by angles; `UnitNorm` and `Stiefel` through `proximal`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg

PARAMS = {
    "kernel": jnp.float32(np.random.default_rng(0).normal(size=(3, 4))),
    "head": jnp.zeros((4, 2)),
    "bias": jnp.ones(4),
}


def gradients(step: int) -> Any:
    rng = np.random.default_rng(step + 1)
    return jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), PARAMS)


def test_every_step_is_that_of_the_formula() -> None:
    """Momentum in NumPy; a leaf that begins at 0, and biases, are the optimizer's own; the rate follows a schedule."""
    tx, plain = jaxreg.keep_norms(optax.sgd(7.0, 0.5), lambda step: 0.1 / (1 + step)), optax.sgd(7.0, 0.5)
    params, state, update = PARAMS, tx.init(PARAMS), jax.jit(tx.update)
    free, free_state = PARAMS, plain.init(PARAMS)
    w, m = np.asarray(PARAMS["kernel"], float), np.zeros((3, 4))
    radius = np.linalg.norm(w)
    for t in range(4):
        g = gradients(t)
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        updates, free_state = plain.update(g, free_state, free)
        free = optax.apply_updates(free, updates)
        m = np.asarray(g["kernel"], float) + 0.5 * m
        w = w - 0.1 / (1 + t) * radius * m / np.linalg.norm(m)
        w *= radius / np.linalg.norm(w)
        np.testing.assert_allclose(params["kernel"], w, rtol=1e-5, atol=1e-6)
    for name in ("head", "bias"):
        np.testing.assert_array_equal(params[name], free[name])
    assert update._cache_size() == 1 and state.norms["bias"] is None


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_rate_is_the_angle_whatever_the_sizes(scale: float) -> None:
    """At right angles tan θ = η, from Adam's update or from a gradient of any size."""
    params = {"kernel": jnp.array([[3.0, 4.0]]) * scale}
    g = {"kernel": jnp.array([[-4.0, 3.0]]) / scale}
    for optimizer in (optax.sgd(1.0), optax.sgd(1e-3)):
        tx = jaxreg.keep_norms(optimizer, 0.2)
        new = optax.apply_updates(params, tx.update(g, tx.init(params), params)[0])["kernel"].astype(float) / scale
        angle = np.arccos(np.sum(new * np.array([[3.0, 4.0]])) / 25)
        np.testing.assert_allclose([np.linalg.norm(new), np.tan(angle)], [5, 0.2], rtol=1e-5)


def test_a_long_run_stays_on_the_sphere_and_without_gradient_it_stands_still() -> None:
    tx = jaxreg.keep_norms(optax.adamw(1.0, weight_decay=0.1), 0.3, pattern="**/kernel")
    params = {"layer": {"kernel": PARAMS["kernel"]}}

    @jax.jit
    def trained(params: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            g = {"layer": {"kernel": jax.random.normal(key, (3, 4))}}
            updates, state = tx.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(jax.random.key(0), 2000))[0][0]

    end = trained(params)["layer"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(end), np.linalg.norm(PARAMS["kernel"]), rtol=1e-6)
    still = jaxreg.keep_norms(optax.sgd(1.0), 0.3)
    updates, _ = still.update({"kernel": jnp.zeros((3, 4))}, still.init({"kernel": end}), {"kernel": end})
    np.testing.assert_allclose(updates["kernel"], 0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "float64"])
def test_dtypes_wrappers_and_injected_rates(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        params = {"kernel": jnp.asarray(np.eye(2) * 3, dtype), "x": None}
        g = {"kernel": jnp.asarray([[0, 1], [1, 0]], dtype), "x": None}
        inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
        tx = optax.apply_if_finite(jaxreg.keep_norms(inner), 1)
        new = optax.apply_updates(params, tx.update(g, tx.init(params), params)[0])
        assert new["kernel"].dtype == params["kernel"].dtype
        expected = (np.eye(2) - 0.5 * np.eye(2)[::-1]) * 3 / np.sqrt(1.25)
        np.testing.assert_allclose(np.asarray(new["kernel"], complex), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: jaxreg.keep_norms(optax.sgd(0.1), -1.0), ValueError, r"`keep_norms\(learning_rate=...\)` takes"),
        (lambda: jaxreg.keep_norms(optax.sgd(0.1), 0.1, pattern=3), TypeError, "A pattern is a glob"),
        (lambda: jaxreg.keep_norms(optax.sgd(0.1), 0.1).init({"bias": jnp.ones(3)}), ValueError, "No leaf matches"),
        (lambda: jaxreg.keep_norms(optax.sgd(0.1), 0.1).update(PARAMS, None), ValueError, "needs the parameters"),
        (lambda: (tx := jaxreg.keep_norms(optax.sgd(0.1))).update(PARAMS, tx.init(PARAMS), PARAMS), ValueError,
         r"`keep_norms\(learning_rate=None\)` reads the learning rate from `optax.inject_hyperparams`"),
    ],
    ids=["rate", "pattern", "no weight", "params", "no rate"],
)  # fmt: skip
def test_what_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("metric", [None, jaxreg.adam_metric()], ids=["sgd", "adam"])
def test_sets_of_given_norms_hold_through_proximal(metric: Any) -> None:
    """Columns of norm 2, and WᵀW = 4·I, after every step; `Stiefel` in Adam's metric by one inner step."""
    rules = jaxreg.TreeRegularizer(
        {"kernel": jaxreg.UnitNorm(0, radius=2.0), "head": jaxreg.Stiefel(2.0), "bias": None}
    )
    params = {**PARAMS, "head": jnp.float32(np.linalg.qr(np.random.default_rng(9).normal(size=(4, 2)))[0])}
    optimizer = optax.sgd(0.1) if metric is None else optax.adam(0.1)
    tx = jaxreg.proximal(optimizer, rules, 0.1, metric, inner_steps=1)
    state, update = tx.init(params), jax.jit(tx.update)
    before = params
    for t in range(3):
        updates, state = update(gradients(t), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(np.linalg.norm(params["kernel"], axis=0), 2, rtol=1e-5)
        np.testing.assert_allclose(params["head"].T @ params["head"], 4 * np.eye(2), atol=1e-4)
    assert np.abs(params["head"] - 2 * before["head"]).max() > 0.05  # and it moves
