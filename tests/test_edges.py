"""Derivatives where a coefficient, a step, an entry, a group or a singular value is 0; digits of projections."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import (
    L0,
    L1,
    L1L2,
    L2,
    MCP,
    SCAD,
    Anchored,
    Group,
    HoyerSquare,
    Huber,
    L1Ball,
    LogSum,
    Lq,
    Matrix,
    MaxNorm,
    OrthogonalRegularizer,
    Simplex,
    SoftOrthogonal,
    Spectral,
    SpectralNorm,
    Stacked,
)
from jaxreg._core import euclidean, numerics
from jaxreg.penalties import _simplex, max_norm

pytestmark = pytest.mark.wide  # every penalty at the ends of the floating range

Array = np.ndarray[Any, np.dtype[np.float64]]
Z = np.array([[1.5, -0.4], [0.0, 2.0], [-0.7, 0.6]])
REFERENCE = np.array([[0.5, -0.4], [1.0, 0.0], [-1.0, 0.2]])


def root(x: Array) -> Array:
    return np.sign(x) * np.abs(x) / np.sqrt(1 + x**2)


class Root(jaxreg.Elementwise):
    """ρ(a) = strength·(√(1 + a²) − 1): a smooth one of a user's own."""

    strength: float = 0.1

    def profile(self, a: jax.Array) -> jax.Array:
        return self.strength * (jnp.sqrt(1 + a**2) - 1)

    def slope(self, a: jax.Array) -> jax.Array:
        return self.strength * a / jnp.sqrt(1 + a**2)

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        c = step * self.strength

        def newton(r: jax.Array) -> jax.Array:
            return r - (r + c * r / jnp.sqrt(1 + r**2) - a) / (1 + c / jnp.sqrt(1 + r**2) ** 3)

        r = a / (1 + c)
        for _ in range(8):
            r = newton(r)
        return r


def columns(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=0)


def of_singular_values(slope: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def gradient(x: Array) -> Array:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        return (u * slope(s)) @ vt

    return gradient


def power(x: Array, q: float) -> Array:
    return np.sign(x) * q * np.abs(np.where(x == 0, 1, x)) ** (q - 1)


# ------------------------------------------------------------------------------------------ a coefficient, a step of 0

# c ↦ c·P and ∇P on paper. prox_{τcP}(z) = z − τc·∇P(z) + o(τc), where ∇P(z) exists, and 0 stays 0.
LINEAR: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Any]]] = {
    "L1": (L1, np.sign),
    "L2": (L2, lambda z: 2 * z),
    "L1L2": (lambda c: L1L2(c, 3 * c), lambda z: np.sign(z) + 6 * z),
    "Lq": (Lq, lambda z: power(z, 0.5)),
    "Lq, 2/3": (lambda c: Lq(c, q=2 / 3), lambda z: power(z, 2 / 3)),
    "Lq, 0.3": (lambda c: Lq(c, q=0.3), lambda z: power(z, 0.3)),
    "LogSum": (lambda c: LogSum(c, 0.5), lambda z: np.sign(z) / (0.5 + np.abs(z))),
    "Huber": (Huber, lambda z: np.clip(z, -1, 1)),
    "L0": (L0, np.zeros_like),
    "Root": (Root, root),
    "Group": (lambda c: Group(L1(c)), columns),
    "Group L2": (lambda c: Group(L2(c)), lambda z: 2 * z),
    "multiple": (lambda c: c * Group(L1L2(1.0, 0.5)), lambda z: columns(z) + z),
    "multiple MCP": (lambda c: c * MCP(0.8), lambda z: np.sign(z) * np.maximum(0.8 - np.abs(z) / 3, 0)),
    "multiple SCAD": (lambda c: c * SCAD(0.5, 3.0), lambda z: np.sign(z) * np.clip((1.5 - np.abs(z)) / 2, 0, 0.5)),
    "set": (lambda c: c * MaxNorm(0.3), np.zeros_like),
    "sum": (lambda c: L1(c) + Group(L1L2(c, 2 * c)), lambda z: np.sign(z) + columns(z) + 4 * z),
    "Anchored": (lambda c: Anchored(L1(c), REFERENCE), lambda z: np.sign(z - REFERENCE)),
    "Stacked": (lambda c: Stacked(Group(L1(c), None), axes=(1,)), columns),
    "Spectral": (lambda c: Spectral(L1(c)), of_singular_values(np.ones_like)),
    "Spectral, polar": (lambda c: Spectral(L1(c), method="polar"), of_singular_values(np.ones_like)),
    "Spectral Huber": (lambda c: Spectral(Huber(c)), of_singular_values(lambda s: np.minimum(s, 1))),
    "Matrix": (lambda c: Matrix(SpectralNorm(c)), of_singular_values(lambda s: s == s.max())),
    "SoftOrthogonal": (SoftOrthogonal, lambda z: 4 * z @ (z.T @ z - np.eye(2))),
}
IN_A_METRIC = {name for name in LINEAR if not name.startswith(("Spectral", "Matrix", "SoftOrthogonal", "set"))}
TAU = np.array([[0.5, 1.0], [2.0, 0.25], [1.5, 0.75]])
BACKWARDS = ("L1", "L2", "Lq", "LogSum", "Huber", "Group", "sum", "multiple")
DIRECTION = np.array([[0.3, -1.0], [0.8, 0.1], [0.5, 0.9]])


