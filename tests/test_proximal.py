"""`proximal` and `proximal_adam`: the step that is taken, its bound, half precision, frozen leaves, checkpoints."""

import math
from pathlib import Path
from typing import Any

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx

import jaxreg
from tests.cases import label
from tests.training import after_updates

LR = 0.1


# ---------------------------------------------------------------------------------------------------------- the formula


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_every_iterate_is_that_of_the_formula(l2: float) -> None:
    """Adam and the soft threshold written out in NumPy float64."""
    rng, l1, b1, b2, eps, eps_root = np.random.default_rng(0), 0.4, 0.8, 0.95, 1e-3, 1e-4
    w, m, v = rng.normal(size=20), np.zeros(20), np.zeros(20)
    reg = jaxreg.L1L2(l1, l2)
    tx = jaxreg.proximal_adam(lambda step: LR / (1 + step), reg, b1, b2, eps, eps_root, max_step=math.inf)
    with jax.enable_x64(True):
        params = jnp.asarray(w)
        state = tx.init(params)
        for t in range(1, 31):
            g = rng.normal(size=20) * np.logspace(-3, 1, 20)
            updates, state = tx.update(jnp.asarray(g), state, params)
            params = optax.apply_updates(params, updates)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            tau = LR / t / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
            z = w - tau * m / (1 - b1**t)
            w = np.sign(z) * np.maximum(np.abs(z) - tau * l1, 0) / (1 + 2 * tau * l2)
            np.testing.assert_allclose(params, w, rtol=1e-9, atol=1e-13)
            np.testing.assert_array_equal(np.asarray(params) == 0, w == 0)
    assert 0 < (w == 0).sum() < 20


def test_proximal_adam_is_the_two_together() -> None:
    """In float64, to rounding: the one makes the point before the prox of the moments, the other subtracts updates."""
    rules = jaxreg.TreeRegularizer({"a": jaxreg.L1(0.5), "b": jaxreg.Group(jaxreg.L1(0.1))})
    together = jaxreg.proximal_adam(LR, rules, b2=0.9, eps=0.01, max_step=0.3)
    apart = jaxreg.proximal(optax.adam(LR, b2=0.9, eps=0.01), rules, LR, jaxreg.adam_metric(0.9, 0.01), max_step=0.3)
    with jax.enable_x64(True):
        params, grads = {"a": jnp.ones(3), "b": jnp.array([0.1, -2.0])}, {"a": jnp.arange(3.0), "b": jnp.ones(2)}
        ours, theirs = (after_updates(tx, params, grads, 3)[0] for tx in (together, apart))
        chex.assert_trees_all_close(ours, theirs, rtol=1e-12)
    assert ours["a"].dtype == np.float64


def test_the_penalty_does_not_enter_the_moments() -> None:
    params, grads = jnp.array([1.0, -3.0]), jnp.array([0.5, 0.2])
    _, state = after_updates(jaxreg.proximal_adam(LR, jaxreg.L1L2(0.3, 0.3)), params, grads, 5)
    _, plain = after_updates(optax.adam(LR), params, grads, 5)
    jax.tree.map(np.testing.assert_array_equal, state.inner, plain)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_scales_the_step(nesterov: bool) -> None:
    inner = optax.sgd(LR, 0.75, nesterov=nesterov)
    tx = jaxreg.proximal(inner, jaxreg.L1(1.0), optax.constant_schedule(LR), momentum=0.75)
    params, _ = after_updates(tx, jnp.array([1.0, 0.3]), jnp.zeros(2))
    np.testing.assert_allclose(params, [1 - LR / 0.25, 0], rtol=1e-6)


