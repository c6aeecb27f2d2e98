"""`proximal_adam(moments="group")`: one second moment a group, the closed form of every profile, and less state."""

import math
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from tests.benchmarks import programs

Array = np.ndarray[Any, np.dtype[np.float64]]
LR = 0.1


def by_group(reg: Any, rate: Any = LR, **options: Any) -> Any:
    return jaxreg.proximal_adam(rate, reg, moments="group", **options)


def soft(t: Array, u: Any) -> Array:
    return np.sign(t) * np.maximum(np.abs(t) - u, 0)


def mcp(a: Array, u: Array, c: float, gamma: float) -> Array:
    """The scalar minimum for u < γ: that of the quadratic up to γc, beyond it a."""
    return np.where(a > gamma * c, a, soft(a, u * c) / (1 - u / gamma))


OMEGA = np.array([[0.5, 1.0, 2.0, np.inf, 0.0]])
# The regularizer, l1, l2 and the proximal operator of the norm, (‖z_g‖, τ_g) -> norm.
FORMS: dict[str, Any] = {
    "L1": (jaxreg.Group(jaxreg.L1(0.4)), 0, 0, lambda a, u: soft(a, 0.4 * u)),
    "L0": (2.0 * jaxreg.Group(jaxreg.L0(0.3)), 0, 0, lambda a, u: np.where(a**2 > 2 * 0.6 * u, a, 0)),
    "MCP": (jaxreg.Group(jaxreg.MCP(0.4, 30.0)), 0, 0, lambda a, u: mcp(a, u, 0.4, 30.0)),
    "beside L1 and L2": (
        jaxreg.L1L2(0.2, 0.3) + jaxreg.Group(jaxreg.L1L2(0.4, 0.1)),
        0.2,
        0.4,
        lambda a, u: soft(a, 0.4 * u),
    ),
    "weights of groups": (
        jaxreg.Weighted(jaxreg.Group(jaxreg.MCP(0.4, 30.0)), OMEGA),
        0,
        0,
        lambda a, u: np.where(np.isinf(OMEGA), 0, mcp(a, np.where(np.isinf(OMEGA), 1, OMEGA) * u, 0.4, 30.0)),
    ),
    "beside weights": (
        jaxreg.Weighted(jaxreg.L1(0.2), np.array([[1.0], [0.0], [2.0]])) + jaxreg.Group(jaxreg.L1(0.4)),
        np.array([[0.2], [0.0], [0.4]]),
        0,
        lambda a, u: soft(a, 0.4 * u),
    ),
}


def test_every_iterate_is_that_of_the_formula() -> None:
    """In NumPy float64, with one scalar problem a group; the last leaf has no groups, and is that of Adam."""
    rng, b1, b2, eps, eps_root = np.random.default_rng(0), 0.8, 0.95, 1e-3, 1e-4
    w = {name: rng.normal(size=(3, 5)) for name in (*FORMS, "entries")}
    m, v = ({name: np.zeros((3, 5)) for name in w} for _ in range(2))
    rules = jaxreg.TreeRegularizer({**{name: form[0] for name, form in FORMS.items()}, "entries": jaxreg.L1(0.4)})
    tx = by_group(rules, lambda step: LR / (1 + step), b1=b1, b2=b2, eps=eps, eps_root=eps_root, max_step=math.inf)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, w)
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(1, 16):
            grads = {name: rng.normal(size=(3, 5)) * np.logspace(-3, 1, 5) for name in w}
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for name, g in grads.items():
                square = g**2 if name == "entries" else (g**2).mean(axis=0, keepdims=True)
                m[name], v[name] = b1 * m[name] + (1 - b1) * g, b2 * v[name] + (1 - b2) * square
                tau = LR / t / (np.sqrt(v[name] / (1 - b2**t) + eps_root) + eps)
                z = w[name] - tau * m[name] / (1 - b1**t)
                if name == "entries":
                    w[name] = soft(z, 0.4 * tau)
                else:
                    _, l1, l2, of_norm = FORMS[name]
                    z, tau = soft(z, l1 * tau) / (1 + 2 * l2 * tau), tau / (1 + 2 * l2 * tau)
                    a = np.linalg.norm(z, axis=0, keepdims=True)
                    w[name] = z * of_norm(a, tau) / np.maximum(a, 1e-300)
                np.testing.assert_allclose(params[name], w[name], rtol=1e-9, atol=1e-13, err_msg=name)
                np.testing.assert_array_equal(np.asarray(params[name]) == 0, w[name] == 0)
    assert all(0 < (w[name] == 0).all(axis=0).sum() < 5 for name in ("L1", "L0", "MCP"))


