"""Where `proximal` comes to rest: the minimum of loss + penalty, at every rate and for minima of every size."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg._core import compiler
from jaxreg._optax import groups

pytestmark = pytest.mark.wide  # trainings until they rest

Array = np.ndarray[Any, np.dtype[np.float64]]


def soft(t: Array, u: float) -> Array:
    return np.sign(t) * np.maximum(np.abs(t) - u, 0)


def huber(t: Array, c: float, delta: float) -> Array:
    """w + c·min(|w|/δ, 1)·sign w = t."""
    return np.where(np.abs(t) <= delta + c, t / (1 + c / delta), soft(t, c))


def column(t: Array, of_norm: Callable[..., Array], *coefficients: float) -> Array:
    """The same for the norm of the columns; their direction is that of t."""
    norms = np.linalg.norm(t, axis=0, keepdims=True)
    return t / np.maximum(norms, 1e-300) * of_norm(norms, *coefficients)


# The minimum of ½‖w − t‖² + R(w) on paper. The penalties whose slope grows with the weight are the hard ones.
ANCHOR = 0.3
MINIMA: dict[str, tuple[jaxreg.Regularizer, Callable[[Array], Array]]] = {
    "L1": (jaxreg.L1(0.3), lambda t: soft(t, 0.3)),
    "L2": (jaxreg.L2(10.0), lambda t: t / 21),
    "L1L2": (jaxreg.L1L2(0.05, 3.0), lambda t: soft(t, 0.05) / 7),
    "Huber": (jaxreg.Huber(2.0, 0.05), lambda t: huber(t, 2.0, 0.05)),
    "L2 twice": (2.0 * jaxreg.L2(1.0) + jaxreg.L1(0.05), lambda t: soft(t, 0.05) / 5),
    "Group L2": (jaxreg.Group(jaxreg.L2(5.0)), lambda t: t / 11),
    "Group L1L2": (jaxreg.Group(jaxreg.L1L2(0.05, 3.0)), lambda t: column(t, soft, 0.05) / 7),
    "L1 and Group": (
        jaxreg.L1(0.01) + jaxreg.Group(jaxreg.L1L2(0.05, 2.0)),
        lambda t: column(soft(t, 0.01), soft, 0.05) / 5,
    ),
    "Anchored": (jaxreg.Anchored(jaxreg.L2(10.0), ANCHOR), lambda t: ANCHOR + (t - ANCHOR) / 21),
    "Stacked": (jaxreg.Stacked(jaxreg.Group(jaxreg.L2(5.0)), axes=(1,)), lambda t: t / 11),
}
TARGET = np.array([[0.003, -0.1, 2.0, -0.06], [0.002, 0.4, -1.5, 0.005]])  # from far below the learning rate to above
REGULARIZER = jaxreg.TreeRegularizer({name: reg for name, (reg, _) in MINIMA.items()})
OPTIMUM = {name: minimum(TARGET) for name, (_, minimum) in MINIMA.items()}
RATES = np.array([3e-3, 0.1, 3.0])


def test_it_comes_to_rest_at_the_minimum() -> None:
    def train(rate: Any) -> Any:
        tx = jaxreg.proximal_adam(rate, REGULARIZER)

        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            gradients = jax.tree.map(lambda w: w - TARGET, params)
            updates, state = tx.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = {name: jnp.ones(TARGET.shape) for name in MINIMA}
        return jax.lax.scan(step, (params, tx.init(params)), length=6000)[0][0]

    with jax.enable_x64(True):
        ours = jax.jit(jax.vmap(train))(RATES)
    for name, optimum in OPTIMUM.items():
        for rate, w in zip(RATES, ours[name], strict=True):
            np.testing.assert_allclose(w, optimum, rtol=1e-8, atol=1e-14, err_msg=f"{name}, {rate}")
            np.testing.assert_array_equal(np.asarray(w) == 0, optimum == 0)


OPTIMIZERS: dict[str, tuple[Callable[[float], Any], Any]] = {
    "amsgrad": (lambda rate: optax.amsgrad(rate, b1=0.0, b2=0.9), jaxreg.amsgrad_metric()),
    "rmsprop": (optax.rmsprop, jaxreg.rmsprop_metric()),
    "adagrad": (lambda rate: optax.adagrad(rate, 0.0), jaxreg.adagrad_metric()),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_minimum_is_not_left(name: str) -> None:
    """With a constant gradient these optimizers take a step τ·g from the first update on."""
    make, metric = OPTIMIZERS[name]
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, OPTIMUM)
        tx = jaxreg.proximal(make(0.5), REGULARIZER, 0.5, metric)
        update, state = jax.jit(tx.update), tx.init(params)
        gradients = jax.tree.map(lambda w: w - TARGET, params)
        for _ in range(2):
            updates, state = update(gradients, state, params)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, 0, atol=2e-8)  # eps = 1e-8 in the steps


def firm(t: Array, c: float, gamma: float) -> Array:
    """The minimum with MCP, γ > 1: w + max(c − w/γ, 0) = t."""
    return np.where(t > gamma * c, t, np.maximum(t - c, 0) / (1 - 1 / gamma))


def with_log(t: Array, c: float, eps: float) -> Array:
    """The minimum with LogSum, c < ε²: w + c/(ε + w) = t."""
    return np.maximum((t - eps + np.sqrt((t + eps) ** 2 - 4 * c)) / 2, 0) * (t > c / eps)


WEIGHTS = np.array([0.0, 0.5, 2.0, np.inf])
NEWTON: dict[str, tuple[jaxreg.Regularizer, Callable[[Array], Array]]] = {
    **{name: case for name, case in MINIMA.items() if "Group" in name or name == "Stacked"},
    "MCP": (jaxreg.Group(jaxreg.MCP(0.05, 20.0)), lambda t: column(t, firm, 0.05, 20.0)),
    "LogSum": (2.0 * jaxreg.Group(jaxreg.LogSum(0.05, 1.0)), lambda t: column(t, with_log, 0.1, 1.0)),
    "Huber": (jaxreg.Group(jaxreg.Huber(0.5, 0.1)), lambda t: column(t, huber, 0.5, 0.1)),
    "Matrix": (jaxreg.Matrix(jaxreg.Group(jaxreg.L1(0.3), axis=1), 0), lambda t: column(t, soft, 0.3)),
    "Weighted": (
        jaxreg.Weighted(jaxreg.Group(jaxreg.Huber(0.5, 0.1)), WEIGHTS) + jaxreg.L2(0.5),
        lambda t: column(t / 2, huber, 0.25 * WEIGHTS, 0.1),
    ),
    "Weighted matrix": (
        jaxreg.Matrix(2.0 * jaxreg.Weighted(jaxreg.Group(jaxreg.L1(0.15), axis=1), WEIGHTS), 0),
        lambda t: column(t, soft, 0.3 * WEIGHTS),
    ),
    "Weighted layers": (
        jaxreg.Stacked(jaxreg.Weighted(jaxreg.Group(jaxreg.Huber(0.5, 0.1)), np.array([0.5])), axes=(1,)),
        lambda t: column(t, huber, 0.25, 0.1),
    ),
}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Run what a TPU and a GPU run; the names of what was taken. Nothing traced before is used, nor this later."""
    taken: list[str] = []

    def by_device(on_cpu: Callable[..., Any], elsewhere: Callable[..., Any], *operands: Any) -> Any:
        taken.append(getattr(elsewhere, "__name__", ""))
        return elsewhere(*operands)

    jax.clear_caches()
    monkeypatch.setattr(compiler, "by_device", by_device)
    yield taken
    jax.clear_caches()


