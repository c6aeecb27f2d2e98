"""add_regularization and proximal among the transformations and wrappers of optax."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso

import jaxreg
from tests.benchmarks import programs
from tests.cases import label

PARAMS = {
    "a": {"kernel": jnp.array([[1.0, -2.0], [0.5, 0.0]]), "bias": jnp.array([3.0, -1.0])},
    "b": jnp.array([0.05, -4.0]),
}
GRADS = jax.tree.map(lambda p: jnp.full_like(p, 0.25), PARAMS)
REG = jaxreg.L1L2(0.1, 0.2)
GROUPS = jaxreg.TreeRegularizer({"a/kernel": jaxreg.L1(0.01) + jaxreg.Group(jaxreg.L1(0.1)), "**": None})
RULES = jaxreg.TreeRegularizer({"a/kernel": jaxreg.L1(0.5), "**": None})


def slope(p: Any) -> np.ndarray:
    """∇(0.1·|p| + 0.2·p²), with 0 at 0."""
    return 0.1 * np.sign(p) + 0.4 * np.asarray(p)


def one_update(tx: optax.GradientTransformation, params: Any = None, grads: Any = None) -> Any:
    params, grads = PARAMS if params is None else params, GRADS if grads is None else grads
    return tx.update(grads, tx.init(params), params)[0]


# ------------------------------------------------------------------------------------------------------------- meaning


def test_adds_the_gradient() -> None:
    chex.assert_trees_all_close(
        one_update(jaxreg.add_regularization(REG)), jax.tree.map(lambda p: 0.25 + slope(p), PARAMS)
    )
    update = one_update(jaxreg.add_regularization(RULES))
    np.testing.assert_allclose(update["a"]["kernel"], [[0.75, -0.25], [0.75, 0.25]])
    assert update["a"]["bias"] is GRADS["a"]["bias"]


def test_before_an_optimizer_it_is_the_penalty_in_the_loss() -> None:
    def loss(params: Any) -> jax.Array:
        return sum(jnp.sum(jnp.cos(p)) for p in jax.tree.leaves(params))

    inside = optax.adam(0.1)
    outside = optax.chain(jaxreg.add_regularization(REG), optax.adam(0.1))
    tree = jaxreg.TreeRegularizer({"**": REG})
    p, q, s, t = PARAMS, PARAMS, inside.init(PARAMS), outside.init(PARAMS)
    for _ in range(5):
        u, s = inside.update(jax.grad(lambda p: loss(p) + tree(p))(p), s, p)
        v, t = outside.update(jax.grad(loss)(q), t, q)
        p, q = optax.apply_updates(p, u), optax.apply_updates(q, v)
    chex.assert_trees_all_close(p, q, rtol=1e-5)


@pytest.mark.parametrize("mask", [None, {"a": {"kernel": True, "bias": False}, "b": False}])
def test_decoupled_l2_of_half_the_weight_decay_is_adamw(mask: Any) -> None:
    wd, lr = 0.1, optax.linear_schedule(0.1, 0.01, 10)
    reg: Any = (
        jaxreg.L2(wd / 2) if mask is None else jaxreg.TreeRegularizer({"a/kernel": jaxreg.L2.from_weight_decay(wd)})
    )
    ours = optax.chain(optax.scale_by_adam(), jaxreg.add_regularization(reg), optax.scale_by_learning_rate(lr))
    theirs = optax.adamw(lr, weight_decay=wd, mask=mask)
    p, q, s, t = PARAMS, PARAMS, ours.init(PARAMS), theirs.init(PARAMS)
    for i in range(10):
        grads = jax.tree.map(lambda x, i=i: jnp.sin(x + i), PARAMS)
        u, s = ours.update(grads, s, p)
        v, t = theirs.update(grads, t, q)
        p, q = optax.apply_updates(p, u), optax.apply_updates(q, v)
    chex.assert_trees_all_close(p, q)


def test_schedules_see_the_step_before_the_increment_and_do_not_retrace() -> None:
    traces = []

    def schedule(count: jax.Array) -> jaxreg.L2:
        traces.append(count)
        return jaxreg.L2(optax.piecewise_constant_schedule(1.0, {2: 0.5})(count))

    tx = jaxreg.add_regularization(schedule, track=True)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    seen = []
    for _ in range(4):
        updates, state = update(GRADS, state, PARAMS)
        seen.append(float(updates["b"][1]))
    assert seen == pytest.approx([0.25 - 8, 0.25 - 8, 0.25 - 4, 0.25 - 4])
    assert len(traces) == 1 and state.count == 4
    # the optax schedule at the same place in the chain gives the same values
    chain = optax.add_decayed_weights(lambda count: 2 * optax.piecewise_constant_schedule(1.0, {2: 0.5})(count))
    other = chain.init(PARAMS)
    for value in seen:
        updates, other = chain.update(GRADS, other, PARAMS)
        assert float(updates["b"][1]) == pytest.approx(value)


@pytest.mark.parametrize("wd", [0.1, 2.0])
def test_cautious_decay_is_that_of_the_paper(wd: float) -> None:
    """w ← w − η·(u + λ·1[u·w ≥ 0]·w), arXiv:2510.12402, Algorithm 1, on Adam's direction u."""
    tx = optax.chain(
        optax.scale_by_adam(),
        jaxreg.add_regularization(jaxreg.L2(wd / 2), cautious=True),
        optax.scale_by_learning_rate(0.1),
    )
    adam = optax.scale_by_adam()
    w, state, adam_state = jnp.array([1.0, -2.0, 0.5, 0.0]), None, None
    decayed = set()
    for i in range(6):
        grads = jnp.sin(jnp.arange(4.0) + 2 * i)
        state, adam_state = state or tx.init(w), adam_state or adam.init(w)
        u, adam_state = adam.update(grads, adam_state)
        expected = np.asarray(w) - 0.1 * (np.asarray(u) + wd * np.where(np.asarray(u * w) >= 0, w, 0))
        updates, state = tx.update(grads, state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-7)
        decayed |= set((np.asarray(u * w) >= 0).tolist())
    assert decayed == {True, False}