SCALES = np.array([[0.01], [100.0], [1.0], [10.0], [0.1]])  # curvatures, and so gradients, that differ by 10⁴
TARGET = np.random.default_rng(1).normal(size=(5, 3))
C, L2 = 0.6, 0.25
LENGTHS = np.linalg.norm(TARGET, axis=1, keepdims=True)
LASSO = jaxreg.Group(jaxreg.L1(C), axis=1)
RESCALED: dict[str, tuple[jaxreg.Regularizer, Array]] = {
    "L1": (LASSO, TARGET * np.maximum(1 - C / (SCALES * LENGTHS), 0)),
    "LogSum": (jaxreg.Group(jaxreg.LogSum(0.05, 1.0), axis=1), np.empty(0)),
    "L2 with weights": (
        jaxreg.Weighted(jaxreg.L2(L2), SCALES) + LASSO,
        TARGET * np.maximum(SCALES * LENGTHS - C, 0) / (LENGTHS * SCALES * (1 + 2 * L2)),
    ),
}


@pytest.mark.parametrize("max_step", [None, math.inf])
def test_it_comes_to_rest_at_the_minimum_of_a_rescaled_group_lasso(max_step: float | None) -> None:
    """½ Σ_g h_g‖w_g − t_g‖² + c Σ_g ‖w_g‖: on paper w_g = t_g·max(1 − c/(h_g‖t_g‖), 0). The bound is not active."""
    tx = by_group(jaxreg.TreeRegularizer({name: reg for name, (reg, _) in RESCALED.items()}), 0.03, max_step=max_step)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(lambda w: SCALES * (w - TARGET), params), state, params)
        return (optax.apply_updates(params, updates), state), None

    with jax.enable_x64(True):
        params = {name: jnp.ones((5, 3)) for name in RESCALED}
        carry = params, tx.init(params)
        found = jax.jit(lambda carry: jax.lax.scan(step, carry, length=4000)[0][0])(carry)
    w = jax.tree.map(np.asarray, found)
    for name in ("L1", "L2 with weights"):
        np.testing.assert_allclose(w[name], RESCALED[name][1], rtol=1e-8, atol=1e-14, err_msg=name)
        np.testing.assert_array_equal((w[name] == 0).all(axis=1), (SCALES * LENGTHS <= C)[:, 0])
    r = np.linalg.norm(w["LogSum"], axis=1, keepdims=True)
    slope = np.where(r > 0, 0.05 / (1 + r), 0)  # a stationary point: h(t − w) = ρ′(r)·w/r, or h‖t‖ ≤ ρ′(0)
    residual = SCALES * (TARGET - w["LogSum"]) - slope * w["LogSum"] / np.maximum(r, 1e-300)
    assert np.abs(residual[r[:, 0] > 0]).max() < 1e-7 and 0 < (r == 0).sum() < 5
    assert (np.linalg.norm(residual, axis=1)[r[:, 0] == 0] <= 0.05).all()


@pytest.mark.parametrize("reg", [jaxreg.Group(jaxreg.L1(5.0)), jaxreg.L1L2(1.0, 2.0) + jaxreg.Group(jaxreg.L2(5.0))])
def test_the_pull_on_a_group_without_gradient_is_four_learning_rates(reg: Any) -> None:
    """In the root mean square; a group that is 0 has no bound, so that none is taken away."""
    w = jnp.array([[0.5, 0.0], [0.2, 0.0], [-0.3, 0.0]])
    pull = np.sqrt((np.asarray(w - after(by_group(reg, 1e-3), w, 0 * w))[:, 0] ** 2).mean())
    assert 2e-3 < pull <= 4e-3 * (1 + 1e-5)
    if isinstance(reg, jaxreg.Group):
        assert pull == pytest.approx(4e-3, rel=1e-4)
    silent = optax.tree.set(by_group(reg).init(w), count=jnp.int32(100_000))
    assert not jax.jit(by_group(reg).update)(jnp.full((3, 2), 0.03), silent, w)[0][:, 1].any()


