"""`keep_zeros`: what is 0 stays 0 under every optimizer, and the others do what they would without those entries."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxreg
from tests.benchmarks import programs
from tests.training import trained

contrib = optax.contrib
KEPT = np.array([[True, False, True], [False, False, True]])
PARAMS = {"w": jnp.where(KEPT, jnp.array([[1.0, 2.0, -3.0], [4.0, 5.0, -0.5]]), 0), "b": jnp.array([0.0, 2.0])}


def gradients(step: int) -> Any:
    """nan where the parameters are 0."""
    rng = np.random.default_rng(step)
    w, b = rng.normal(size=(2, 3)), rng.normal(size=2)
    return {"w": jnp.float32(np.where(KEPT, w, np.nan)), "b": jnp.float32([np.nan, b[1]])}


def alone(tree: Any) -> Any:
    """The same without the held entries."""
    return {"w": tree["w"][KEPT], "b": tree["b"][1:]}


def run(tx: Any, params: Any, grads: Callable[[int], Any], steps: int = 3) -> tuple[Any, Any]:
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(grads(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


# Optimizers that treat each entry by itself, or all through a norm: without the held entries they are the same.
BY_ENTRY = {
    "momentum and decay": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9, nesterov=True)),
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.5),
    "lion": lambda: optax.lion(0.1),
    "adabelief": lambda: optax.adabelief(0.1),
    "rprop": lambda: optax.rprop(0.1),
    "clipping": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1)),
    "proximal_adam": lambda: jaxreg.proximal_adam(0.1, jaxreg.L1(0.5)),
    "proximal": lambda: jaxreg.proximal(optax.sgd(0.1, 0.5), jaxreg.L2(0.5), 0.1, momentum=0.5),
    "partition": lambda: optax.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1, 0.9)}, {"w": "a", "b": "b"}),
    "masked": lambda: optax.masked(optax.adam(0.1), {"w": True, "b": False}),
    "two steps": lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "averages": lambda: optax.chain(optax.sgd(0.1), optax.ema(0.5)),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
}
# Optimizers that mix entries or make noise: they see gradients of 0, and what they do to held entries is taken away.
MIXING = {
    "muon": lambda: contrib.muon(0.1, weight_decay=0.1),
    "noise": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.adam(0.1)),
    "lbfgs": lambda: optax.lbfgs(0.1, linesearch=None),
    "adafactor": lambda: optax.adafactor(0.1),
    "sign": lambda: optax.chain(optax.centralize(), optax.sign_sgd(0.1)),
}


def numbers(state: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(state) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]


@pytest.mark.parametrize("name", BY_ENTRY)
def test_the_others_do_what_they_would_without_the_held_entries(name: str) -> None:
    params, state = run(jaxreg.keep_zeros(BY_ENTRY[name]()), PARAMS, gradients)
    expected, _ = run(BY_ENTRY[name](), alone(PARAMS), lambda step: alone(gradients(step)))
    assert not np.any(params["w"][~KEPT]) and params["b"][0] == 0
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6), alone(params), expected)
    for x in numbers(state):
        assert np.isfinite(x).all() and (x.shape != (2, 3) or np.max(x[~KEPT]) <= 2e-16)  # AdaBelief adds 1e-16


@pytest.mark.parametrize("name", MIXING)
def test_nothing_moves_a_zero(name: str) -> None:
    tx = MIXING[name]()
    free, _ = run(tx, PARAMS, lambda step: jax.tree.map(jnp.nan_to_num, gradients(step)), 1)
    held, state = run(jaxreg.keep_zeros(tx), PARAMS, gradients, 1)
    np.testing.assert_array_equal(held["w"], jnp.where(KEPT, free["w"], 0))
    assert name in ("lbfgs", "adafactor") or np.any(free["w"][~KEPT])  # these two make multiples of gradients
    assert all(np.isfinite(x).all() for x in numbers(state))


def test_from_a_step_on() -> None:
    """Momentum in NumPy: before `start` nothing is done; from then on zeros have no update and no momentum."""
    g, w = np.array([1.0, 1.0]), np.array([0.0, 0.3])
    tx = jaxreg.keep_zeros(optax.sgd(0.1, 0.5), start=2)
    state, params = tx.init(jnp.float32(w)), jnp.float32(w)
    m = np.zeros(2)
    for step in range(4):
        if step == 2:  # at the same time something is pruned by hand
            w[1], params = 0.0, params.at[1].set(0)
        held = (w == 0) & (step >= 2)
        m = np.where(held, 0, g + 0.5 * m)
        w = w - 0.1 * m
        updates, state = jax.jit(tx.update)(jnp.float32(g), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, w, rtol=1e-6)
        np.testing.assert_allclose(optax.tree.get(state, "trace"), m, rtol=1e-6)
    assert w[1] == 0 != w[0]
    assert isinstance(state, jaxreg.KeepZerosState) and state.count == 4


def test_the_start_may_be_traced_and_injected() -> None:
    @jax.jit
    def after(start: Any) -> Any:
        tx = jaxreg.keep_zeros(optax.sgd(1.0), start)
        w, state = jnp.zeros(2), tx.init(jnp.zeros(2))
        updates, _ = tx.update(jnp.ones(2), state._replace(count=jnp.int32(5)), w)
        return updates

    assert not np.any(after(5)) and np.all(after(6) == -1) and after._cache_size() == 1
    tx = optax.inject_hyperparams(jaxreg.keep_zeros)(optimizer=optax.sgd(1.0), start=1)
    w, state = jnp.zeros(2), tx.init(jnp.zeros(2))
    updates, state = tx.update(jnp.ones(2), state, w)
    assert np.all(updates == -1) and not np.any(tx.update(jnp.ones(2), state, w)[0])


def test_it_has_no_state_of_its_own_and_reads_and_writes_nothing_more() -> None:
    plain = optax.adam(0.1)
    assert jax.tree.structure(plain.init(PARAMS)) == jax.tree.structure(jaxreg.keep_zeros(plain).init(PARAMS))
    params = {"w": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    bare, held = (programs.compiled_step(tx, params) for tx in (plain, jaxreg.keep_zeros(plain)))
    size = 256 * 512 * 4
    assert programs.temporaries(held) <= programs.temporaries(bare) + 0.01 * size
    assert programs.accessed(held) <= programs.accessed(bare) + 2.01 * size  # each moment is a loop of its own on a CPU


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "float64"])
def test_dtypes(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        w = jnp.asarray([0.0, -0.0, 1.0], dtype)
        params, state = run(jaxreg.keep_zeros(optax.adamw(0.1)), w, lambda _: jnp.ones(3, dtype), 2)
        assert params.dtype == w.dtype and optax.tree.get(state, "mu").dtype == w.dtype
        np.testing.assert_array_equal(np.asarray(params == 0), [True, True, False])


def test_leaves_that_are_no_parameters_or_not_there() -> None:
    params = {"w": jnp.array([0.0, 1.0]), "step": jnp.int32(0), "none": None, "frozen": jnp.zeros(2)}
    grads = {"w": jnp.ones(2), "step": jnp.int32(3), "none": None, "frozen": None}
    updates, _ = jaxreg.keep_zeros(optax.sgd(1.0)).update(grads, optax.sgd(1.0).init(params), params)
    np.testing.assert_array_equal(updates["w"], [0, -1])
    assert updates["step"] == -3 and updates["none"] is updates["frozen"] is None


def test_one_number_is_held_and_no_other_number_of_the_state() -> None:
    """Its moments cannot be told from a learning rate, which must not become 0."""
    tx = jaxreg.keep_zeros(optax.inject_hyperparams(optax.adam)(learning_rate=0.1))
    w, state = run(tx, jnp.zeros(()), lambda _: jnp.ones(()))
    assert w == 0 and state.hyperparams["learning_rate"] == np.float32(0.1)


@pytest.mark.parametrize(
    "outside",
    [
        lambda tx: optax.MultiSteps(tx, 1),
        lambda tx: optax.masked(tx, {"w": True, "b": True}),
        lambda tx: optax.partition({"held": tx, "free": optax.adam(0.1)}, {"w": "held", "b": "free"}),
        lambda tx: optax.apply_if_finite(tx, 3),
    ],
    ids=["MultiSteps", "masked", "partition", "apply_if_finite"],
)
def test_wrappers_outside(outside: Any) -> None:
    params, _ = run(outside(jaxreg.keep_zeros(optax.adam(0.1))), PARAMS, lambda _: jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_array_equal(params["w"] == 0, ~KEPT)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_sharded(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    values = np.arange(16.0, dtype=np.float32) % 3
    w, g = (jax.device_put(x, NamedSharding(mesh, PartitionSpec("x"))) for x in (values, np.ones(16, np.float32)))
    with jax.set_mesh(mesh):
        new, state = run(jaxreg.keep_zeros(optax.adam(0.1)), w, lambda _: g, 1)
    np.testing.assert_allclose(new, np.where(values == 0, 0, values - 0.1), rtol=1e-5)
    assert new.sharding == w.sharding and optax.tree.get(state, "mu").sharding.spec == w.sharding.spec


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (-1, ValueError, r"`keep_zeros\(start=...\)` must be a real, finite, non-negative number, got -1"),
        (True, TypeError, "got True of type bool"),
        (lambda step: step, TypeError, r"takes the number of a step.*`jaxreg.proximal"),
    ],
    ids=["negative", "bool", "schedule"],
)
def test_what_is_refused(start: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jaxreg.keep_zeros(optax.adam(0.1), start)


def test_without_the_parameters() -> None:
    tx = jaxreg.keep_zeros(optax.sgd(1.0))
    with pytest.raises(
        ValueError, match=r"`keep_zeros` needs the parameters: call `tx.update\(grads, state, params\)`"
    ):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


# ------------------------------------------------------------------------------------------------------------ recipes


def _train(tx: Any, loss: Any, w: Any, steps: int) -> Any:
    return trained(tx, jax.grad(loss), w, steps)[0]


def test_relaxed_lasso_is_least_squares_on_the_support() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 8))
    y = x @ np.array([2.0, -1.5, 0, 0, 1.0, 0, 0, 0]) + 0.1 * rng.normal(size=40)
    inputs, targets = jnp.float32(x), jnp.float32(y)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.mean((inputs @ w - targets) ** 2) / 2

    schedule = optax.exponential_decay(0.05, 100, 0.5)
    lasso = _train(jaxreg.proximal_adam(schedule, jaxreg.L1(0.2)), loss, jnp.zeros(8), 600)
    support = np.asarray(lasso) != 0
    assert 0 < support.sum() < 8
    relaxed = np.asarray(_train(jaxreg.keep_zeros(optax.adam(schedule)), loss, lasso, 1000))
    expected = np.linalg.lstsq(x[:, support], y, rcond=None)[0]
    np.testing.assert_allclose(relaxed[support], expected, atol=1e-4)
    assert not relaxed[~support].any() and np.abs(lasso[support] - expected).max() > 0.05  # the bias of the lasso


def test_a_pruned_network_is_tuned_and_keeps_its_pattern() -> None:
    """Pruned by `TopK`, biases free: decay and momentum change neither the pattern nor stop the loss from falling."""
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(64, 6)))
    y = jnp.sin(x[:, :1]) + x[:, 1:2] ** 2
    params = {
        "in": {"kernel": jnp.float32(rng.normal(size=(6, 16)))},
        "out": {"kernel": jnp.float32(rng.normal(size=(16, 1)))},
    }
    params = jaxreg.TreeRegularizer({"**/kernel": jaxreg.TopK(0.5)}).prox(params)
    params = {name: {**layer, "bias": jnp.zeros(layer["kernel"].shape[1])} for name, layer in params.items()}

    def loss(p: Any) -> jax.Array:
        hidden = jnp.tanh(x @ p["in"]["kernel"] + p["in"]["bias"])
        return jnp.mean((hidden @ p["out"]["kernel"] + p["out"]["bias"] - y) ** 2)

    adamw = optax.adamw(1e-2, weight_decay=1e-2)
    labels = jax.tree.map_with_path(lambda path, _: "free" if path[-1].key == "bias" else "held", params)
    tuned = _train(optax.partition({"held": jaxreg.keep_zeros(adamw), "free": adamw}, labels), loss, params, 200)
    for name in params:
        np.testing.assert_array_equal(tuned[name]["kernel"] == 0, params[name]["kernel"] == 0)
        assert np.any(tuned[name]["bias"])
    assert loss(tuned) < 0.3 * loss(params)