def test_one_newton_step_a_step_comes_to_rest_there_too(elsewhere: list[str]) -> None:
    """For every profile: steps that differ, groups that die and groups that do not."""
    rules = jaxreg.TreeRegularizer({name: reg for name, (reg, _) in NEWTON.items()})
    tx = jaxreg.proximal_adam(0.03, rules)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(lambda w: w - TARGET, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    with jax.enable_x64(True):
        params = {name: jnp.ones(TARGET.shape) for name in NEWTON}
        carry = params, tx.init(params)
        found, state = jax.jit(lambda carry: jax.lax.scan(step, carry, length=6000)[0])(carry)
    assert "one_step" in elsewhere  # else of L1 the exact operator ran
    for name, (_, minimum) in NEWTON.items():
        np.testing.assert_allclose(found[name], minimum(TARGET), rtol=1e-8, atol=1e-14, err_msg=name)
        if state.norms[name] is not None:
            np.testing.assert_allclose(state.norms[name][0], np.linalg.norm(found[name], axis=0), rtol=1e-8, atol=1e-14)


def test_one_newton_step_is_exact_for_equal_steps_and_every_jump() -> None:
    """Then 1/‖w‖ is linear in κ, whatever the last norm was; a group that was 0 may return at once."""
    z, tau = np.array([[3.0, 0.4, 0.1], [4.0, -0.2, 0.0]], np.float32), np.full((2, 3), 0.5, np.float32)
    last = np.array([0.0, 1e-6, 1.0, 1e3], np.float32)
    for penalty, scale in (
        *((make(scale), scale) for make in (jaxreg.L1, lambda c: jaxreg.MCP(c, 3.0)) for scale in (1e-25, 1.0, 1e25)),
        (jaxreg.L0(0.1), 1.0),
    ):
        reg = jaxreg.Group(penalty)
        form = groups.grouped(reg, z)
        assert form is not None
        expected = np.asarray(reg.prox(scale * z, 0.5)) / scale
        rows = [jnp.full((1, 3), scale * r) for r in last]
        w, norms = jax.jit(jax.vmap(form.one_step, (None, None, 0, None)))(scale * z, tau, jnp.stack(rows), 0.1)
        np.testing.assert_allclose(np.asarray(w) / scale, np.stack([expected] * 4), rtol=3e-6, err_msg=str(penalty))
        if not isinstance(penalty, jaxreg.L0):  # its norm may take two steps to be found
            lengths = np.stack([np.linalg.norm(expected, axis=0)] * 4)
            np.testing.assert_allclose(np.asarray(norms)[:, 0] / scale, lengths, rtol=3e-6)


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_the_bound_takes_no_zero_away_whatever_the_decays(b1: float) -> None:
    """After a long silence the first gradient moves Adam by (1 − b1)/√(1 − b2) learning rates, up to 32."""
    regs = {
        "l1": jaxreg.L1(1.0),
        "lq": jaxreg.Lq(1.0),
        "log": jaxreg.LogSum(1.0),
        "group": jaxreg.Group(jaxreg.L1(1.0)),
    }
    tx = jaxreg.proximal_adam(0.1, jaxreg.TreeRegularizer(regs), b1=b1)
    w = {name: jnp.zeros((1, 3)) for name in regs}
    gradients = {name: jnp.array([[0.3, -0.5, 0.01]]) for name in regs}
    updates, _ = tx.update(gradients, optax.tree.set(tx.init(w), count=jnp.int32(100_000)), w)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))


