"""The metrics are those of the steps that optax took: read from its own updates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg

PARAMS = {"a": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, -4.0, 2.0])}
LR = 0.1


def grads_at(i: int) -> Any:
    return jax.tree.map(lambda p: jnp.sin(p * (i + 1)) * jnp.asarray([1e-3, 1.0, 30.0][: p.shape[-1]]), PARAMS)


def last_step(tx: Any, steps: int = 4) -> tuple[Any, Any]:
    """The update of the last of some steps and the state after it."""
    state = tx.init(PARAMS)
    for i in range(steps):
        updates, state = tx.update(grads_at(i), state, PARAMS)
    return updates, state


def momentum(state: Any) -> Any:
    """m̂ of Adam's kind from the state, by its formula."""
    mu, count = optax.tree.get(state, "mu"), float(np.max(optax.tree.get_all_with_path(state, "count")[0][1]))
    return jax.tree.map(lambda m: np.asarray(m, np.float64) / (1 - 0.9**count), mu)


SCHEDULE = optax.exponential_decay(LR / 0.5**3, 1, 0.5)  # LR at the fourth step

# optimizer, metric, and where the direction comes from that the update is −τ times of
ADAM = jaxreg.adam_metric()
CASES: dict[str, tuple[Any, Any, Any]] = {
    "adam": (optax.adam(LR), ADAM, momentum),
    "adam eps": (optax.adam(LR, b2=0.9, eps=0.1, eps_root=0.01), jaxreg.adam_metric(0.9, 0.1, 0.01), momentum),
    "adam schedule": (optax.adam(SCHEDULE), ADAM, momentum),
    "adam clipped": (optax.chain(optax.clip_by_global_norm(0.5), optax.adam(LR)), ADAM, momentum),
    "adam injected": (optax.inject_hyperparams(optax.adam)(LR), ADAM, momentum),
    "adam injected schedule": (optax.inject_hyperparams(optax.adam)(SCHEDULE), ADAM, momentum),
    "adam masked": (optax.masked(optax.adam(LR), {"a": True, "b": True}), ADAM, momentum),
    "adamw": (optax.adamw(LR, weight_decay=0.0), ADAM, momentum),
    "nadam": (optax.nadam(LR, b1=0.0), ADAM, lambda state: grads_at(3)),
    "amsgrad": (optax.amsgrad(LR), jaxreg.amsgrad_metric(), momentum),
    "amsgrad eps": (optax.amsgrad(LR, eps=0.1, eps_root=0.2), jaxreg.amsgrad_metric(0.1, 0.2), momentum),
    "adabelief": (optax.adabelief(LR), jaxreg.adabelief_metric(), momentum),
    "adabelief eps": (optax.adabelief(LR, b2=0.9, eps=0.1), jaxreg.adabelief_metric(0.9, 0.1), momentum),
    "rmsprop": (optax.rmsprop(LR), jaxreg.rmsprop_metric(), lambda state: grads_at(3)),
    "rmsprop outside": (
        optax.rmsprop(LR, eps=0.1, eps_in_sqrt=False),
        jaxreg.rmsprop_metric(eps=0.1, eps_in_sqrt=False),
        lambda state: grads_at(3),
    ),
    "rmsprop corrected": (
        optax.rmsprop(LR, decay=0.8, bias_correction=True),
        jaxreg.rmsprop_metric(decay=0.8),
        lambda state: grads_at(3),
    ),
    "adagrad": (optax.adagrad(LR, eps=1e-3), jaxreg.adagrad_metric(1e-3), lambda state: grads_at(3)),
}


@pytest.mark.core
@pytest.mark.parametrize("name", CASES)
def test_the_metric_is_that_of_the_step(name: str) -> None:
    tx, metric, direction = CASES[name]
    updates, state = last_step(tx)
    expected = jax.tree.map(lambda u, d: -np.asarray(u, np.float64) / np.asarray(d), updates, direction(state))
    for step, tau in zip(jax.tree.leaves(metric(state, PARAMS)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(LR * step, tau, rtol=2e-5)
    assert np.ptp(np.log10(jax.tree.leaves(expected)[1])) > 0.3  # the coordinates differ: there was something to read


def test_masked_leaves_have_no_step() -> None:
    tx = optax.masked(optax.adam(LR), {"a": True, "b": False})
    steps = ADAM(last_step(tx)[1], PARAMS)
    assert steps["a"].shape == (2, 2) and steps["b"] == optax.MaskedNode()


@pytest.mark.parametrize(
    ("inner", "held"),
    [
        (optax.sgd(LR, momentum=0.9), 0),
        (optax.rmsprop(LR), 0),
        (optax.chain(optax.scale_by_adam(), optax.scale_by_adam(), optax.scale(-LR)), 2),
        (optax.partition({"a": optax.adam(LR), "b": optax.adam(LR)}, {"a": "a", "b": "b"}), 2),
    ],
    ids=["sgd", "rmsprop", "two in a chain", "two in a partition"],
)
def test_a_state_with_none_or_two_raises(inner: Any, held: int) -> None:
    tx = jaxreg.proximal(inner, jaxreg.L1(0.1), LR, ADAM)
    with pytest.raises(ValueError, match=rf"`adam_metric` reads the one `ScaleByAdamState` .* holds {held}\."):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
def test_other_dtypes(dtype: str) -> None:
    params = jnp.array([1.0, -2.0], dtype)
    tx = optax.adam(LR)
    _, state = tx.update(jnp.array([0.5, 4.0], dtype), tx.init(params), params)
    step = ADAM(state, params)
    assert step.dtype == jnp.float32
    np.testing.assert_allclose(step, [2.0, 0.25], rtol=1e-2)  # after one step v̂ is g²