@pytest.mark.parametrize("metric", [False, True], ids=["scalar step", "metric"])
def test_the_prox_has_its_derivatives_at_coefficient_0_and_step_0(metric: bool) -> None:
    size = TAU if metric else 1.0

    @jax.jit
    def tangents(c: Any, tau: Any, z: Any, dz: Any) -> Any:
        def prox(make: Callable[[Any], Any]) -> Callable[..., Any]:
            return lambda c, tau, z: make(c).prox(z, tau * size)

        makes = {name: make for name, (make, _) in LINEAR.items() if not metric or name in IN_A_METRIC}
        return {name: jax.jvp(prox(make), (c, tau, z), (1.0, 1.0, dz)) for name, make in makes.items()}

    for c, tau in ((0.0, 1.0), (0.7, 0.0), (0.0, 0.0)):
        with jax.enable_x64(True):
            found = tangents(c, tau, Z, DIRECTION)
        for name, (w, tangent) in found.items():
            if name != "set" or c == 0:
                np.testing.assert_allclose(w, Z, atol=1e-14, err_msg=name)
                expected = DIRECTION - (c + tau) * size * LINEAR[name][1](Z)
                np.testing.assert_allclose(tangent, expected, rtol=1e-6, atol=1e-9, err_msg=f"{name}, {c}, {tau}")


def test_backwards_too_and_nothing_is_nan_for_an_infinite_step() -> None:
    @jax.jit
    def gradients(c: Any, step: Any) -> Any:
        def total(make: Any) -> Callable[..., Any]:
            return lambda c, step, z: jnp.sum(make(c).prox(z, step))

        makes = {name: make for name, (make, _) in LINEAR.items() if name in BACKWARDS}
        return {name: jax.grad(total(make), (0, 1, 2))(c, step, jnp.asarray(Z)) for name, make in makes.items()}

    with jax.enable_x64(True):
        for name, (of_c, of_step, of_z) in gradients(0.0, 1.0).items():
            np.testing.assert_allclose(of_c, -np.sum(LINEAR[name][1](Z)), rtol=1e-6, atol=1e-9, err_msg=name)
            np.testing.assert_allclose((of_step, *of_z.ravel()), (0, 1, 1, 1, 1, 1, 1), atol=1e-9, err_msg=name)
        for name, derivatives in gradients(0.0, np.inf).items():
            assert all(np.isfinite(d).all() for d in derivatives), name


def test_a_radius_can_grow_from_0() -> None:
    z = jnp.array([3.0, -4.0, 4.0])
    np.testing.assert_allclose(jax.jacobian(lambda r: L1Ball(r).prox(z))(0.0), [0, -0.5, 0.5])
    np.testing.assert_allclose(jax.jacobian(lambda r: Simplex(r).prox(z))(0.0), [0, 0, 1])
    np.testing.assert_allclose(jax.jacobian(lambda r: MaxNorm(r).prox(z))(0.0), z / np.sqrt(41), rtol=1e-6)


# -------------------------------------------------------------------------------------------------------- smooth at 0