@pytest.mark.parametrize("scale", [1e-28, 1.0, 1e28])
def test_norms_are_right_at_both_ends_of_the_range(scale: float) -> None:
    w = np.array([[3.0, 0.03], [4.0, 0.04]], np.float32) * np.float32(scale)
    tx = by_group(jaxreg.Group(jaxreg.L1(1.0)), scale, eps=1.0)
    updates, state = jax.jit(tx.update)(jnp.zeros((2, 2)), tx.init(w), w)
    np.testing.assert_allclose(optax.apply_updates(w, updates) / scale, [[2.4, 0], [3.2, 0]], rtol=1e-5)
    np.testing.assert_allclose(state.norms / scale, [[4, 0]], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------ what it costs


@pytest.mark.parametrize("axis", [0, 1])
def test_a_step_keeps_nothing_of_the_size_of_a_leaf(axis: int) -> None:
    """And reads and writes less than plain Adam does, whose state is half as large again.

    Old compilers keep the squares of a sum of squares: two such sums of each leaf are the yardstick.
    """
    size, params = 4 * 512 * 256, {str(i): jax.ShapeDtypeStruct((512, 256), jnp.float32) for i in range(4)}
    plain, ours = optax.adam(LR), by_group(jaxreg.Group(jaxreg.L1(0.1), axis=axis))
    theirs, program = (programs.compiled_step(tx, params) for tx in (plain, ours))
    sums = programs.compile_(lambda tree: jax.tree.map(lambda x: jnp.sum(x * x, axis), tree), params)
    more = 2 * (programs.accessed(sums) - 4 * size)
    assert programs.temporaries(program) < programs.temporaries(sums) + size / 4
    assert programs.accessed(program) < programs.accessed(theirs) + more
    state = jax.tree.leaves(jax.eval_shape(ours.init, params))
    assert sum(leaf.size for leaf in state) < 1.02 * size


# --------------------------------------------------------------------------------------------- trees, dtypes, wrappers


RULES = jaxreg.TreeRegularizer({"k": jaxreg.Group(jaxreg.L1(0.3)), "b": jaxreg.L1(0.3), "free": None})
PARAMS = {"k": jnp.array([[1.0, 0.02], [2.0, -0.03]]), "b": jnp.array([1.0, 0.01]), "free": jnp.ones(2)}
GRADS = jax.tree.map(lambda p: 0.1 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), PARAMS)


def after(tx: Any, params: Any = PARAMS, grads: Any = GRADS) -> Any:
    return optax.apply_updates(params, jax.jit(tx.update)(grads, tx.init(params), params)[0])


