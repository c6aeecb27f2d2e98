"""Properties of every proximal operator, held against its definition by brute force."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg._core import numerics
from tests.cases import CONVEX_CASES, PROX_CASES, Case, row, sample


class DeadZone(jaxreg.Elementwise):
    """ρ(a) = strength·max(a − edge, 0): flat near 0, with its kink elsewhere."""

    strength: float = 0.1
    edge: float = 0.2
    convex: ClassVar[bool] = True

    def profile(self, a: jax.Array) -> jax.Array:
        return self.strength * jnp.maximum(a - self.edge, 0)

    def slope(self, a: jax.Array) -> jax.Array:
        return self.strength * (a > self.edge).astype(a.dtype)

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.maximum(jnp.minimum(a, self.edge), a - numerics.threshold(step, self.strength))


DEAD_ZONE = Case(
    DeadZone(0.5, 0.4),
    value=lambda w: 0.5 * np.maximum(np.abs(w) - 0.4, 0).sum(),
    subgradient=lambda w: 0.5 * np.sign(w) * (np.abs(w) > 0.4),
    scalar=lambda w: 0.5 * np.maximum(np.abs(w) - 0.4, 0),
    flat=0.4,
)
each_case = pytest.mark.parametrize("case", PROX_CASES, ids=str)
WITH_A_DEAD_ZONE = (*PROX_CASES, DEAD_ZONE)
each_case_and_a_dead_zone = pytest.mark.parametrize("case", WITH_A_DEAD_ZONE, ids=str)
each_convex_case = pytest.mark.parametrize("case", CONVEX_CASES, ids=str)
STEPS = (0.03, 0.5, 1.0, 4.0, 100.0)
POINTS = np.array([-3.0, -1.0, -0.31, -0.3, -1e-3, -0.0, 0.0, 1e-3, 0.15, 0.3, 0.5, 1.0, 2.5, 40.0])


GRID = np.concatenate([np.linspace(-45.0, 45.0, 200_001), [0.0]])


def prox(reg: jaxreg.Regularizer, z: jax.Array, step: jax.Array) -> jax.Array:
    return reg.prox(z, step)


def found_for(case: Case, z: np.ndarray, step: float | np.ndarray) -> np.ndarray:
    """The proximal operator in float64 or float32, whatever z is, from one program for all penalties."""
    with jax.enable_x64(z.dtype == np.float64):
        return row(prox, WITH_A_DEAD_ZONE, case, z, step)


@functools.cache
def _on_the_grid(index: int) -> np.ndarray:
    scalar = PROX_CASES[index].scalar
    assert scalar is not None
    return scalar(GRID)


@functools.cache
def _half_squares(z: float) -> np.ndarray:
    return (GRID - z) ** 2 / 2


def _shortfall(case: Case, point: np.ndarray, prox: np.ndarray, step: np.ndarray) -> np.ndarray:
    """How much worse the objective is at `prox` than at the best of a dense grid, 0 and z; per coordinate."""
    assert case.scalar is not None
    on_the_grid = _on_the_grid(PROX_CASES.index(case))
    shortfalls = []
    for z, w, tau in zip(point, prox, np.broadcast_to(step, point.shape), strict=True):
        near = np.concatenate([[z], w + np.linspace(-1e-3, 1e-3, 2001)])
        best = min((tau * on_the_grid + _half_squares(z)).min(), (tau * case.scalar(near) + (near - z) ** 2 / 2).min())
        shortfalls.append(tau * case.scalar(w) + (w - z) ** 2 / 2 - best)
    return np.array(shortfalls)


@pytest.mark.core
@each_case
@pytest.mark.parametrize("step", [*STEPS, np.geomspace(0.01, 50.0, POINTS.size)], ids=str)
def test_no_point_has_a_lower_objective(case: Case, step: float | np.ndarray) -> None:
    found = found_for(case, POINTS, step)
    assert found.dtype == np.float64
    assert _shortfall(case, POINTS, found, np.asarray(step)).max() <= 1e-9
    np.testing.assert_allclose(found_for(case, POINTS.astype(np.float32), step), found, rtol=1e-6, atol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("wrong", [lambda w, z: w + 0.02, lambda w, z: w / 2, lambda w, z: np.where(z > 1, z, w)])
def test_the_brute_force_check_sees_planted_mistakes(wrong: object) -> None:
    case = PROX_CASES[0]
    prox = np.asarray(case.regularizer.prox(jnp.asarray(POINTS), 1.0), np.float64)
    assert _shortfall(case, POINTS, wrong(prox, POINTS), np.asarray(1.0)).max() > 1e-5  # type: ignore[operator]


@each_case
def test_the_class_knows_whether_it_is_convex(case: Case) -> None:
    assert case.regularizer.scalar().convex == case.convex


@each_convex_case
def test_three_point_inequality(case: Case) -> None:
    z, u = sample((3, 4), seed=1), sample((3, 4), seed=2)
    for tau in STEPS:
        p = found_for(case, z.astype(np.float32), tau).astype(np.float64)
        left = 2 * tau * (case.value(p) - case.value(u))
        right = ((u - z) ** 2).sum() - ((u - p) ** 2).sum() - ((p - z) ** 2).sum()
        assert left <= right + 1e-4 * (1 + abs(right))


@each_convex_case
def test_firmly_non_expansive(case: Case) -> None:
    x, y = sample((50,), seed=1), sample((50,), seed=2)
    for tau in STEPS:
        p, q = (found_for(case, v.astype(np.float32), tau).astype(np.float64) for v in (x, y))
        assert ((p - q) ** 2).sum() <= (p - q) @ (x - y) + 1e-5


@pytest.mark.parametrize(
    ("norm", "ball"),
    [
        (jaxreg.L1(0.3), jaxreg.Box(-0.6, 0.6)),
        (jaxreg.Group(jaxreg.L1(0.3), axis=0), jaxreg.MaxNorm(0.6, axis=0)),
        (jaxreg.Spectral(jaxreg.L1(0.3)), jaxreg.SpectralBall(0.6)),
        (jaxreg.Spectral(jaxreg.L1(0.3), "polar"), jaxreg.SpectralBall(0.6)),
    ],
    ids=str,
)
def test_moreau_identity_with_the_projection_on_the_dual_ball(
    norm: jaxreg.Regularizer, ball: jaxreg.Regularizer
) -> None:
    z = jnp.asarray(sample((6, 5)), jnp.float32)
    np.testing.assert_allclose(norm.prox(z, 2.0) + ball.prox(z), z, atol=1e-5)


@each_case_and_a_dead_zone
def test_the_step_back_is_a_subgradient(case: Case) -> None:
    """(z − p)/τ = R′(p) off the kink, and at it no more than the slope beyond (if that is finite)."""
    z = sample((200,), seed=4, scale=3.0)
    for tau in STEPS:
        p = found_for(case, z, tau)
        moved = np.abs(p) != case.flat
        np.testing.assert_allclose(((z - p) / tau)[moved], case.subgradient(p)[moved], rtol=1e-6, atol=1e-9 / tau)
        if case.convex:
            slope_beyond = np.abs(case.subgradient(np.full(1, case.flat * (1 + 1e-12) + 1e-300)))
            assert (np.abs(z - p)[~moved] / tau <= slope_beyond * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("reg", "weak_convexity"),
    [(jaxreg.MCP(0.5, 2.0), 0.5), (jaxreg.SCAD(0.5, 3.0), 0.5), (jaxreg.LogSum(0.3, 0.5), 1.2)],
    ids=str,
)
def test_lipschitz_below_the_limit_of_weak_convexity(reg: jaxreg.Regularizer, weak_convexity: float) -> None:
    with jax.enable_x64(True):
        x, y = jnp.asarray(sample((500,), seed=1)), jnp.asarray(sample((500,), seed=2))
        for tau in (0.1, 0.5, 0.8):
            ratio = jnp.abs(reg.prox(x, tau) - reg.prox(y, tau)) / jnp.abs(x - y)
            assert ratio.max() <= 1 / (1 - tau * weak_convexity) + 1e-9


def prox_of_a_multiple(reg: jaxreg.Regularizer, z: jax.Array, factor: jax.Array) -> jax.Array:
    return (factor * reg).prox(z, 1.0)


@each_case
def test_scaling_oddness_and_permutations(case: Case) -> None:
    z = sample((200,))
    for tau in STEPS:
        p = found_for(case, z, tau)
        with jax.enable_x64(True):
            np.testing.assert_allclose(row(prox_of_a_multiple, PROX_CASES, case, z, tau), p, rtol=1e-12)
        np.testing.assert_array_equal(found_for(case, -z, tau), -p)
        np.testing.assert_array_equal(found_for(case, z[::-1], tau), p[::-1])


@jax.value_and_grad
def _envelope(z: jax.Array, reg: jaxreg.Regularizer, tau: jax.Array) -> jax.Array:
    w = reg.prox(z, tau)
    return reg(w) + jnp.sum((w - z) ** 2) / (2 * tau)


def envelope(reg: jaxreg.Regularizer, z: jax.Array, tau: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _envelope(z, reg, tau)


@each_convex_case
def test_gradient_of_the_envelope(case: Case) -> None:
    with jax.enable_x64(True):
        z, tau = sample((3, 4)), 0.7
        value, slope = row(envelope, CONVEX_CASES, case, z, tau)
    expected = (z - found_for(case, z, tau)) / tau
    np.testing.assert_allclose(slope, expected, rtol=1e-9, atol=1e-12)
    assert value <= case.value(z)


@each_case_and_a_dead_zone
def test_limits_of_step_and_coefficient(case: Case) -> None:
    z = jnp.asarray(sample((3, 4)), jnp.float32)
    free = jax.tree.map(lambda _: 0.0, case.regularizer)
    np.testing.assert_array_equal(case.regularizer.prox(z, 0.0), z)
    for step in (1.0, 1e38, jnp.inf):
        np.testing.assert_array_equal(free.prox(z, step), z)
    for step in (1e30, jnp.inf, jnp.full((3, 4), jnp.inf)):
        np.testing.assert_allclose(case.regularizer.prox(z, step), np.clip(z, -case.flat, case.flat), atol=1e-20)


@each_case
def test_equal_steps_are_a_scalar_step(case: Case) -> None:
    z = jnp.asarray(sample((3, 4)), jnp.float32)
    scalar, array = case.regularizer.prox(z, 0.3), case.regularizer.prox(z, jnp.full((3, 4), 0.3))
    np.testing.assert_allclose(scalar, array, rtol=2e-7)
    np.testing.assert_array_equal(case.regularizer.prox(z, np.float64(0.3)), scalar)
    np.testing.assert_array_equal(case.regularizer.prox(z, jnp.float32(0.3)), scalar)


@each_case
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtype_and_shape_are_those_of_z(case: Case, dtype: jnp.dtype) -> None:
    for shape in ((3, 4), (), (0,), (2, 0)):
        z = sample(shape).astype(dtype)
        found, exact = (row(prox, PROX_CASES, case, v, np.float32(0.5)) for v in (z, z.astype(np.float32)))
        assert found.dtype == dtype and found.shape == shape
        np.testing.assert_array_equal(found, exact.astype(dtype))


def test_integers_give_floats() -> None:
    np.testing.assert_array_equal(jaxreg.L1(0.5).prox(np.arange(4)), jnp.array([0.0, 0.5, 1.5, 2.5]))


def test_zeros_are_positive_and_nan_and_inf_pass() -> None:
    prox = jaxreg.L1(1.0).prox(jnp.array([-0.5, 0.5, jnp.nan, jnp.inf, -jnp.inf]))
    np.testing.assert_array_equal(prox, [0.0, 0.0, jnp.nan, jnp.inf, -jnp.inf])
    assert not jnp.signbit(prox[:2]).any()


def test_complex_soft_threshold_shrinks_the_modulus() -> None:
    z = jnp.array([3 + 4j, 0.3j, 0j])
    np.testing.assert_allclose(jaxreg.L1(1.0).prox(z), [(3 + 4j) * 0.8, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(jaxreg.L2(0.5).prox(z), z / 2, rtol=1e-6)
    jacobian = jax.jvp(lambda z: jaxreg.L1(1.0).prox(z), (z,), (jnp.ones_like(z),))[1]
    assert jnp.isfinite(jacobian).all()


def cubes(reg: jaxreg.Regularizer, factor: jax.Array, step: jax.Array) -> Any:
    """A number that the prox gives, and its derivatives in the scale of the coefficients and in the step."""

    def total(factor: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.sum(jax.tree.map(lambda c: c * factor, reg).prox(jnp.asarray(sample((3, 4))), step) ** 3)

    return jax.value_and_grad(total, argnums=(0, 1))(factor, step)


@each_case
def test_derivatives_with_respect_to_coefficient_and_step(case: Case) -> None:
    with jax.enable_x64(True):
        for i, derivative in enumerate(row(cubes, PROX_CASES, case, 1.0, 0.6)[1]):
            plus, minus = (
                row(cubes, PROX_CASES, case, 1.0 + h * (i == 0), 0.6 + h * (i == 1))[0] for h in (1e-6, -1e-6)
            )
            np.testing.assert_allclose(derivative, (plus - minus) / 2e-6, rtol=1e-6)


def test_l2_adds_to_any_penalty_that_has_a_prox() -> None:
    class Shift(jaxreg.Regularizer):
        """w ↦ strength·Σw: its proximal operator is a shift."""

        strength: float = 0.5

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.strength * jnp.sum(x)

        def prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
            return z - step * self.strength

    z = np.array([-1.0, 0.2, 3.0])
    for step in (0.5, np.array([0.1, 1.0, 10.0])):
        # argmin step·(½Σw + 0.7·Σw²) + ½‖w − z‖²  has the gradient  step·(½ + 1.4·w) + w − z = 0
        np.testing.assert_allclose(
            (Shift() + jaxreg.L2(0.7)).prox(jnp.asarray(z), step), (z - step * 0.5) / (1 + 1.4 * step), rtol=1e-6
        )
    with pytest.raises(NotImplementedError, match=r"Shift \+ L1.*one after the other"):
        (Shift() + jaxreg.L1(0.7)).prox(z)
    with pytest.raises(NotImplementedError, match=r"Shift \+ Shift"):
        (Shift() + Shift(0.2)).prox(z)


def test_no_prox_says_what_to_use_instead() -> None:
    for reg in (jaxreg.OrthogonalRegularizer(), 2 * jaxreg.OrthogonalRegularizer(), jaxreg.Function(jnp.max)):
        with pytest.raises(NotImplementedError, match="add_regularization"):
            reg.prox(jnp.ones((2, 2)))


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (-1.0, ValueError),
        (jnp.nan, ValueError),
        ("1", TypeError),
        (True, TypeError),
        (None, TypeError),
        (np.ones(2), ValueError),
        (np.ones((1, 4)), ValueError),
        (np.ones((3, 4), bool), TypeError),
    ],
    ids=str,
)
def test_wrong_steps(step: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"L1\.prox"):
        jaxreg.L1().prox(np.ones((3, 4)), step)


def descent(reg: jaxreg.Regularizer, q: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 200, lambda _, w: reg.prox(w - 0.5 * (q.T @ (q @ w - y)), 0.5), jnp.zeros(6))


@each_convex_case
def test_proximal_gradient_solves_the_orthogonal_problem(case: Case) -> None:
    """min ½‖Qw − y‖² + R(w) with orthonormal Q has the solution prox_R(Qᵀy)."""
    q = np.linalg.qr(sample((6, 6)))[0]
    y = sample((6,), seed=3)
    with jax.enable_x64(True):
        w = row(descent, CONVEX_CASES, case, q, y)
        np.testing.assert_allclose(w, case.regularizer.prox(q.T @ y), atol=1e-12)