@pytest.mark.parametrize("reg", [jaxreg.L1(0.3), jaxreg.Group(jaxreg.L1(0.3)), jaxreg.MCP(0.3)], ids=str)
def test_any_penalty_decays_cautiously(reg: Any) -> None:
    w, u = jnp.array([1.0, -2.0, 0.5, 0.0]), jnp.array([0.2, 0.2, -0.1, 0.3])
    slope = np.asarray(jax.grad(reg)(w))
    for sign in (1, -1):
        (updates,) = [one_update(jaxreg.add_regularization(reg, cautious=True), w, sign * u)]
        np.testing.assert_allclose(updates, sign * u + np.where(sign * np.asarray(u) * slope >= 0, slope, 0), rtol=1e-6)


def test_track_keeps_the_penalty_of_the_parameters() -> None:
    tx = optax.chain(jaxreg.add_regularization(REG, track=True), optax.adam(0.1))
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(PARAMS)])
    np.testing.assert_allclose(
        optax.tree.get(state, "penalty"), 0.1 * abs(leaves).sum() + 0.2 * (leaves**2).sum(), rtol=1e-6
    )
    plain = jaxreg.add_regularization(REG)
    assert plain.update(GRADS, plain.init(PARAMS), PARAMS)[1].penalty is None


def test_proximal_ends_at_the_prox_of_the_step() -> None:
    after = optax.apply_updates(PARAMS, one_update(jaxreg.proximal(optax.sgd(0.2), jaxreg.L1(1.0), 0.2)))
    expected = jax.tree.map(lambda p: np.sign(p - 0.05) * np.maximum(abs(np.asarray(p) - 0.05) - 0.2, 0), PARAMS)
    chex.assert_trees_all_close(after, expected)
    assert after["b"][0] == 0 and after["a"]["kernel"][1, 1] == 0
    only_kernel = optax.apply_updates(PARAMS, one_update(jaxreg.proximal(optax.sgd(0.2), RULES, 0.2)))
    np.testing.assert_allclose(only_kernel["b"], PARAMS["b"] - 0.05)


