"""Properties of every proximal operator, held against its definition by brute force."""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg._core import numerics
from tests.cases import CONVEX_CASES, PROX_CASES, Case, sample


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
each_case_and_a_dead_zone = pytest.mark.parametrize("case", [*PROX_CASES, DEAD_ZONE], ids=str)
each_convex_case = pytest.mark.parametrize("case", CONVEX_CASES, ids=str)
STEPS = (0.03, 0.5, 1.0, 4.0, 100.0)
POINTS = np.array([-3.0, -1.0, -0.31, -0.3, -1e-3, -0.0, 0.0, 1e-3, 0.15, 0.3, 0.5, 1.0, 2.5, 40.0])


def _shortfall(case: Case, point: np.ndarray, prox: np.ndarray, step: np.ndarray) -> np.ndarray:
    """How much worse the objective is at `prox` than at the best of a dense grid, 0 and z; per coordinate."""
    assert case.scalar is not None
    grid = np.concatenate([np.linspace(-45.0, 45.0, 200_001), [0.0]])
    shortfalls = []
    for z, w, tau in zip(point, prox, np.broadcast_to(step, point.shape), strict=True):
        candidates = np.concatenate([grid, [z], w + np.linspace(-1e-3, 1e-3, 2001)])
        objective = tau * case.scalar(candidates) + (candidates - z) ** 2 / 2
        shortfalls.append(tau * case.scalar(w) + (w - z) ** 2 / 2 - objective.min())
    return np.array(shortfalls)


@pytest.mark.core
@each_case
@pytest.mark.parametrize("step", [*STEPS, np.geomspace(0.01, 50.0, POINTS.size)], ids=str)
def test_no_point_has_a_lower_objective(case: Case, step: float | np.ndarray) -> None:
    with jax.enable_x64(True):
        prox = np.asarray(case.regularizer.prox(jnp.asarray(POINTS), step))
    assert _shortfall(case, POINTS, prox, np.asarray(step)).max() <= 1e-9
    in_float32 = np.asarray(case.regularizer.prox(jnp.asarray(POINTS, jnp.float32), step), np.float64)
    np.testing.assert_allclose(in_float32, prox, rtol=1e-6, atol=1e-6)


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
        p = np.asarray(case.regularizer.prox(jnp.asarray(z, jnp.float32), tau), np.float64)
        left = 2 * tau * (case.value(p) - case.value(u))
        right = ((u - z) ** 2).sum() - ((u - p) ** 2).sum() - ((p - z) ** 2).sum()
        assert left <= right + 1e-4 * (1 + abs(right))


@each_convex_case
def test_firmly_non_expansive(case: Case) -> None:
    x, y = sample((50,), seed=1), sample((50,), seed=2)
    for tau in STEPS:
        p, q = (np.asarray(case.regularizer.prox(jnp.asarray(v, jnp.float32), tau), np.float64) for v in (x, y))
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
    with jax.enable_x64(True):
        for tau in STEPS:
            z = sample((200,), seed=4, scale=3.0)
            p = np.asarray(case.regularizer.prox(jnp.asarray(z), tau))
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


@each_case
def test_scaling_oddness_and_permutations(case: Case) -> None:
    with jax.enable_x64(True):
        z = sample((30,))
        for tau in STEPS:
            p = np.asarray(case.regularizer.prox(z, tau))
            np.testing.assert_allclose((tau * case.regularizer).prox(z, 1.0), p, rtol=1e-12)
            np.testing.assert_array_equal(case.regularizer.prox(-z, tau), -p)
            np.testing.assert_array_equal(case.regularizer.prox(z[::-1], tau), p[::-1])


@each_convex_case
def test_gradient_of_the_envelope(case: Case) -> None:
    with jax.enable_x64(True):
        z, tau = sample((3, 4)), 0.7

        @jax.jit
        @jax.value_and_grad
        def envelope(z: jax.Array) -> jax.Array:
            w = case.regularizer.prox(z, tau)
            return case.regularizer(w) + jnp.sum((w - z) ** 2) / (2 * tau)

        value, slope = envelope(z)
        expected = (z - np.asarray(case.regularizer.prox(z, tau))) / tau
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
        prox = case.regularizer.prox(z, np.float32(0.5))
        assert prox.dtype == dtype and prox.shape == shape
        exact = np.asarray(case.regularizer.prox(z.astype(np.float32), np.float32(0.5)))
        np.testing.assert_array_equal(np.asarray(prox), exact.astype(dtype))


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


@each_case
def test_derivatives_with_respect_to_coefficient_and_step(case: Case) -> None:
    with jax.enable_x64(True):
        z = jnp.asarray(sample((3, 4)))

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1))
        def of_scale(s: jax.Array, tau: jax.Array) -> jax.Array:
            return jnp.sum(jax.tree.map(lambda c: c * s, case.regularizer).prox(z, tau) ** 3)

        for i, derivative in enumerate(of_scale(1.0, 0.6)[1]):
            plus, minus = (of_scale(1.0 + h * (i == 0), 0.6 + h * (i == 1))[0] for h in (1e-6, -1e-6))
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


@each_convex_case
def test_proximal_gradient_solves_the_orthogonal_problem(case: Case) -> None:
    """min ½‖Qw − y‖² + R(w) with orthonormal Q has the solution prox_R(Qᵀy)."""
    with jax.enable_x64(True):
        q = np.linalg.qr(sample((6, 6)))[0]
        y = sample((6,), seed=3)
        w = jnp.zeros(6)
        for _ in range(200):
            w = case.regularizer.prox(w - 0.5 * (q.T @ (q @ w - y)), 0.5)
        np.testing.assert_allclose(w, case.regularizer.prox(jnp.asarray(q.T @ y)), atol=1e-12)