# Penalties around 0 and their curvature there on paper: R = ½h‖x‖² + o(‖x‖²), so that prox = z/(1 + τh) + o(‖z‖).
SMOOTH: dict[str, tuple[Any, float]] = {
    "L2": (L2(0.7), 1.4),
    "Huber": (Huber(1.0, 0.5), 2.0),
    "Root": (Root(0.3), 0.3),
    "sum": (L2(0.7) + Huber(1.0, 0.5), 3.4),
    "multiple": (2.0 * Huber(1.0, 0.5), 4.0),
    "L1 of 0": (L1(0.0), 0.0),
    "LogSum of 0": (LogSum(0.0), 0.0),
    "MCP of 0": (MCP(0.0), 0.0),
    "SCAD of 0": (SCAD(0.0), 0.0),
    "Lq of 0": (Lq(0.0), 0.0),
}
# At a kink: the mean of the second derivatives from both sides, and prox = 0 around 0.
KINKS: dict[str, tuple[Any, float]] = {
    "L1": (L1(0.7), 0.0),
    "L1L2": (L1L2(0.7, 0.5), 1.0),
    "LogSum": (LogSum(0.3, 0.5), -1.2),
    "MCP": (MCP(0.3, 2.0), -0.5),
    "SCAD": (SCAD(0.3), 0.0),
    "L1 and Huber": (L1(0.7) + Huber(1.0, 0.5), 2.0),
}
FEW = ("Huber", "LogSum")
WITHOUT_PROX = ("sum", "L1 and Huber")
AROUND: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "entries": (lambda reg: reg, (*SMOOTH, *KINKS)),
    "groups": (lambda reg: Matrix(Group(reg)), FEW),
    "singular values": (lambda reg: Spectral(reg), FEW),
    "anchored": (lambda reg: Anchored(reg, REFERENCE[:2]), FEW),
}


@pytest.mark.parametrize("structure", AROUND)
def test_derivatives_at_0_are_those_of_the_smooth_penalty(structure: str) -> None:
    cases, (build, names) = SMOOTH | KINKS, AROUND[structure]
    point = REFERENCE[:2] if structure == "anchored" else np.zeros((2, 2))

    @jax.jit
    def products(x: Any, d: Any) -> Any:
        regs = {name: build(cases[name][0]) for name in names}
        second = {name: jax.jvp(jax.grad(reg), (x,), (d,))[1] for name, reg in regs.items()}
        shrunk = {n: jax.jvp(reg.prox, (x, 0.5), (d, 0.0))[1] for n, reg in regs.items() if n not in WITHOUT_PROX}
        return second, shrunk

    with jax.enable_x64(True):
        second, shrunk = products(point, DIRECTION[:2])
    for name, product in second.items():
        np.testing.assert_allclose(product, cases[name][1] * DIRECTION[:2], rtol=1e-9, atol=1e-12, err_msg=name)
    for name, product in shrunk.items():
        slope = 0.0 if name in KINKS else 1 / (1 + 0.5 * cases[name][1])
        np.testing.assert_allclose(product, slope * DIRECTION[:2], rtol=1e-9, atol=1e-12, err_msg=name)


def test_complex_entries_at_0_and_beside_it() -> None:
    """Huber of a complex number is that of the length of its two parts."""
    reg, d = Huber(1.0, 0.5), np.array([0.6 - 0.8j, 1.0 + 0.5j])
    with jax.enable_x64(True):
        for x in (np.zeros(2, complex), np.array([0.3 + 0.4j, 0.9 - 1.2j])):
            pairs = np.stack([x.real, x.imag])
            pair = jax.jvp(jax.grad(Group(reg)), (pairs,), (np.stack([d.real, d.imag]),))[1]
            found = jnp.conj(jax.jvp(jax.grad(reg), (x,), (d,))[1])  # JAX conjugates the gradient of a real function
            np.testing.assert_allclose(found, pair[0] + 1j * pair[1], rtol=1e-12)
            moved = jax.jvp(Group(reg).prox, (pairs, 0.5), (np.stack([d.real, d.imag]), 0.0))[1]
            found = jax.jvp(reg.prox, (x, 0.5), (d, 0.0))[1]
            np.testing.assert_allclose(found, moved[0] + 1j * moved[1], rtol=1e-12)


