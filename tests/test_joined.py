"""Joined: a penalty of several leaves as one vector, against NumPy on the concatenated leaves; where it is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg

RNG = np.random.default_rng(0)
TREE = {"a": RNG.normal(size=(2, 3)).astype(np.float32), "b": [RNG.normal(size=2).astype(np.float32), np.arange(2)]}
V = np.concatenate([TREE["a"].ravel(), TREE["b"][0]]).astype(float)
NORM = np.linalg.norm(V)


def simplex(v):
    """The nearest point of the simplex, by bisection for the threshold."""
    low, high = v.min() - 1, v.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(v - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(v - low, 0)


CASES = {
    "ball": (jaxreg.MaxNorm(0.5, axis=0), V * 0.5 / NORM),
    "sphere": (jaxreg.UnitNorm(axis=0, radius=2.0), V * 2 / NORM),
    "norm": (jaxreg.Group(jaxreg.L1(0.3), axis=0), V * (1 - 0.3 / NORM)),
    "simplex": (jaxreg.Simplex(), simplex(V)),
    "largest": (jaxreg.TopK(3), np.where(np.abs(V) >= np.sort(np.abs(V))[-3], V, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_operator_is_that_of_the_vector(name):
    penalty, expected = CASES[name]
    moved = jaxreg.Joined(penalty).prox(TREE)
    np.testing.assert_allclose(np.append(moved["a"].ravel(), moved["b"][0]), expected, atol=1e-6)
    assert moved["b"][1] is TREE["b"][1]
    # and of some of the leaves
    alone = jaxreg.Joined(penalty, "b/*").prox(TREE)
    np.testing.assert_allclose(alone["b"][0], penalty.prox(TREE["b"][0]), atol=1e-6)
    assert alone["a"] is TREE["a"]


def test_value_breakdown_gradient_multiples_and_json():
    joined = 2 * jaxreg.Joined(jaxreg.Group(jaxreg.L1(0.3), axis=0))
    np.testing.assert_allclose(joined(TREE), 0.6 * NORM, rtol=1e-6)
    (paths,) = joined.breakdown(TREE)
    assert paths == "a, b/0" and set(joined.assignment(TREE)) == {"a", "b/0"}
    floats = {"a": TREE["a"], "b": TREE["b"][0]}
    np.testing.assert_allclose(jax.grad(joined)(floats)["a"], 0.6 * TREE["a"] / NORM, rtol=1e-5)
    assert jaxreg.deserialize(json.loads(json.dumps(jaxreg.serialize(joined)))) == joined
    assert jaxreg.Joined("l2") == jaxreg.Joined(jaxreg.L2())


def test_steps_of_leaves_and_of_entries_and_dtypes():
    steps = {"a": np.full((2, 3), 0.5, np.float32), "b": [2.0, None]}
    moved = jaxreg.Joined(jaxreg.L1(0.3)).prox(TREE, steps)
    thresholds = 0.3 * np.array([0.5] * 6 + [2.0] * 2)
    expected = np.sign(V) * np.maximum(np.abs(V) - thresholds, 0)
    np.testing.assert_allclose(np.append(moved["a"].ravel(), moved["b"][0]), expected, atol=1e-6)
    mixed = {"a": jnp.asarray([3.0], jnp.bfloat16), "b": jnp.asarray([4j], jnp.complex64)}
    moved = jaxreg.Joined(jaxreg.MaxNorm(1.0, axis=0)).prox(mixed)
    assert moved["a"].dtype == jnp.bfloat16 and moved["b"].dtype == jnp.complex64
    np.testing.assert_allclose([float(moved["a"][0]), moved["b"][0]], [0.6, 0.8j], rtol=5e-3)


def test_minima_in_a_ball_of_all_leaves():
    """The nearest point of the ball of radius 1 to (3, 4)."""
    found = jaxreg.minimize(
        lambda p: 0.5 * (p["a"] - 3) ** 2 + 0.5 * (p["b"] - 4) ** 2,
        jaxreg.Joined(jaxreg.MaxNorm(1.0, axis=0)),
        {"a": 0.0, "b": 0.0},
    )
    assert found.converged
    np.testing.assert_allclose([found.params["a"], found.params["b"]], [0.6, 0.8], atol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda joined: joined + jaxreg.TreeRegularizer({"**": jaxreg.L2(0.1)}),
        lambda joined: 2 * jaxreg.TreeRegularizer({"b/*": jaxreg.L2(0.1)}) + joined,
        lambda joined: jaxreg.add_regularization(joined).update(TREE, optax.EmptyState(), TREE),
    ],
    ids=["sum", "sum of others", "gradients"],
)
def test_one_leaf_has_no_answer(call):
    with pytest.raises(NotImplementedError, match=r"`Joined`: a leaf has no .* of its own.*loss\(params\) \+ joined"):
        call(jaxreg.Joined(jaxreg.MaxNorm(1.0, axis=0)))


def test_a_pattern_that_matches_nothing_and_configs_of_another_form():
    with pytest.raises(ValueError, match="No leaf matches the pattern 'c'"):
        jaxreg.Joined(jaxreg.L2(), "c")(TREE)
    with pytest.raises(ValueError, match=r"`Joined.from_config` takes .*got \{\}"):
        jaxreg.Joined.from_config({})


def test_steps_of_a_latent_point_add_up_and_have_their_limit():
    """Without gradients w_k = (1 − 0.3·T_k/‖v‖)·v, T_k the sum of the steps, each at most `max_step`."""
    joined, params = jaxreg.Joined(CASES["norm"][0], "a"), {"a": TREE["a"]}
    norm = np.linalg.norm(TREE["a"])
    for options, total in (
        ({"latent": True}, 0.3),
        ({"max_step": 0.01}, 0.03),
        ({"latent": True, "max_step": 0.01}, 0.03),
    ):
        tx = jaxreg.proximal(optax.sgd(0.1), joined, 0.1, **options)
        w, state = params, tx.init(params)
        for _ in range(3):
            updates, state = tx.update({"a": np.zeros((2, 3), np.float32)}, state, w)
            w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w["a"], TREE["a"] * (1 - 0.3 * total / norm), rtol=1e-5)


def test_adam_pulls_no_entry_without_a_gradient_by_more_than_its_step():
    """τ = η/eps there; the pull of the norm, 0.3·w/‖w‖·τ, is bounded by 4η."""
    params = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    tx = jaxreg.proximal_adam(0.01, jaxreg.Joined(CASES["norm"][0]))
    updates, _ = tx.update({"a": jnp.array([1.0]), "b": jnp.array([0.0])}, tx.init(params), params)
    assert -0.0401 < float(updates["b"][0]) < -0.03


def test_an_array_that_stands_in_two_places_counts_once():
    w = jnp.array([3.0, 4.0])
    moved = jaxreg.Joined(jaxreg.MaxNorm(1.0, axis=0)).prox({"a": w, "b": w})
    np.testing.assert_allclose([moved["a"], moved["b"]], [[0.6, 0.8]] * 2, rtol=1e-6)


def test_the_coefficient_at_which_all_leaves_are_zero_and_no_table():
    top = jaxreg.coefficient_max(2 * jaxreg.Joined(jaxreg.Group(jaxreg.L1(), axis=0)), TREE)
    np.testing.assert_allclose(top, NORM / 2, rtol=1e-6)
    with pytest.raises(NotImplementedError, match=r"`summary` .* single leaves, and Joined\(.*`reg.breakdown"):
        jaxreg.summary(jaxreg.Joined(jaxreg.MaxNorm(1.0, axis=0)), TREE)