def test_leaves_without_groups_are_those_of_moments_entry() -> None:
    rules = jaxreg.TreeRegularizer({"k": jaxreg.L1L2(0.3, 0.1), "b": jaxreg.L1(0.3), "free": None})
    ours, theirs = by_group(rules), jaxreg.proximal_adam(LR, rules)
    assert jax.tree.structure(ours.init(PARAMS)) == jax.tree.structure(theirs.init(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, after(ours), after(theirs))
    tx = by_group(jaxreg.L1())
    assert tx.update({}, tx.init({}), {})[0] == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_dtypes_and_what_map_params_sees(dtype: str) -> None:
    params = {"k": jnp.ones((2, 3), dtype), "b": jnp.ones(2, dtype)}
    tx = by_group(jaxreg.TreeRegularizer({"k": jaxreg.Group(jaxreg.L1(1e-3)), "b": None}))
    state = tx.init(params)
    assert state.inner[0].nu["k"].shape == (1, 3) and state.inner[0].nu["k"].dtype == jnp.float32
    updates, new = jax.jit(tx.update)(params, state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["k"].astype("complex64"), 0.9, atol=6e-3)
    seen: list[Any] = []
    optax.tree.map_params(tx, lambda leaf, like: seen.append((leaf.shape, like.shape)), new, params)
    assert seen and all(shape == like for shape, like in seen)  # a sharding of a parameter fits all that is mapped


def test_inside_wrappers_of_optax_it_takes_the_same_step() -> None:
    plain, mask = after(by_group(RULES)), {"k": True, "b": True, "free": False}
    injected = optax.inject_hyperparams(jaxreg.proximal_adam, static_args=("reg",))
    stopped = optax.set_to_zero()
    for tx in (
        injected(learning_rate=LR, reg=RULES, moments="group"),
        optax.apply_if_finite(by_group(RULES), 3),
        by_group(lambda step: (1 + 0 * step) * RULES, optax.constant_schedule(LR)),
        optax.partition({True: by_group(jaxreg.TreeRegularizer(RULES.rules[:2])), False: stopped}, mask),
    ):
        ours = after(tx)
        for name in ("k", "b"):
            np.testing.assert_allclose(ours[name], plain[name], rtol=1e-5)
            np.testing.assert_array_equal(ours[name] == 0, plain[name] == 0)
    assert (plain["k"][:, 1] == 0).all() and plain["b"][1] == 0


def test_a_checkpoint_goes_on_bit_for_bit() -> None:
    tx, zero = by_group(RULES), jax.tree.map(jnp.zeros_like, PARAMS)
    update = jax.jit(tx.update)
    _, state = update(GRADS, tx.init(PARAMS), PARAMS)
    again = flax.serialization.from_bytes(tx.init(zero), flax.serialization.to_bytes(state))
    jax.tree.map(np.testing.assert_array_equal, update(GRADS, again, PARAMS), update(GRADS, state, PARAMS))


def test_a_state_of_the_other_moments_is_refused() -> None:
    """It would go on as what it was, or as neither."""
    rules = jaxreg.TreeRegularizer(
        {"k": jaxreg.L1(0.1) + jaxreg.Group(jaxreg.L1(0.3)), "b": jaxreg.L1(0.3), "**": None}
    )
    group, entry = by_group(rules), jaxreg.proximal_adam(LR, rules)
    wrapper = jaxreg.proximal(optax.adam(LR), rules, LR, jaxreg.adam_metric())
    made_by_group = (
        r"a leaf of shape \(2, 2\) has second moments of the shape \(1, 2\), as `.*moments=\"group\"\)` makes"
    )
    made_by_entry = r'shape \(2, 2\) has second moments of the shape \(2, 2\), as `moments="entry"` makes them'
    for tx, other, message in (
        (entry, group, r'`proximal_adam\(moments="entry"\)`: in the state ' + made_by_group),
        (wrapper, group, "`proximal`: in the state " + made_by_group),
        (group, entry, made_by_entry + r".*`tx\.init\(params\)`"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(tx.update, GRADS, other.init(PARAMS), PARAMS)
        jax.eval_shape(tx.update, GRADS, tx.init(PARAMS), PARAMS)  # the way out: a new state


def test_errors_and_their_ways_out() -> None:
    with pytest.raises(ValueError, match=r'`proximal_adam\(moments=...\)` takes "entry" or "group", got \'groups\''):
        jaxreg.proximal_adam(LR, jaxreg.L1(), moments="groups")
    params = jnp.ones((2, 3))
    state = by_group(jaxreg.Group(jaxreg.L1(0.1), axis=0)).init(params)
    for reg in (jaxreg.Group(jaxreg.L1(0.1), axis=1), jaxreg.L1(0.1)):
        tx = by_group(reg)
        with pytest.raises(
            ValueError, match=r"must keep the groups.*moments of the shape \(1, 3\).*`tx\.init\(params\)`"
        ):
            tx.update(params, state, params)
        assert after(tx, params, params).shape == (2, 3)