@pytest.mark.parametrize("peer", [Lasso(alpha=0.5), ElasticNet(alpha=0.5, l1_ratio=0.7)], ids=["lasso", "elastic net"])
def test_proximal_gradient_descent_reaches_the_optimum_of_scikit_learn(peer: Any) -> None:
    data = load_diabetes(scaled=True)
    x, y = data.data * np.sqrt(len(data.data)), data.target - data.target.mean()
    ratio = getattr(peer, "l1_ratio", 1.0) if isinstance(peer, ElasticNet) and not isinstance(peer, Lasso) else 1.0
    reg = jaxreg.L1L2(0.5 * ratio, 0.5 * 0.5 * (1 - ratio))
    best = peer.set_params(fit_intercept=False, tol=1e-14, max_iter=1_000_000).fit(x, y).coef_
    with jax.enable_x64(True):
        gram, moment = jnp.asarray(x.T @ x / len(x)), jnp.asarray(x.T @ y / len(x))
        lr = 1.0 / float(np.linalg.eigvalsh(gram)[-1])
        tx = jaxreg.proximal(optax.sgd(lr), reg, lr)

        def step(carry: Any, _: Any) -> Any:
            w, state = carry
            updates, state = tx.update(gram @ w - moment, state, w)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.zeros(x.shape[1])
        (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=20_000)

        def objective(w: Any) -> float:
            return float(
                ((x @ w - y) ** 2).sum() / (2 * len(x))
                + 0.5 * ratio * abs(w).sum()
                + 0.125 * 2 * (1 - ratio) * (w**2).sum()
            )

        assert objective(np.asarray(w)) <= objective(best) * (1 + 1e-10)
        np.testing.assert_array_equal(np.asarray(w) == 0, best == 0)
        assert (best == 0).any() or ratio < 1


def test_the_gradient_in_the_loss_gives_no_zero_where_the_prox_gives_many() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(200, 20)), jnp.float32)
    y = x[:, :3] @ jnp.array([1.0, -2.0, 3.0])

    def train(tx: optax.GradientTransformation) -> jax.Array:
        def step(carry: Any, _: Any) -> Any:
            w, state = carry
            updates, state = tx.update(x.T @ (x @ w - y) / 200, state, w)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.full(20, 0.5)
        return jax.jit(lambda w, state: jax.lax.scan(step, (w, state), length=500)[0][0])(w, tx.init(w))

    reg = jaxreg.L1(0.1)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    for inner, zeros in ((optax.sgd(0.1), 17), (clipped, 17), (optax.adam(0.1), 8)):
        assert (train(jaxreg.proximal(inner, reg, 0.1)) == 0).sum() >= zeros
        assert (train(optax.chain(jaxreg.add_regularization(reg), inner)) == 0).sum() == 0


# --------------------------------------------------------------------------------------------------- wrappers of optax

FACTORIES: dict[str, Callable[[], optax.GradientTransformationExtraArgs]] = {
    "coupled": lambda: optax.chain(jaxreg.add_regularization(REG), optax.adam(0.1)),
    "decoupled": lambda: optax.chain(
        optax.scale_by_adam(), jaxreg.add_regularization(REG), optax.scale_by_learning_rate(0.1)
    ),
    "tracked": lambda: optax.chain(jaxreg.add_regularization(REG, track=True), optax.sgd(0.1, momentum=0.9)),
    "proximal": lambda: jaxreg.proximal(optax.sgd(0.1), REG, 0.1),
    "proximal, adam": lambda: jaxreg.proximal(optax.adam(0.1), RULES, optax.linear_schedule(0.1, 0.0, 100)),
    "adam's metric": lambda: jaxreg.proximal_adam(0.1, REG),
    "adam's metric, groups": lambda: jaxreg.proximal_adam(0.1, GROUPS),
    "adam's metric, moments by group": lambda: jaxreg.proximal_adam(0.1, GROUPS, moments="group"),
    "cautious": lambda: optax.chain(
        optax.scale_by_adam(),
        jaxreg.add_regularization(lambda step: (step + 1) * REG, cautious=True),
        optax.scale_by_learning_rate(0.1),
    ),
}
each_factory = pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)


