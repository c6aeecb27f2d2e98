"""Large leaves in Adam's metric on a CPU: two sums in one pass, and every step against float64 by bisection."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg._core import two_sums
from jaxreg._optax import adam_groups_cpu, groups
from jaxreg._rules.paths import flatten_with_paths
from tests.benchmarks import programs
from tests.training import after_updates

pytestmark = pytest.mark.wide  # every step of large leaves

Array = np.ndarray[Any, np.dtype[np.float64]]
B1, B2, EPS = 0.9, 0.999, 1e-8
RNG = np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------------------ the sums


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((256, 512), (0,)),
        ((256, 512), (1,)),
        ((272, 768), (0,)),
        ((768, 768), (1,)),
        ((3, 3, 128, 64), (0, 1, 2)),
        ((128, 16, 64), (0, 2)),
        ((256, 512), (0, 1)),
    ],
)
def test_the_sums_are_those_of_float64_and_nothing_is_kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x, y = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))
    of_groups = RNG.standard_normal([1 if i in axes else n for i, n in enumerate(shape)]).astype(np.float32)
    how = two_sums.plan(jnp.asarray(x), axes)
    assert how is not None

    def both(x: Any, y: Any, of_groups: Any) -> Any:
        def terms(x: Any, y: Any, of_group: Any) -> Any:
            square = (x * (1 / (1 + y * y + of_group**2))) ** 2
            return square, square * jnp.sqrt(1 + y * y)

        return two_sums.two_sums(terms, (x, y), (of_groups,), axes, how)

    square = (x.astype(float) / (1 + y.astype(float) ** 2 + of_groups.astype(float) ** 2)) ** 2
    for found, term in zip(
        jax.jit(both)(x, y, of_groups), (square, square * np.sqrt(1 + y.astype(float) ** 2)), strict=True
    ):
        np.testing.assert_allclose(found, term.sum(axes, keepdims=True), rtol=2e-6)
    program = programs.compile_(both, x, y, of_groups)
    assert programs.temporaries(program) <= 0.4 * x.nbytes
    found = jax.jit(lambda x: two_sums.total(x * x, axes))(x)
    np.testing.assert_allclose(found, (x.astype(float) ** 2).sum(axes, keepdims=True), rtol=2e-6)


@pytest.mark.parametrize("shape", [(64, 64), (331, 211), (17, 4099)])
def test_small_and_odd_arrays_are_not_cut(shape: tuple[int, ...]) -> None:
    x = jnp.ones(shape)
    assert two_sums.plan(x, (0,)) is None
    np.testing.assert_allclose(two_sums.total(x, (0,)), np.full((1, shape[1]), shape[0]))


# ----------------------------------------------------------------------------------------------------------- the steps


def operator(z: Array, tau: Array, c: float, axis: int) -> tuple[Array, Array]:
    """argmin_w c·Σ‖w_g‖ + Σ (w_i − z_i)²/(2τ_i), and ‖w_g‖: the root of Σ z_i²/(r + cτ_i)² = 1 by bisection."""
    costs, share = c * tau, np.empty_like(z)
    low, high = np.zeros_like(z.sum(axis, keepdims=True)), np.sqrt((z**2).sum(axis, keepdims=True))

    def total(r: Array | float) -> Array:
        np.divide(z, np.add(r, costs, out=share), out=share)
        return np.expand_dims(np.einsum(share, [0, 1], share, [0, 1], [1 - axis]), axis)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        stays = total(0.0) <= 1
        for _ in range(45):
            r = (low + high) / 2
            above = total(r) > 1
            low, high = np.where(above, r, low), np.where(above, high, r)
        r = np.where(stays, 0, high)
        return np.where(r > 0, z * (r / (r + costs)), 0), r


def noise(scale: float = 1.0, spread: float = 0.0) -> Callable[[int, tuple[int, int]], Array]:
    def gradient(step: int, shape: tuple[int, int]) -> Array:
        rng = np.random.default_rng(step)
        found = scale * rng.standard_normal(shape)
        return found * np.exp(spread * rng.standard_normal(shape)) if spread else found

    return gradient


def returning(step: int, shape: tuple[int, int]) -> Array:
    """Small ones, so that the groups leave, and then large ones."""
    return noise(0.1)(step, shape) if step < 5 else 2 + noise(3.0)(step, shape)


# The strength, η, the scale of the first parameters, the gradients, options and what is beside the groups, whether some
# groups become 0.
TRAININGS: dict[str, Any] = {
    "weak": (1e-2, 1e-3, 0.02, noise(), {}, False),
    "strong": (5.0, 1e-2, 0.02, noise(), {}, False),
    "all leave": (30.0, 1e-2, 0.02, noise(), {}, True),
    "leave and return": (10.0, 1e-2, 0.02, returning, {}, True),
    "begin at 0": (1.0, 1e-2, 0.0, noise(), {}, False),
    "no strength": (0.0, 1e-2, 0.02, noise(), {}, False),
    "steps of many sizes": (5.0, 1e-2, 0.02, noise(spread=4.0), {}, False),
    "max_step": (5.0, 1e-2, 0.02, noise(spread=2.0), {"max_step": 0.02}, False),
    "large parameters": (1e3, 1e-3, 1e25, noise(), {"max_step": 1e-3}, False),
    "small ones": (1e-12, 1e-3, 1e-12, noise(1e-14), {}, True),
    "a large strength": (1e20, 1e-3, 1.0, noise(), {}, False),
    "sparse": (1.0, 1e-2, 0.02, noise(), {"l1": 0.5}, False),
    "sparse, all entries leave": (1.0, 1e-2, 0.02, noise(0.1), {"l1": 10.0}, True),
    "sparse, max_step": (1.0, 1e-2, 0.02, noise(spread=2.0), {"l1": 0.5, "max_step": 0.02}, False),
    "elastic": (5.0, 1e-2, 0.02, noise(), {"l2": 3.0}, False),
    "sparse and elastic": (5.0, 1e-2, 0.02, noise(), {"l1": 1.0, "l2": 3.0}, True),
}


class Layout(NamedTuple):
    """How the groups of a matrix, along an axis, lie in parameters."""

    axis: int
    shape: tuple[int, int]
    group: Callable[[jaxreg.Regularizer], Any]
    parameters: Callable[[Any], Any] = lambda matrix: matrix
    matrix: Callable[[Any], Any] = lambda params: params


LAYOUTS = {
    "columns": Layout(0, (256, 512), lambda rho: jaxreg.Group(rho, axis=-2)),
    "rows": Layout(1, (256, 512), lambda rho: jaxreg.Group(rho, axis=-1)),
    "units of three leaves": Layout(
        0,
        (257 + 384, 512),
        lambda rho: jaxreg.JointGroup(rho, {"up": 1, "bias": 0, "down": 0}),
        lambda matrix: {"up": matrix[:256], "bias": matrix[256], "down": matrix[257:].T},
        lambda params: np.concatenate([params["up"], params["bias"][None], params["down"].T]),
    ),
}


def optimizer(layout: str, numbers: dict[str, Any]) -> Any:
    """With strengths `c`, `l1`, `l2`, a learning rate `eta` and perhaps a largest step."""
    reg = LAYOUTS[layout].group(jaxreg.L1(numbers["c"]))
    for name, penalty in ("l1", jaxreg.L1), ("l2", jaxreg.L2):
        reg = beside(reg, penalty(numbers[name])) if name in numbers else reg
    return jaxreg.proximal_adam(numbers["eta"], reg, max_step=numbers.get("max_step"))


@functools.cache
def update_of(layout: str) -> Callable[..., Any]:
    """A step; trainings that differ in numbers share its program."""
    return jax.jit(lambda numbers, grads, state, p: optimizer(layout, numbers).update(grads, state, p))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TRAININGS)
def test_every_step_is_that_of_float64(name: str, layout: str) -> None:
    """From the moments and parameters before it; zeros at the same places."""
    c, eta, scale, gradient, options, leaves = TRAININGS[name]
    axis, shape, _, parameters, matrix = LAYOUTS[layout]
    p = parameters(jnp.asarray(scale * np.random.default_rng(7).standard_normal(shape), jnp.float32))
    numbers = {"c": c, "eta": eta, **options}
    l1, l2, max_step = options.get("l1", 0.0), options.get("l2", 0.0), options.get("max_step")
    state, zeros = optimizer(layout, numbers).init(p), []
    new = np.asarray(matrix(p), float)
    for step in range(8):
        old = new
        grads = parameters(jnp.asarray(gradient(step, shape), jnp.float32))
        updates, state = update_of(layout)(numbers, grads, state, p)
        p = optax.apply_updates(p, updates)
        adam = state.inner[0]
        first, second = (1 - np.float32(b) ** np.float32(step + 1) for b in (B1, B2))  # as float32 has them
        divisor = np.sqrt(np.asarray(matrix(adam.nu), float) / second) + EPS
        z = old - eta * np.asarray(matrix(adam.mu), float) / first / divisor
        norm = np.linalg.norm(old, axis=axis, keepdims=True)
        if max_step:
            tau = np.minimum(eta / divisor, max_step)
        else:  # the bound on the pull, 4η
            slope = l1 * (old != 0) + np.abs(old) * (2 * l2 + np.where(norm > 0, c / np.where(norm > 0, norm, 1), 0))
            tau = eta / np.maximum(divisor, slope / 4)
        z = np.sign(z) * np.maximum(np.abs(z) - tau * l1, 0) / (1 + 2 * tau * l2)
        w, r = operator(z, tau / (1 + 2 * tau * l2), c, axis)
        size = np.maximum(np.abs(w), np.abs(old)).max(axis, keepdims=True) + 1e-30
        new = np.asarray(matrix(p), float)
        np.testing.assert_array_less(np.abs(new - w) / size, 3e-5)
        np.testing.assert_array_equal(new == 0, w == 0)
        length = np.linalg.norm(z, axis=axis, keepdims=True)  # of which float32 rounds, where little of it is left
        (norms,) = jax.tree.leaves(state.norms)
        np.testing.assert_array_less(np.abs(np.reshape(norms, r.shape) - r), 1e-5 * r + 2e-6 * length + 1e-30)
        zeros.append((r == 0).mean())
    assert (max(zeros) > 0) == leaves


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_largest_step_of_0_leaves_all_to_adam(layout: str) -> None:
    """Also where the learning rate is 0, in the first steps of a schedule."""
    _, shape, group, parameters, _ = LAYOUTS[layout]
    p = parameters(jnp.asarray(np.random.default_rng(7).standard_normal(shape), jnp.float32))
    reg, rate = beside(group(jaxreg.L1(1.0)), jaxreg.L1(1.0)), optax.linear_schedule(0.0, 0.1, 1)
    got, _ = after_updates(jaxreg.proximal_adam(rate, reg, max_step=0.0), p, p, 3)
    expected, _ = after_updates(optax.adam(rate), p, p, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), got, expected)


def beside(reg: Any, term: jaxreg.Regularizer) -> Any:
    return reg + (term if isinstance(reg, jaxreg.Regularizer) else jaxreg.TreeRegularizer({"**": term}))


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_the_leaves_of_these_trainings_are_cut(layout: str) -> None:
    _, shape, group, *_ = LAYOUTS[layout]
    form = groups.grouped(group(jaxreg.L1(1.0)) + jaxreg.L1L2(1.0, 1.0), p := jnp.ones(shape))
    assert adam_groups_cpu.applies(form, p, p) is not None


def test_the_largest_leaves_of_a_unit_are_cut() -> None:
    """And not its bias, which keeps its shape."""
    params = LAYOUTS["units of three leaves"].parameters(jnp.ones((257 + 384, 512)))
    flat = flatten_with_paths(params)
    (joint,) = LAYOUTS["units of three leaves"].group(jaxreg.L1(1.0)).joints(flat)
    form = groups.grouped(joint.group, blocks := joint.blocks(flat.leaves), ((None, None),) * 3)
    assert [how is None for how in adam_groups_cpu.applies(form, blocks, blocks)] == [True, False, False]


def test_one_pass_settles_a_step_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without more passes, and without what follows them, every step of the weak training is the same."""
    c, eta, scale, gradient, *_ = TRAININGS["weak"]
    shape, found = (256, 512), []
    for alone in (False, True):
        jax.clear_caches()
        if alone:
            monkeypatch.setattr(adam_groups_cpu, "_MOST_PASSES", 1)
            monkeypatch.setattr(adam_groups_cpu, "roots", lambda axes, z, tau, c: jnp.full_like(z[:1], jnp.nan))
        tx = jaxreg.proximal_adam(eta, jaxreg.Group(jaxreg.L1(c), axis=0))
        p = jnp.asarray(scale * np.random.default_rng(7).standard_normal(shape), jnp.float32)
        state, update = tx.init(p), jax.jit(tx.update)
        for step in range(8):
            updates, state = update(jnp.asarray(gradient(step, shape), jnp.float32), state, p)
            p = optax.apply_updates(p, updates)
        found.append(np.asarray(p))
    jax.clear_caches()
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives_in_the_strengths_and_the_learning_rate(layout: str) -> None:
    """Of a loss after three steps, forward and reverse, against differences in float64."""
    _, shape, group, parameters, _ = LAYOUTS[layout]
    with jax.enable_x64(True):
        target, start = (np.random.default_rng(seed).standard_normal(shape) for seed in (1, 2))
        target = parameters(target)

        def loss(numbers: Any) -> Any:
            tx = jaxreg.proximal_adam(numbers[1], beside(group(jaxreg.L1(numbers[0])), jaxreg.L2(numbers[2])))
            p = parameters(jnp.asarray(start))

            def step(state: Any, _: None) -> Any:
                p, state = state
                updates, state = tx.update(jax.tree.map(jnp.subtract, p, target), state, p)
                return (optax.apply_updates(p, updates), state), None

            # JAX differentiates a scan again and again, until no more of what it carries depends on the numbers.
            carry = jax.tree.map(lambda x: x + 0 * numbers[0] if x.dtype == float else x, (p, tx.init(p)))
            (p, _), _ = jax.lax.scan(step, carry, length=3)
            return sum(jnp.mean((p - t) ** 2) for p, t in zip(*map(jax.tree.leaves, (p, target)), strict=True))

        at, h, directions = np.array([3.0, 0.05, 0.5]), 1e-5, np.eye(3)
        along = jax.jit(lambda numbers, direction: jax.jvp(loss, (numbers,), (direction,)))
        expected = [(along(at + h * e, e)[0] - along(at - h * e, e)[0]) / (2 * h) for e in directions]
        np.testing.assert_allclose([along(at, e)[1] for e in directions], expected, rtol=1e-5)
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(at), expected, rtol=1e-5)


def test_a_step_keeps_two_arrays_of_a_leaf_at_most_and_no_copy() -> None:
    """The point and the steps, of a branch that is rarely taken; leaves take turns."""
    params = {str(i): jax.ShapeDtypeStruct((512, 512), jnp.float32) for i in range(4)}
    for axis, moments in itertools.product((0, 1), ("entry", "group")):
        tx = jaxreg.proximal_adam(1e-3, jaxreg.Group(jaxreg.L1(0.1), axis=axis), moments=moments)
        program = programs.compiled_step(tx, params)
        kept = {"entry": 2.3, "group": 0.2}[moments]
        assert programs.temporaries(program) <= kept * 4 * 512 * 512