def test_derivatives_at_some_zero_singular_values_are_differences_of_numpy() -> None:
    """A matrix of rank 1 of 2: the gradient U ρ′(Σ) Vᵀ and the prox U s(Σ) Vᵀ, both smooth there."""
    x, h = np.outer([1.0, -2.0, 0.5], [0.8, 0.3]), 1e-5
    gradient = of_singular_values(lambda s: np.minimum(s / 2, 1))
    prox = of_singular_values(lambda s: np.where(s <= 2.5, s / 1.25, s - 0.5))
    cubic = of_singular_values(lambda s: np.array([np.roots([0.4, 0, 0.6, -v])[-1].real for v in s]))  # one real root

    @jax.jit
    def products(x: Any, d: Any) -> Any:
        huber = Spectral(Huber(1.0, 2.0))
        functions = (jax.grad(huber), lambda z: huber.prox(z, 0.5), SoftOrthogonal(0.1).prox)
        return [jax.jvp(function, (x,), (d,))[1] for function in functions]

    with jax.enable_x64(True):
        found = products(x, DIRECTION)
    for ours, function in zip(found, (gradient, prox, cubic), strict=True):
        difference = (function(x + h * DIRECTION) - function(x - h * DIRECTION)) / (2 * h)
        np.testing.assert_allclose(ours, difference, atol=1e-7)


# ------------------------------------------------------------------------------------------- mixed second derivatives

MIXED: dict[str, Callable[[Any], Any]] = {
    "L1L2": lambda c: L1L2(c, 1 + c),
    "MCP": lambda c: MCP(c, 1 + c),
    "LogSum": lambda c: LogSum(1 + c, c),
    "Group": lambda c: L1(c) + c * Group(LogSum(c)),
    "Spectral": lambda c: Spectral(L1(c)),
    "Spectral MCP": lambda c: Spectral(MCP(c)),
    "SpectralNorm": SpectralNorm,
    "SoftOrthogonal": SoftOrthogonal,
    "Hoyer": HoyerSquare,
    "Orthogonal": OrthogonalRegularizer,
}


def test_second_derivatives_in_coefficients_and_weights_are_symmetric_and_differences_of_gradients() -> None:
    """Of p ↦ R_{p0}(x + p1·d), at entries and singular values that are not 0 and at some that are."""

    def function(make: Callable[[Any], Any], x: Array) -> Callable[[Any], Any]:
        return lambda p: make(p[0])(x + p[1] * DIRECTION)

    points = {"full rank": Z + 0.05, "rank 1": np.outer([1.0, -2.0, 0.5], [0.8, 0.3])}

    @jax.jit
    def derivatives(p: Any) -> Any:
        return {
            (name, where): (jax.grad(function(make, x))(p), jax.hessian(function(make, x))(p))
            for name, make in MIXED.items()
            for where, x in points.items()
            if where == "full rank" or name in ("Spectral", "Spectral MCP")
        }

    p, h = np.array([0.7, 0.0]), 1e-6
    with jax.enable_x64(True):
        found = derivatives(p)
        plus, minus = (derivatives(p + np.array([sign * h, 0.0])) for sign in (1, -1))
    for key, (_, second) in found.items():
        hessian = np.asarray(second)
        np.testing.assert_allclose(hessian, hessian.T, rtol=1e-7, atol=1e-9, err_msg=str(key))
        difference = (np.asarray(plus[key][0]) - np.asarray(minus[key][0])) / (2 * h)
        np.testing.assert_allclose(hessian[0], difference, rtol=1e-5, atol=1e-7, err_msg=str(key))


# ------------------------------------------------------------------------------------------------------------- digits


def onto_simplex(z: Array, total: float) -> Array:
    """Duchi et al., in float64."""
    u = np.sort(z)[::-1]
    theta = ((np.cumsum(u) - total) / np.arange(1, len(u) + 1)).max()
    return np.maximum(z - theta, 0)


SIZE = 10**5
SMALL = (0.02 * np.random.default_rng(0).normal(size=SIZE)).astype(np.float32)
ONTO: dict[str, tuple[Array, float]] = {
    "a total of many entries": (SMALL, 1e3),
    "of few": (SMALL, 1.0),
    "far above all": (SMALL, 1e7),
    "beside entries far below": (np.where(np.arange(SIZE) % 2, SMALL, -1e7).astype(np.float32), 1e3),
    "equal entries": (np.full(SIZE, 0.3, np.float32), 1.0),
    "a point of the set": (onto_simplex(SMALL.astype(np.float64), 1.0).astype(np.float32), 1.0),
}