def test_hyperparameters_can_be_injected_and_swept() -> None:
    def factory(learning_rate: Any, strength: Any) -> Any:
        return jaxreg.proximal_adam(learning_rate, jaxreg.L1(strength))

    params, grads = jnp.array([1.0, 0.05]), jnp.array([0.5, 0.5])
    tx = optax.inject_hyperparams(factory)(learning_rate=LR, strength=0.25)
    plain = after_updates(factory(LR, 0.25), params, grads)[0]
    np.testing.assert_allclose(after_updates(tx, params, grads)[0], plain, rtol=1e-5)

    def train(strength: Any) -> Any:
        tx = factory(LR, strength)
        return optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0])

    np.testing.assert_allclose(jax.vmap(train)(jnp.array([0.0, 0.25]))[1], plain, rtol=1e-5)
    read = jaxreg.proximal(optax.inject_hyperparams(optax.adam)(LR), jaxreg.L1(0.25), metric=jaxreg.adam_metric())
    np.testing.assert_allclose(after_updates(read, params, grads)[0], plain, rtol=1e-5)


def test_a_schedule_of_the_strength_compiles_once_and_is_the_cubic_ramp() -> None:
    ramp = optax.polynomial_schedule(0.0, 1.0, power=3, transition_steps=8, transition_begin=2)
    tx = jaxreg.proximal(optax.set_to_zero(), lambda step: ramp(step) * jaxreg.L1(0.25), 1.0)
    params, traces = jnp.array([100.0]), []

    @jax.jit
    def update(state: Any, params: Any) -> Any:
        traces.append(None)
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    state, steps = tx.init(params), []
    for _ in range(12):
        before, (params, state) = params, update(state, params)
        steps.append(float((before - params)[0]))
    # Zhu and Gupta: s_t = s_f·(1 − (1 − (t − t₀)/n)³)
    expected = [0.25 * (1 - (1 - min(max(t - 2, 0) / 8, 1)) ** 3) for t in range(12)]
    np.testing.assert_allclose(steps, expected, atol=1e-5)
    assert len(traces) == 1


# ------------------------------------------------------------------------------------------------------------- max_step


def test_max_step_bounds_the_step_of_a_weight_without_gradient() -> None:
    params, grads = jnp.array([1.0, 1.0]), jnp.array([0.0, 0.5])
    strength, step = 0.25, LR / 0.5  # after one step √v̂ is |g|
    for max_step in (0.02, np.float32(0.05), jnp.asarray(0.1)):
        w, _ = after_updates(jaxreg.proximal_adam(LR, jaxreg.L1(strength), max_step=max_step), params, grads)
        bounded = min(float(max_step), step)
        np.testing.assert_allclose(w, [1 - strength * float(max_step), 1 - LR - strength * bounded], rtol=1e-5)
    unbounded, _ = after_updates(jaxreg.proximal_adam(LR, jaxreg.L1(strength), max_step=math.inf), params, grads)
    np.testing.assert_allclose(unbounded, [0, 1 - LR - strength * step], rtol=1e-5)


@pytest.mark.parametrize("reg", [jaxreg.L1(2.0), jaxreg.L2(3.0), jaxreg.Group(jaxreg.L1(5.0)), jaxreg.Huber(4.0)])
def test_by_default_the_pull_on_a_weight_without_gradient_is_four_learning_rates(reg: Any) -> None:
    rate = 1e-3
    embedding = jnp.array([[0.5, -0.3], [0.2, 0.1]])
    w, _ = after_updates(jaxreg.proximal_adam(rate, reg), embedding, jnp.zeros((2, 2)))
    moved = np.asarray(embedding - w)
    assert (np.abs(moved) <= 4 * rate * 1.01).all() and (np.abs(moved) > 1e-5).all()
    if isinstance(reg, jaxreg.L1):
        np.testing.assert_allclose(moved, 4 * rate * np.sign(embedding), rtol=1e-4)