@each_factory
def test_init_is_abstract_and_jit_keeps_the_structure(make: Callable[[], Any]) -> None:
    tx = make()
    state = tx.init(PARAMS)
    abstract = jax.eval_shape(tx.init, jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS))
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    updates, new_state = jax.jit(tx.update)(GRADS, state, PARAMS)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert jax.tree.map(lambda s: (s.shape, s.dtype), new_state) == jax.tree.map(lambda s: (s.shape, s.dtype), state)
    chex.assert_trees_all_close(updates, tx.update(GRADS, state, PARAMS)[0])


@each_factory
def test_map_params(make: Callable[[], Any]) -> None:
    tx = make()
    state = tx.init(PARAMS)
    mapped = optax.tree.map_params(tx, lambda _: "parameter", state, transform_non_params=lambda _: "other")
    assert set(jax.tree.leaves(mapped)) <= {"parameter", "other"}


@each_factory
def test_missing_params(make: Callable[[], Any]) -> None:
    tx = make()
    with pytest.raises(ValueError, match=r"needs the parameters: call `tx\.update\(grads, state, params\)`"):
        tx.update(GRADS, tx.init(PARAMS))


@each_factory
def test_extra_arguments_are_swallowed(make: Callable[[], Any]) -> None:
    tx = make()
    chex.assert_trees_all_close(tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0, epoch=3)[0], one_update(tx))


@each_factory
def test_none_leaves_stay_none(make: Callable[[], Any]) -> None:
    tx = make()
    params = {**PARAMS, "c": {"frozen": None}}
    grads = {**GRADS, "c": {"frozen": None}}
    updates = one_update(tx, params, grads)
    assert updates["c"] == {"frozen": None}
    chex.assert_trees_all_close({"a": updates["a"], "b": updates["b"]}, one_update(tx))


def test_missing_updates_are_left_alone() -> None:
    for tx in (jaxreg.add_regularization(REG), jaxreg.proximal(optax.identity(), REG, 0.1)):
        updates = one_update(tx, PARAMS, {"a": None, "b": GRADS["b"]})
        assert updates["a"] is None and updates["b"].shape == (2,)


@pytest.mark.parametrize("rules", [REG, RULES], ids=["everywhere", "rules"])
def test_masked(rules: Any) -> None:
    mask = {"a": True, "b": False}
    coupled = one_update(optax.masked(jaxreg.add_regularization(rules), mask))
    np.testing.assert_array_equal(coupled["b"], GRADS["b"])
    chex.assert_trees_all_close(coupled["a"], one_update(jaxreg.add_regularization(rules))["a"])
    proximal = one_update(optax.masked(jaxreg.proximal(optax.sgd(0.1), rules, 0.1), mask))
    np.testing.assert_array_equal(proximal["b"], GRADS["b"])
    chex.assert_trees_all_close(proximal["a"], one_update(jaxreg.proximal(optax.sgd(0.1), rules, 0.1))["a"])


def test_partition_shows_each_part_its_leaves() -> None:
    labels = {"a": {"kernel": "sparse", "bias": "plain"}, "b": "frozen"}
    for inside in (jaxreg.L1(1.0), jaxreg.TreeRegularizer({"a/kernel": jaxreg.L1(1.0), "b": jaxreg.L2()})):
        tx = optax.partition(
            {
                "sparse": jaxreg.proximal(optax.sgd(0.2), inside, 0.2),
                "plain": optax.sgd(0.2),
                "frozen": optax.set_to_zero(),
            },
            labels,
        )
        after = optax.apply_updates(PARAMS, one_update(tx))
        kernel = np.asarray(PARAMS["a"]["kernel"]) - 0.05
        np.testing.assert_allclose(after["a"]["kernel"], np.sign(kernel) * np.maximum(abs(kernel) - 0.2, 0), rtol=1e-6)
        np.testing.assert_allclose(after["a"]["bias"], PARAMS["a"]["bias"] - 0.05)
        np.testing.assert_array_equal(after["b"], PARAMS["b"])