def test_a_parameter_that_is_one_number_is_a_group_too() -> None:
    """Its step size is a scalar; the norm of the last step, of which the bound is made, must be its own."""
    regs = {
        "L1": jaxreg.Group(jaxreg.L1(0.5), axis=None),
        "L1L2": jaxreg.Group(jaxreg.L1L2(0.5, 0.5), axis=None),
        "Huber": jaxreg.Group(jaxreg.Huber(0.5, 0.1), axis=None),
    }
    tx = jaxreg.proximal_adam(0.03, jaxreg.TreeRegularizer(regs))

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(lambda w: w - 3.0, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    with jax.enable_x64(True):
        params = {name: jnp.float64(1e-3) for name in regs}
        found, state = jax.jit(lambda carry: jax.lax.scan(step, carry, length=6000)[0])((params, tx.init(params)))
    for name, minimum in {"L1": 2.5, "L1L2": 1.25, "Huber": 2.5}.items():
        assert float(found[name]) == pytest.approx(minimum, rel=1e-8), name
        assert float(state.norms[name]) == float(found[name]), name


def test_groups_of_a_distance_take_inner_steps() -> None:
    reg = jaxreg.Anchored(jaxreg.Group(jaxreg.Huber(0.5, 0.1)), ANCHOR)
    with jax.enable_x64(True):
        w = jnp.ones(TARGET.shape)
        with pytest.raises(
            NotImplementedError, match="every metric, by labels or inside `Anchored` with `inner_steps`"
        ):
            reg.prox(w, jnp.ones(TARGET.shape))
        tx = jaxreg.proximal_adam(0.03, reg, inner_steps=1)

        def step(carry: Any, _: Any) -> Any:
            w, state = carry
            updates, state = tx.update(w - TARGET, state, w)
            return (optax.apply_updates(w, updates), state), None

        found = jax.jit(lambda carry: jax.lax.scan(step, carry, length=6000)[0][0])((w, tx.init(w)))
    np.testing.assert_allclose(found, ANCHOR + column(TARGET - ANCHOR, huber, 0.5, 0.1), rtol=1e-8)


def test_norms_of_another_penalty_in_a_state_are_not_taken() -> None:
    """A run that goes on with other rules, or with a schedule that changes them, has the norms of its parameters."""
    penalty = jaxreg.Group(jaxreg.Huber(0.5, 0.1), axis=1)
    w = jnp.asarray(TARGET.T, jnp.float32)
    tx = jaxreg.proximal_adam(0.1, penalty)
    right = tx.update(w, tx.init(w), w)[0]
    for other in (jaxreg.L1(0.1), jaxreg.Group(jaxreg.L1(0.1), axis=0)):
        state = jaxreg.proximal_adam(0.1, other).init(w)
        updates, after = tx.update(w, state, w)
        np.testing.assert_array_equal(updates, right)
        assert (after.norms is None) == (state.norms is None)