def test_what_lies_below_a_zero_head_survives_the_first_step() -> None:
    def loss(params: Any) -> Any:
        return jnp.mean((jnp.tanh(jnp.ones((4, 3)) @ params["body"]) @ params["head"] - 1.0) ** 2)

    params = {"body": jax.random.normal(jax.random.key(0), (3, 5)), "head": jnp.zeros((5, 1))}
    grads = jax.grad(loss)(params)
    assert not grads["body"].any()
    for max_step, survives in ((None, True), (1.0, True), (math.inf, False)):
        tx = jaxreg.proximal_adam(1e-2, jaxreg.L1(1e-4), max_step=max_step)
        assert after_updates(tx, params, grads)[0]["body"].all() == survives


def test_the_default_bound_takes_no_zero_away() -> None:
    """A burst after a long silence moves Adam by (1 − b1)/√(1 − b2) = 3.2 learning rates, less than the bound."""
    tx = jaxreg.proximal_adam(LR, jaxreg.L1(1.0))
    w = jnp.zeros(2)
    state = tx.init(w)
    for gradient in [1e-6] * 2000 + [0.9, 0.9]:
        updates, state = jax.jit(tx.update)(jnp.array([gradient, 1e-6]), state, w)
        w = optax.apply_updates(w, updates)
    np.testing.assert_array_equal(w, 0)


def test_constraints_hold_whatever_the_step() -> None:
    tx = jaxreg.proximal_adam(LR, jaxreg.NonNegative())
    w, _ = after_updates(tx, jnp.array([-3.0, 2.0]), jnp.zeros(2))
    np.testing.assert_array_equal(w, [0, 2])


# -------------------------------------------------------------------------------------------------------- frozen leaves


def test_frozen_leaves_are_not_shrunk() -> None:
    params = {"a": jnp.array([1.0, 0.05]), "b": jnp.array([1.0, 0.05])}
    grads = {"a": jnp.array([0.5, 0.5]), "b": jnp.zeros(2)}
    labels, trainable = {"a": "train", "b": "freeze"}, {"a": True, "b": False}
    sparse, frozen = jaxreg.proximal_adam(LR, jaxreg.L1(0.25)), optax.set_to_zero()
    rest = {"a": False, "b": True}
    ways = {
        "partition": optax.partition({"train": sparse, "freeze": frozen}, labels),
        "masked": optax.chain(optax.masked(sparse, trainable), optax.masked(frozen, rest)),
        "zeroed after": optax.chain(sparse, optax.masked(frozen, rest)),
        "masked inside": jaxreg.proximal(
            optax.chain(optax.masked(optax.adam(LR), trainable), optax.masked(frozen, rest)),
            jaxreg.L1(0.25),
            LR,
            jaxreg.adam_metric(),
        ),
        "partition inside": jaxreg.proximal(
            optax.partition({"train": optax.adam(LR), "freeze": frozen}, labels),
            jaxreg.L1(0.25),
            LR,
            jaxreg.adam_metric(),
        ),
        "by rule": jaxreg.proximal_adam(LR, jaxreg.TreeRegularizer({"a": jaxreg.L1(0.25), "b": None})),
        "by a function": jaxreg.proximal(
            optax.adam(LR), jaxreg.L1(0.25), LR, lambda state, params: {"a": 2.0, "b": None}
        ),
    }
    expected = after_updates(sparse, params["a"], grads["a"])[0]
    for tx in ways.values():
        after, _ = after_updates(tx, params, grads)
        np.testing.assert_array_equal(after["b"], params["b"])
        np.testing.assert_allclose(after["a"], expected, rtol=1e-6)
        assert after["a"][1] == 0


@pytest.mark.parametrize(
    "wrap", [lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(), lambda tx: optax.apply_if_finite(tx, 3)]
)
def test_wrappers_that_skip_steps_must_stand_outside(wrap: Any) -> None:
    tx = jaxreg.proximal(wrap(optax.adam(LR)), jaxreg.L1(), LR, jaxreg.adam_metric())
    with pytest.raises(ValueError, match="skips steps"):
        tx.init(jnp.ones(2))