@each_factory
def test_multi_steps_acts_on_emitting_steps_only(make: Callable[[], Any]) -> None:
    tx = optax.MultiSteps(make(), every_k_schedule=3)
    state, params, update = tx.init(PARAMS), PARAMS, jax.jit(tx.update)
    for i in range(6):
        updates, state = update(GRADS, state, params)
        if i % 3 != 2:
            assert all((u == 0).all() for u in jax.tree.leaves(updates))
        params = optax.apply_updates(params, updates)
    tx, expected = make(), PARAMS
    state, update = tx.init(expected), jax.jit(tx.update)
    for _ in range(2):
        updates, state = update(GRADS, state, expected)
        expected = optax.apply_updates(expected, updates)
    chex.assert_trees_all_close(params, expected, atol=1e-6)
    for leaf, other in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(leaf == 0, other == 0)


@each_factory
def test_apply_if_finite_skips_bad_gradients(make: Callable[[], Any]) -> None:
    tx = optax.apply_if_finite(make(), max_consecutive_errors=5)
    bad = jax.tree.map(lambda g: g * jnp.nan, GRADS)
    state = tx.init(PARAMS)
    updates, state = tx.update(bad, state, PARAMS)
    assert all((u == 0).all() for u in jax.tree.leaves(updates))
    updates, state = tx.update(GRADS, state, PARAMS)
    chex.assert_trees_all_close(updates, one_update(make()))


def test_inject_hyperparams_takes_numbers_into_a_factory() -> None:
    def factory(learning_rate: Any, strength: Any) -> Any:
        reg = jaxreg.L1(strength)
        return jaxreg.proximal(optax.sgd(learning_rate), reg, learning_rate)

    tx = optax.inject_hyperparams(factory)(learning_rate=0.2, strength=optax.linear_schedule(1.0, 0.0, 2))
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for strength in (1.0, 0.5, 0.0):
        updates, state = update(zeros, state, PARAMS)
        np.testing.assert_allclose(updates["b"][1], 0.2 * strength, rtol=1e-5, atol=1e-7)
    state.hyperparams["learning_rate"] = jnp.asarray(0.4)
    assert update._cache_size() == 1


def test_inject_hyperparams_with_a_regularizer_says_what_to_do() -> None:
    for factory, arguments in (
        (jaxreg.add_regularization, {}),
        (jaxreg.proximal, {"inner": optax.sgd(0.1), "learning_rate": 0.1}),
    ):
        with pytest.raises(TypeError, match="inject numbers and build the regularizer inside"):
            optax.inject_hyperparams(factory)(reg=jaxreg.L2(0.1), **arguments).init(PARAMS)