def test_projections_of_many_entries_have_their_digits() -> None:
    simplex, ball = jax.jit(lambda total, z: Simplex(total, axis=None).prox(z)), L1Ball(1e3)
    for name, (z, total) in ONTO.items():
        expected = onto_simplex(z.astype(np.float64), total)
        found = np.asarray(simplex(total, z))
        np.testing.assert_allclose(found, expected, atol=2e-7 * expected.max(), err_msg=name)
        assert Simplex(total, axis=None)(found) == 0, name
    expected = np.sign(SMALL) * onto_simplex(np.abs(SMALL).astype(np.float64), 1e3)
    found = np.asarray(ball.prox(SMALL))
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert np.count_nonzero(found) == np.count_nonzero(expected)
    assert float(ball.violation(SMALL)) == pytest.approx(np.linalg.norm(SMALL - expected), rel=1e-6)


def test_a_dozen_newton_steps_find_a_threshold_and_six_a_multiplier(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the docstrings say: with no more of them, every case above, and a metric of eleven decades, has its digits."""
    monkeypatch.setattr(_simplex, "_MOST_STEPS", 13)
    project = jax.jit(lambda z, total: _simplex.onto_simplex(z, jnp.ones(()), total, (0,)))
    for name, (z, total) in ONTO.items():
        expected = onto_simplex(z.astype(np.float64), total)
        np.testing.assert_allclose(project(z, total), expected, atol=2e-7 * expected.max(), err_msg=name)
    step = np.exp(3 * np.random.default_rng(1).normal(size=SIZE)).astype(np.float32)

    def shrunk(most: int) -> Array:
        monkeypatch.setattr(max_norm, "_MOST_STEPS", most)
        return np.asarray(
            jax.jit(lambda z: max_norm._shrink(z, step, jnp.float32(0.5), jnp.array([True]), (0,)))(SMALL)
        )

    np.testing.assert_array_equal(shrunk(6), shrunk(60))
    assert (shrunk(1) != shrunk(60)).any()


def test_small_entries_of_the_log_sum_keep_their_digits() -> None:
    """r + u/(eps + r) = a has the root r = 2(a·eps − u)/((eps − a) + √((a + eps)² − 4u)) for a < eps."""
    a, eps = np.array([1e-3, 1e-5, 1e-7, 1e-12, 1e-25], np.float32), 10.0
    for share in (0.0, 0.3, 0.9):  # of the threshold u = a·eps
        u = share * a.astype(np.float64) * eps
        expected = 2 * (1 - share) * a * eps / ((eps - a) + np.sqrt((a + eps) ** 2 - 4 * u))
        found = LogSum(1.0, eps).prox(a, u.astype(np.float32))
        np.testing.assert_allclose(found, expected, rtol=3e-6)


@pytest.mark.parametrize("read", [euclidean.two_sums, euclidean.three_sums], ids=["two sums", "three sums"])
def test_norms_of_groups_are_those_of_float64_at_both_ends_of_the_range(read: Any) -> None:
    """Each row is a group. NumPy in float64 neither overflows nor vanishes here."""
    read = jax.jit(read, static_argnums=0)
    ends = [1e-37, 1e-30, 1e-15, 1.0, 1e15, 1e30, 3e37]
    rows = np.array([[a, 2 * b, 0, -b] for a in ends for b in ends] + [[0] * 4, [5e-23] * 4], np.float32)
    scale, square = (np.asarray(x, np.float64) for x in read((1,), rows))
    found = np.sqrt(square) / scale
    np.testing.assert_allclose(found[:, 0], np.linalg.norm(rows.astype(np.float64), axis=1), rtol=3e-7)
    np.testing.assert_array_equal(np.frexp(scale)[0], 0.5)
    odd = np.array([[np.inf, 1e30], [np.nan, 1.0], [np.nan, 1e30], [np.nan, 1e-30]], np.float32)
    np.testing.assert_array_equal(read((1,), odd)[1][:, 0], [np.inf, np.nan, np.nan, np.nan])
    parts = np.array([[3e30 + 4e30j, 0], [3e-30 - 4e-30j, 1e-37]], np.complex64)
    scale, square = (np.asarray(x, np.float64) for x in read((1,), parts))
    np.testing.assert_allclose((np.sqrt(square) / scale)[:, 0], [5e30, 5e-30], rtol=3e-7)


@pytest.mark.parametrize("axis", [0, 1])
def test_derivatives_of_directions_have_their_digits_at_every_size(axis: int) -> None:
    """Powers of the sum of squares are out of range where the derivatives are not: from norms of 10¹² and 10⁻¹² on."""
    rng = np.random.default_rng(4)
    x, g, d = (rng.standard_normal((5, 6)).astype(np.float32) for _ in range(3))

    def derivative(x: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: euclidean.directions(x, (axis,)), x)[1](jnp.asarray(g))[0]

    derivatives = jax.jit(lambda x: jax.jvp(derivative, (x,), (jnp.asarray(d),)))

    def dot(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (a * b).sum(axis, keepdims=True)

    for size in 10.0 ** np.array([-28, -20, -18, -15, -14, -13, -12, 0, 12, 13, 14, 15, 16, 20, 28]):
        w = x * np.float32(size)
        n = np.linalg.norm(w.astype(np.float64), axis=axis, keepdims=True)
        u = w / n
        across, du = (g - u * dot(u, g)) / n, (d - u * dot(u, d)) / n
        second = -dot(u, d) / n * across - (du * dot(u, g) + u * dot(du, g)) / n
        for found, expected in zip(derivatives(w), (across, second), strict=True):
            if 1e-33 < (most := np.abs(expected).max()) < 1e37:  # not a subnormal, not infinite
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * most, err_msg=str(size))
    assert not np.asarray(derivatives(0 * x)).any()


# ----------------------------------------------------------------------------------------------- ends of the range


def test_forward_derivatives_at_the_end_of_the_range_are_those_of_the_weights() -> None:
    """The value is ∞ there, and so is its derivative in a coefficient; one that is held adds nothing."""
    x, d = np.array([3e38, 1.0, -2e38], np.float32), np.array([1.0, 2.0, 0.5], np.float32)
    slopes = {L1(0.1): 0.1 * np.sign(x), L2(0.1): 0.2 * x, L1L2(0.1, 0.2): 0.1 * np.sign(x) + 0.4 * x}
    slopes |= {LogSum(0.1, 0.1): 0.1 * np.sign(x) / (0.1 + np.abs(x.astype(np.float64)))}
    found = jax.jit(lambda x, d: [jax.jvp(reg, (x,), (d,))[1] for reg in slopes])(x, d)
    for reg, tangent in zip(slopes, found, strict=True):
        np.testing.assert_allclose(tangent, np.sum(slopes[reg].astype(np.float64) * d), rtol=1e-6, err_msg=str(reg))


def test_inner_steps_of_entries_that_stay_beside_infinite_steps() -> None:
    """Those stay, the free ones do not make the penalty larger; a constant is what the differences alone leave."""
    z = jnp.array([[1.5, -0.4], [0.7, 2.0]])
    stay = jnp.array([[0.0, 0.0], [jnp.inf, jnp.inf]])
    reg = Group(MCP(0.1))
    w = np.asarray(jax.jit(lambda z: reg.approximate_prox(z, z, stay, 3))(z))
    np.testing.assert_array_equal(w[0], z[0])
    assert np.isfinite(w).all() and reg(w) <= reg(z) + 1e-6
    w = jax.jit(lambda z: jaxreg.Difference(L1(0.1)).approximate_prox(z, z, jnp.full((2, 2), jnp.inf), 50))(z)
    np.testing.assert_allclose(w, [[0.55, 0.55], [1.35, 1.35]], rtol=1e-3)  # the mean of each row


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_power_of_two_below_a_number_is_that_of_its_exponent(dtype: Any) -> None:
    info = np.finfo(dtype)
    normal = np.array([info.tiny, 0.3, 0.5, 1.0, 1.999, 2.0, 1000.0, info.max], dtype)
    others = np.array([0.0, info.smallest_subnormal, np.inf, np.nan], dtype)
    with jax.enable_x64(True):
        found = np.asarray(numerics.power_of_two(jnp.asarray(np.concatenate([normal, others]))))
    assert found.dtype == dtype
    exponents = np.frexp(normal.astype(float))[1] - 1
    np.testing.assert_array_equal(found, [*np.ldexp(1.0, exponents), 0.0, 0.0, np.inf, np.inf])