# ------------------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("float32_updates", [True, False])
def test_thresholds_below_half_an_ulp_add_up(dtype: str, float32_updates: bool) -> None:
    params = {"w": jnp.array([1.0, -1.0, 0.01], dtype), "free": jnp.ones(2, dtype), "full": jnp.ones(2)}
    grads = jax.tree.map(lambda p: jnp.zeros_like(p, dtype="float32" if float32_updates else p.dtype), params)
    rules = jaxreg.TreeRegularizer({"free": None, "**": jaxreg.L1(1.0)})
    threshold = 1e-4
    assert jnp.asarray(1.0 - threshold, dtype) == 1.0
    tx = jaxreg.proximal(optax.sgd(1.0), rules, threshold)
    after, state = after_updates(tx, params, grads, 1000)
    ulp = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(after["w"].astype("float32"), [0.9, -0.9, 0], atol=ulp / 2)
    assert after["w"].dtype == dtype and after["w"][2] == 0
    np.testing.assert_array_equal(after["free"], 1)
    assert state.residual["free"] is None and state.residual["full"] is None
    np.testing.assert_allclose(after["w"].astype("float32") + state.residual["w"], [0.9, -0.9, 0], atol=1000 * 2**-24)


def test_the_rounding_is_an_operation_that_no_compiler_drops() -> None:
    """A cast and its way back may go where excess precision is allowed, as on GPUs; `reduce_precision` may not."""
    params = jnp.ones(4, jnp.bfloat16)
    tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(1.0), 0.1)
    program = jax.jit(tx.update).lower(params, tx.init(params), params).as_text()
    assert program.count("reduce_precision") == 2  # of the update, and of the parameter