def test_learning_rate_is_read_from_inject_hyperparams() -> None:
    schedule = optax.piecewise_constant_schedule(0.2, {1: 0.5})
    for inner in (
        optax.inject_hyperparams(optax.sgd)(schedule),
        optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.sgd)(0.2)),
    ):
        tx = jaxreg.proximal(inner, jaxreg.L1(1.0))
        updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
        chex.assert_trees_all_close(updates, one_update(jaxreg.proximal(optax.sgd(0.2), jaxreg.L1(1.0), 0.2)))
    tx = jaxreg.proximal(optax.inject_hyperparams(optax.sgd)(schedule), jaxreg.L1(1.0))
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    updates, _ = tx.update(GRADS, state, PARAMS)
    chex.assert_trees_all_close(updates, one_update(jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(1.0), 0.1)))
    for inner in (optax.sgd(0.1), optax.chain(*[optax.inject_hyperparams(optax.sgd)(0.1)] * 2)):
        tx = jaxreg.proximal(inner, REG)
        with pytest.raises(ValueError, match=r"reads the learning rate from `optax\.inject_hyperparams`.*holds [02]"):
            tx.update(GRADS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("reg", ["l2", 0.1, None, {"**": jaxreg.L2()}, jaxreg.L2, [jaxreg.L2()]], ids=repr)
def test_wrong_regularizers(reg: Any) -> None:
    with pytest.raises(TypeError, match="`add_regularization` takes a regularizer"):
        jaxreg.add_regularization(reg)
    with pytest.raises(TypeError, match="`proximal` takes a regularizer"):
        jaxreg.proximal(optax.sgd(0.1), reg, 0.1)


def test_a_penalty_function_is_no_schedule() -> None:
    with pytest.raises(TypeError, match=r"is a schedule of the step.*TreeRegularizer"):
        one_update(jaxreg.add_regularization(lambda x: jnp.sum(x**2)))
    update = one_update(jaxreg.add_regularization(jaxreg.TreeRegularizer({"**": lambda x: jnp.sum(x**2)})))
    np.testing.assert_allclose(update["b"], 0.25 + 2 * PARAMS["b"])


@pytest.mark.parametrize("learning_rate", ["0.1", -0.1, True, jnp.ones(3), jnp.nan])
def test_wrong_learning_rates(learning_rate: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"proximal\(learning_rate"):
        jaxreg.proximal(optax.sgd(0.1), REG, learning_rate)


def test_a_misspelt_pattern_raises_in_the_first_update() -> None:
    reg = jaxreg.TreeRegularizer({"**/kernal": jaxreg.L2()})
    for tx in (jaxreg.add_regularization(reg), jaxreg.proximal(optax.sgd(0.1), reg, 0.1)):
        with pytest.raises(ValueError, match="No leaf matches the pattern"):
            one_update(tx)


# --------------------------------------------------------------------------------------------------- dtypes and memory


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(dtype: Any) -> None:
    params, grads = (jax.tree.map(lambda x: x.astype(dtype), tree) for tree in (PARAMS, GRADS))
    for reg in (jaxreg.L1(0.5), jaxreg.L1(jnp.float32(0.5))):
        for tx in (jaxreg.add_regularization(reg), jaxreg.proximal(optax.sgd(0.1), reg, 0.1)):
            updates = one_update(tx, params, grads)
            assert all(u.dtype == dtype for u in jax.tree.leaves(updates))
    after = optax.apply_updates(params, one_update(jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(1.0), 0.1), params, grads))
    assert after["b"][0] == 0 and after["b"].dtype == dtype
    mixed = one_update(jaxreg.add_regularization(REG), params, GRADS)
    assert all(u.dtype == jnp.float32 for u in jax.tree.leaves(mixed))


def test_exact_zeros_survive_apply_updates() -> None:
    rng = np.random.default_rng(0)
    for dtype in (jnp.float32, jnp.bfloat16):
        params = jnp.asarray(rng.normal(size=10_000), dtype)
        tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(5.0), 0.1)
        grads = jnp.asarray(rng.normal(size=10_000), dtype)
        updates, _ = tx.update(grads, tx.init(params), params)
        # in exact arithmetic |p − 0.1·g| ≤ 0.5 goes to 0; the margin is for the rounding of p − 0.1·g
        moved = np.asarray(params, np.float64) - 0.1 * np.asarray(grads, np.float64)
        assert (optax.apply_updates(params, updates)[abs(moved) < 0.49] == 0).all()


def test_integer_leaves_pass() -> None:
    params = {"w": jnp.ones(2), "n": jnp.arange(3)}
    grads = {"w": jnp.ones(2), "n": jnp.zeros(3, jnp.int32)}
    for tx in (jaxreg.add_regularization(REG), jaxreg.proximal(optax.identity(), REG, 0.1)):
        np.testing.assert_array_equal(one_update(tx, params, grads)["n"], grads["n"])


def compiled_step(tx: Any) -> Any:
    params = {"a": {"kernel": jnp.ones((512, 512))}, "b": jnp.ones(1000)}

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return programs.compile_(step, params, tx.init(params), params, donate=(0, 1))


@functools.cache
def plain_step() -> Any:
    return compiled_step(optax.adam(0.1))


LASSO_AND_RIDGE = jaxreg.L1(0.1) + jaxreg.L2(0.2)
COSTS = {
    **{name: FACTORIES[name] for name in ("coupled", "decoupled", "proximal, adam", "adam's metric")},
    **{
        f"adam's metric, {label(reg)}": lambda reg=reg: jaxreg.proximal_adam(0.1, reg)
        for reg in (
            jaxreg.L1(0.1),
            jaxreg.L2(0.1),
            LASSO_AND_RIDGE,
            jaxreg.Huber(0.1),
            jaxreg.Lq(0.1),
            jaxreg.NonNegative(),
        )
    },
    "adam's metric, MCP": lambda: jaxreg.proximal_adam(0.1, jaxreg.MCP(0.1), max_step=0.1),
    "no bound": lambda: jaxreg.proximal_adam(0.1, jaxreg.L1L2(0.1, 0.1), max_step=np.inf),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_donated_step_costs_what_plain_adam_costs(name: str) -> None:
    plain, ours = plain_step(), compiled_step(COSTS[name]())
    assert ours.memory_analysis().temp_size_in_bytes <= plain.memory_analysis().temp_size_in_bytes + 4096
    if "metric" in name:  # no second pass: the bytes read and written are those of plain Adam
        assert ours.cost_analysis()["bytes accessed"] <= 1.01 * plain.cost_analysis()["bytes accessed"]


def test_training_with_changing_coefficients_compiles_once() -> None:
    @jax.jit
    def step(params: Any, state: Any, reg: jaxreg.L1) -> Any:
        tx = optax.chain(jaxreg.add_regularization(reg), optax.sgd(0.1))
        updates, state = tx.update(GRADS, state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, optax.chain(jaxreg.add_regularization(jaxreg.L1()), optax.sgd(0.1)).init(PARAMS)
    for strength in (0.1, 2, np.float32(0.3)):
        params, state = step(params, state, jaxreg.L1(strength))
    assert step._cache_size() == 1


# ---------------------------------------------------------------------------------------------------------------- Flax


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(nn.relu(nn.Dense(8)(x)))


def test_linen_train_state() -> None:
    model = Net()
    x, y = jnp.ones((4, 3)), jnp.zeros((4, 1))
    params = model.init(jax.random.key(0), x)["params"]
    reg = jaxreg.TreeRegularizer({"*/kernel": jaxreg.L1(2.0), "*/bias": None})
    state = TrainState.create(apply_fn=model.apply, params=params, tx=jaxreg.proximal(optax.adam(0.05), reg, 0.05))

    @jax.jit
    def step(state: TrainState) -> TrainState:
        grads = jax.grad(lambda p: jnp.mean((state.apply_fn({"params": p}, x) - y) ** 2))(state.params)
        return state.apply_gradients(grads=grads)

    state = state.replace(step=jnp.zeros([], jnp.int32))  # Flax starts from a Python 0, which compiles once more
    for _ in range(30):
        state = step(state)
    assert step._cache_size() == 1
    assert (state.params["Dense_0"]["kernel"] == 0).mean() > 0.5 and (state.params["Dense_0"]["bias"] != 0).any()


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.MultiSteps(tx, 2), optax.with_extra_args_support])
def test_nnx_optimizer(wrap: Callable[[Any], Any]) -> None:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    kernel = np.asarray(model.kernel[...])
    reg = jaxreg.TreeRegularizer({"kernel": jaxreg.L1(2.0), "bias": None})
    optimizer = nnx.Optimizer(model, wrap(jaxreg.proximal(optax.sgd(0.3), reg, 0.3)), wrt=nnx.Param)

    @nnx.jit
    def step(model: nnx.Linear, optimizer: nnx.Optimizer) -> None:
        grads = nnx.grad(lambda model: 0.0 * jnp.sum(model(jnp.ones((1, 3)))))(model)
        optimizer.update(model, grads)

    step(model, optimizer)
    step(model, optimizer)
    steps = 1 if isinstance(wrap(optax.sgd(0.1)), optax.MultiSteps) else 2
    np.testing.assert_allclose(model.kernel[...], np.sign(kernel) * np.maximum(abs(kernel) - 0.6 * steps, 0), atol=1e-6)
    assert (model.kernel[...] == 0).any()


def test_linen_partitioned_parameters() -> None:
    model = nn.Dense(2, kernel_init=nn.with_partitioning(nn.initializers.ones, (None, "model")))
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    tx = optax.chain(jaxreg.add_regularization(jaxreg.TreeRegularizer({"kernel": jaxreg.L2(0.5)})), optax.sgd(1.0))
    zeros = jax.tree.map(jnp.zeros_like, params)
    after = optax.apply_updates(params, tx.update(zeros, tx.init(params), params)[0])
    assert isinstance(after["kernel"], nn.Partitioned)
    np.testing.assert_array_equal(after["kernel"].unbox(), jnp.zeros((3, 2)))