def test_a_half_precision_run_follows_the_float32_run() -> None:
    target = jnp.array([1.0, -0.5, 0.02, 0.0])
    finals = {}
    for dtype in ("float32", "bfloat16"):
        params = jnp.zeros(4, dtype)
        tx = jaxreg.proximal_adam(1e-3, jaxreg.L1(0.1))
        state = tx.init(params.astype("float32") if dtype == "float32" else params)

        @jax.jit
        def step(params: Any, state: Any, tx: Any = tx) -> Any:
            grads = params.astype("float32") - target
            updates, state = tx.update(grads.astype(params.dtype), state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(3000):
            params, state = step(params, state)
        finals[dtype] = np.asarray(params, np.float32)
    np.testing.assert_allclose(finals["bfloat16"], finals["float32"], atol=2**-7)
    np.testing.assert_array_equal(finals["bfloat16"] == 0, [False, False, True, True])


def test_nnx_with_bfloat16_parameters() -> None:
    model = nnx.Linear(3, 2, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    tx = jaxreg.proximal_adam(LR, jaxreg.TreeRegularizer({"kernel": jaxreg.L1(1e3), "bias": None}), max_step=math.inf)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones((1, 3), jnp.bfloat16)) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(3):
        step(model, optimizer)
    assert not model.kernel[...].any() and model.kernel[...].dtype == jnp.bfloat16


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["orbax", "msgpack"])
def test_zeros_survive_a_checkpoint_and_training_goes_on_bit_for_bit(way: str, dtype: str, tmp_path: Path) -> None:
    params = {"w": jax.random.normal(jax.random.key(0), (6, 5)).astype(dtype), "b": jnp.ones(5)}
    tx = jaxreg.proximal_adam(0.02, jaxreg.TreeRegularizer({"w": jaxreg.L1(0.3), "b": None}))

    def go(params: Any, state: Any, steps: int) -> Any:
        for i in range(steps):
            grads = jax.tree.map(lambda p, i=i: 0.4 * jnp.sin(p + i), params)
            updates, state = jax.jit(tx.update)(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    half = go(params, tx.init(params), 60)
    if way == "orbax":
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "c", half)
            checkpointer.wait_until_finished()
            loaded = checkpointer.restore(tmp_path / "c", jax.tree.map(jnp.zeros_like, half))
    else:
        data = flax.serialization.to_bytes(half)
        loaded = flax.serialization.from_bytes(jax.tree.map(jnp.zeros_like, half), data)
    loaded = jax.tree.map(jnp.asarray, loaded)
    assert 5 < (np.asarray(half[0]["w"]) == 0).sum() < 30
    jax.tree.map(np.testing.assert_array_equal, go(*loaded, 20), go(*half, 20))
    np.testing.assert_array_equal(loaded[0]["w"] == 0, half[0]["w"] == 0)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "adam"}, r"proximal\(metric=...\)` takes None"),
        ({"metric": jaxreg.adam_metric}, r"must be called: `metric=jaxreg\.adam_metric\(\)`"),
        ({"metric": jaxreg.L1}, r"proximal\(metric"),
        ({"metric": jaxreg.L1()}, r"proximal\(metric"),
        ({"max_step": -1.0}, r"proximal\(max_step"),
        ({"max_step": "1"}, r"proximal\(max_step"),
        ({"momentum": 1.0}, r"proximal\(momentum=...\)` must be less than 1"),
        ({"momentum": math.nan}, r"proximal\(momentum"),
        ({"momentum": None}, r"proximal\(momentum"),
        ({"inner_steps": 0}, r"proximal\(inner_steps"),
        ({"inner_steps": True}, r"proximal\(inner_steps"),
        ({"inner_steps": 2.0}, r"proximal\(inner_steps"),
    ],
    ids=label,
)
def test_options_that_are_wrong(options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        after_updates(jaxreg.proximal(optax.adam(LR), jaxreg.L1(), LR, **options), jnp.ones(2), jnp.ones(2))


@pytest.mark.parametrize("steps", [{"a": 1.0}, {"a": 1.0, "c": 1.0}, {"a": jnp.ones(3), "b": 1.0}, None, [1.0, 1.0]])
def test_step_sizes_unlike_the_parameters(steps: Any) -> None:
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = jaxreg.proximal(optax.sgd(LR), jaxreg.L1(), LR, lambda state, params: steps)
    with pytest.raises(ValueError, match=r"proximal\(metric=...\)`"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
    "reg",
    [
        jaxreg.Spectral(jaxreg.L1()),
        jaxreg.SpectralNorm(),
        jaxreg.Difference(jaxreg.Huber()),
        3.0 * jaxreg.Spectral(jaxreg.L1()),
    ],
    ids=str,
)
def test_without_a_closed_form_inner_steps_must_be_asked_for(reg: Any) -> None:
    params = jnp.array([[1.0, -2.0], [0.1, 3.0]])
    tx = jaxreg.proximal_adam(LR, reg)
    with pytest.raises(NotImplementedError, match="inner_steps"):
        tx.update(params, tx.init(params), params)
    after, _ = after_updates(jaxreg.proximal_adam(LR, reg, inner_steps=2), params, params)
    assert jnp.isfinite(after).all() and not (after == params).any()


def test_what_inner_steps_cannot_do_raises() -> None:
    params = jnp.ones((2, 2))
    for reg in (
        jaxreg.OrthogonalRegularizer(),
        jaxreg.Difference(jaxreg.MCP(0.1)),
        jaxreg.Difference(jaxreg.L1(), order=2) * 2 + jaxreg.L1(),
    ):
        tx = jaxreg.proximal_adam(LR, reg, inner_steps=3)
        with pytest.raises(NotImplementedError):
            tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("shape", [(0,), (1,), (0, 3), (2, 0), (1, 1), (3, 2)])
@pytest.mark.parametrize("make", [lambda: jaxreg.L1(0.1), lambda: jaxreg.Difference(jaxreg.L1(0.1), axis=0, order=2)])
def test_empty_and_short_leaves(shape: Any, make: Any) -> None:
    params = jnp.ones(shape)
    after, _ = after_updates(jaxreg.proximal_adam(LR, make(), inner_steps=3), params, params)
    assert after.shape == shape and jnp.isfinite(after).all()