# -------------------------------------------------------------------------------------------- more of what optax offers


def test_other_wrappers_pass_the_zeros_through() -> None:
    def sparse() -> Any:
        return jaxreg.proximal(optax.sgd(0.2), jaxreg.L1(1.0), 0.2)

    expected = one_update(sparse())
    for tx in (
        optax.named_chain(("proximal", sparse())),
        optax.conditionally_transform(sparse(), lambda step, *_: step % 2 == 0),
        optax.flatten(sparse()),
        optax.chain(sparse(), optax.identity()),
    ):
        after = optax.apply_updates(PARAMS, one_update(tx))
        chex.assert_trees_all_close(after, optax.apply_updates(PARAMS, expected))
        assert after["b"][0] == 0


def test_flatten_hides_the_paths_and_says_so() -> None:
    tx = optax.flatten(jaxreg.add_regularization(RULES))
    with pytest.raises(ValueError, match=r"No leaf matches the pattern 'a/kernel'; paths are \[''\]"):
        one_update(tx)


def test_lookahead_takes_the_proximal_optimizer_inside() -> None:
    tx = optax.lookahead(jaxreg.proximal(optax.sgd(0.2), RULES, 0.2), sync_period=5, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    updates, _ = tx.update(GRADS, tx.init(params), params)
    fast = optax.apply_updates(params, updates).fast
    chex.assert_trees_all_close(
        fast, optax.apply_updates(PARAMS, one_update(jaxreg.proximal(optax.sgd(0.2), RULES, 0.2)))
    )


def test_float64() -> None:
    with jax.enable_x64(True):
        params = {"w": jnp.array([1.0, 1e-12]), "v": jnp.ones(2, jnp.float32)}
        zeros = jax.tree.map(jnp.zeros_like, params)
        for tx in (jaxreg.add_regularization(REG, track=True), jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(1e-3), 0.1)):
            updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
            assert updates["w"].dtype == jnp.float64 and updates["v"].dtype == jnp.float32
        assert optax.apply_updates(params, updates)["w"][1] == 0


@each_factory
def test_donated_buffers(make: Callable[[], Any]) -> None:
    tx = make()

    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(GRADS, state, params)
        return optax.apply_updates(params, updates), state

    expected = step(PARAMS, tx.init(PARAMS))[0]
    donated = jax.tree.map(jnp.copy, PARAMS)
    chex.assert_trees_all_close(jax.jit(step, donate_argnums=(0, 1))(donated, tx.init(donated))[0], expected, atol=1e-7)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))


@each_factory
def test_sharded_parameters_keep_their_shardings(make: Callable[[], Any]) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = {
        "a": {"kernel": np.linspace(-1, 1, 64).reshape(16, 4), "bias": np.linspace(-1, 1, 16)},
        "b": np.ones(8),
    }
    params = jax.tree.map(jnp.float32, params)
    sharded = jax.tree.map(lambda p: jax.device_put(p, spread), params)
    tx = make()
    update = jax.jit(tx.update)
    expected, _ = update(params, tx.init(params), params)
    updates, _ = update(sharded, tx.init(sharded), sharded)
    chex.assert_trees_all_close(updates, expected, atol=1e-6)
    assert all(u.sharding.is_equivalent_to(spread, u.ndim) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("params", [{}, {"a": None}, (), {"a": {}}], ids=str)
def test_a_tree_without_leaves(params: Any) -> None:
    reg = jaxreg.L1(0.1)
    for tx in (
        jaxreg.add_regularization(reg),
        jaxreg.proximal(optax.sgd(0.1), reg, 0.1),
        jaxreg.proximal_adam(0.1, reg),
    ):
        state = tx.init(params)
        updates, after = tx.update(params, state, params)
        assert updates == params and jax.tree.structure(after) == jax.tree.structure(state)
