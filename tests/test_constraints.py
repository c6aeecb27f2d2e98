"""Properties of every constraint: the projection held against its definition, independent oracles, Keras and optax."""

import functools
import json
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import scipy.optimize

import jaxreg
from jaxreg._core.constraint import Constraint
from jaxreg.penalties.box import Box
from jaxreg.penalties.l1_ball import L1Ball
from jaxreg.penalties.max_norm import MaxNorm
from jaxreg.penalties.non_negative import NonNegative
from jaxreg.penalties.simplex import Simplex
from jaxreg.penalties.spectral_ball import SpectralBall
from jaxreg.penalties.unit_norm import UnitNorm
from tests.cases import sample
from tests.constraint_cases import CASES, Case, ball, in_few_programs, l1_ball, simplex, spectral

pytestmark = pytest.mark.wide

METRIC = [case for case in CASES if case.metric]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_metric = pytest.mark.parametrize("case", METRIC, ids=str)
each_shape = pytest.mark.parametrize(("case", "shape"), [(c, s) for c in CASES for s in c.shapes], ids=str)


def f32(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


# Few programs, as the time goes to the compiler; what is around them in a test is NumPy.


def of_each_shape(function: Callable[..., Any]) -> dict[tuple[int, ...], Callable[..., Any]]:
    """For each shape the cases that take it."""
    shapes = {shape for case in CASES for shape in case.shapes}
    return {shape: in_few_programs(function, [case for case in CASES if shape in case.shapes]) for shape in shapes}


PROX = of_each_shape(lambda c, z, step: c.prox(z, step))
PROX_AND_VIOLATION = of_each_shape(lambda c, z: (c.prox(z), c.violation(z)))


@in_few_programs
def look(c: Constraint, x: jax.Array) -> tuple[jax.Array, ...]:
    return c.prox(x), c(x)


@in_few_programs
def first_order(c: Constraint, x: jax.Array) -> tuple[jax.Array, ...]:
    """The projection; the violation and the value, and the gradients of both."""
    (value, gradient), (violation, normal) = jax.value_and_grad(c)(x), jax.value_and_grad(c.violation)(x)
    return c.prox(x), violation, value, gradient, normal


@in_few_programs
def derivatives(c: Constraint, z: jax.Array, dz: jax.Array) -> tuple[jax.Array, ...]:
    """Of the projection, along `dz` and back; the violation and its gradient; the value."""
    p, forward = jax.jvp(c.prox, (z,), (dz,))
    return p, forward, *jax.vjp(c.prox, z)[1](dz), *jax.value_and_grad(c.violation)(z), c(z)


@in_few_programs
def prox_with_l2(c: Constraint, z: jax.Array) -> jax.Array:
    return (c + jaxreg.L2(0.5)).prox(z)


@in_few_programs
def cube(c: Constraint, z: jax.Array) -> tuple[jax.Array, Constraint]:
    return jax.value_and_grad(lambda c: jnp.sum(c.prox(z) ** 3))(c)


@in_few_programs
def look_at_each(c: Constraint, *arrays: jax.Array) -> list[tuple[jax.Array, ...]]:
    return [(c.prox(x), c.violation(x), c(x)) for x in arrays]


@in_few_programs
def look_at_a_batch(c: Constraint, x: jax.Array) -> tuple[jax.Array, ...]:
    return jax.vmap(lambda x: (c.prox(x), c.violation(x)))(x)


def _in_a_metric(c: Constraint, z: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
    return c.prox(z, step), c(z)


def _tangent_in_a_metric(c: Constraint, z: jax.Array, step: jax.Array, *tangents: jax.Array) -> tuple[jax.Array, ...]:
    return jax.jvp(c.prox, (z, step), tangents)


look_in_a_metric = in_few_programs(_in_a_metric, METRIC)
look_in_both_metrics = in_few_programs(lambda c, z, step: (c.prox(z, step), c.prox(z), c(z)), METRIC)
prox_in_a_metric = in_few_programs(lambda c, z, step: c.prox(z, step), METRIC)
tangent_in_a_metric = in_few_programs(_tangent_in_a_metric, METRIC)


def _pulled_back(c: Constraint, z: jax.Array, step: Any = 1.0) -> tuple[Any, ...]:
    """The projection, its value, the gradient through it and what is kept for that."""
    p, pullback = jax.vjp(lambda z: c.prox(z, step), z)
    return p, c(p), pullback(jnp.ones_like(p))[0], jax.tree.leaves(pullback)


def _pulled_back_and_normal(c: Constraint, z: jax.Array) -> tuple[Any, ...]:
    """The same and the gradient of the violation, which knows no step."""
    p, value, gradient, kept = _pulled_back(c, z)
    return p, value, gradient, jax.grad(c.violation)(z), kept


pulled_back = jax.jit(_pulled_back_and_normal)
pulled_back_in_strict_modes = in_few_programs(_pulled_back_and_normal)
pulled_back_in_a_metric = in_few_programs(_pulled_back, METRIC)


# ---------------------------------------------------------------------------------------------------- the projection


@pytest.mark.core
@each_shape
@pytest.mark.parametrize("scale", [0.05, 2.0, 300.0])
def test_prox_is_the_projection(case: Case, shape: tuple[int, ...], scale: float) -> None:
    z = sample(shape, scale=scale)
    expected = case.project(z)
    with jax.enable_x64(True):
        p, distance = PROX_AND_VIOLATION[shape](case.constraint, z)
        np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-12 * scale)
        np.testing.assert_allclose(distance, np.linalg.norm(z - expected), rtol=1e-12, atol=1e-13 * scale)
    same = PROX[shape](case.constraint, np.float32(z), 1.0)
    np.testing.assert_allclose(same, expected, rtol=2e-5, atol=1e-6 * scale)
    for step in (0.0, 1e-3, 1e30, np.inf):
        np.testing.assert_array_equal(PROX[shape](case.constraint, np.float32(z), step), same)


@pytest.mark.parametrize("scale", [0.05, 2.0, 300.0])
def test_the_projection_of_a_stack_of_matrices_is_that_of_each(scale: float) -> None:
    z = sample((2, 3, 4), scale=scale)
    expected, stacked = spectral(z, 1.5), jaxreg.Stacked(SpectralBall(1.5))
    with jax.enable_x64(True):
        np.testing.assert_allclose(stacked.prox(jnp.asarray(z)), expected, rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(stacked.prox(f32(z)), expected, rtol=2e-5, atol=1e-6 * scale)
    for step in (0.0, 1e-3, 1e30, jnp.inf):
        np.testing.assert_array_equal(stacked.prox(f32(z), step), stacked.prox(f32(z)))


@each_case
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_prox_lands_in_the_set_and_stays(case: Case, dtype: str) -> None:
    with jax.enable_x64(True):
        for scale in (1e-3, 2.0, 300.0):
            z = sample((12, 30), scale=scale).astype(jnp.dtype(dtype))
            p = look(case.constraint, z)[0]
            assert p.dtype == z.dtype and p.shape == z.shape
            again, value = look(case.constraint, p)
            assert value == 0
            rounding = 8 * float(jnp.finfo(dtype).eps) * float(np.abs(p.astype(float)).max())
            np.testing.assert_allclose(again.astype(float), p.astype(float), rtol=0, atol=rounding)
            exact = look(case.constraint, z.astype(jnp.promote_types(dtype, np.float32)))[0]
            np.testing.assert_array_equal(p, exact.astype(p.dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("constraint", [SpectralBall(1.5), jaxreg.Stiefel(1.5), jaxreg.Rank(3)], ids=repr)
def test_small_matrices_land_well_within_the_rounding(constraint: Constraint, dtype: Any) -> None:
    """A decomposition put together again may be off by more: the distance is that of what is cut off."""
    random = np.random.default_rng(0)
    z = random.normal(size=(100, 6, 6)) * 10.0 ** random.integers(-1, 3, size=(100, 1, 1))
    z = z + 1j * random.normal(size=z.shape) if np.issubdtype(dtype, np.complexfloating) else z
    with jax.enable_x64(True):
        p = jax.jit(jax.vmap(constraint.prox))(z.astype(dtype))
        distances = jax.jit(jax.vmap(constraint.violation))(p)
    sizes = np.linalg.norm(np.asarray(p), axis=(1, 2))
    assert (np.asarray(distances) <= 8 * np.finfo(dtype).eps * sizes).all()  # half of what is allowed


@each_case
def test_a_point_of_the_set_comes_back(case: Case) -> None:
    inside = np.float32(case.point)
    prox, violation, value, *_ = first_order(case.constraint, inside)
    np.testing.assert_allclose(prox, inside, rtol=1e-6)
    assert value == 0 and violation <= 1e-6
    assert first_order(case.constraint, inside + np.float32(3 * case.outwards))[2] == np.inf


@each_case
def test_inequalities_of_a_projection(case: Case) -> None:
    with jax.enable_x64(True):
        z = sample((3, 4), seed=1)
        p = PROX_AND_VIOLATION[3, 4](case.constraint, z)[0]
        for seed in range(2, 30):
            y = sample((3, 4), seed=seed, scale=0.5 * seed % 3 + 0.1)
            u = PROX_AND_VIOLATION[3, 4](case.constraint, y)[0]
            assert np.linalg.norm(z - p) <= np.linalg.norm(z - u) + 1e-12  # the nearest point
            if case.convex:
                assert np.vdot(z - p, u - p) <= 1e-12  # the variational inequality
                assert np.sum((p - u) ** 2) <= np.vdot(p - u, z - y) + 1e-12  # firmly non-expansive


@each_case
def test_a_sum_with_l2_projects_a_shorter_array(case: Case) -> None:
    """½‖w − z‖² + ½‖w‖² = ‖w − z/2‖² + const. Wrong `parts` would merge the set with L2 as if it were another one."""
    z = sample((3, 4), seed=1)
    prox = prox_with_l2(case.constraint, np.float32(z))
    np.testing.assert_allclose(prox, case.project(z / 2), rtol=2e-5, atol=1e-6)


@each_metric
def test_diagonal_metric(case: Case) -> None:
    assert case.metric is not None
    with jax.enable_x64(True):
        others = [case.metric(sample((9,), 50 + other), np.ones(9)) for other in range(10)]
        for seed in range(6):
            z = sample((9,), seed, scale=10.0 ** (seed % 3 - 1))
            for spread in (1.0, 1e3, 1e8):
                s = np.random.default_rng(seed).permutation(np.geomspace(1.0, spread, 9)) / 7
                p = look_in_a_metric(case.constraint, z, s)[0]
                np.testing.assert_allclose(p, case.metric(z, s), rtol=1e-9, atol=1e-10)
                assert look_in_a_metric(case.constraint, p, s)[1] == 0
                for u in others:
                    assert np.sum((z - p) ** 2 / s) <= np.sum((z - u) ** 2 / s) * (1 + 1e-9)  # the nearest point
                    if case.convex:  # the variational inequality in the metric
                        assert ((z - p) / s) @ (u - p) <= 1e-9 * (1 + np.abs((z - p) / s).max())


@each_metric
def test_ends_of_a_metric(case: Case) -> None:
    assert case.metric is not None
    z = np.float32(sample((2, 6)))
    for value in (0.0, 1e-30, 0.3, 1e30, np.inf):
        p, same, _ = look_in_both_metrics(case.constraint, z, np.full((2, 6), value, np.float32))
        np.testing.assert_allclose(p, same, rtol=2e-6, atol=1e-6)
    spread = np.float32([[0.0, 1.0, 1e-30, 1e30, np.inf, 1e3]] * 2)
    p = look_in_both_metrics(case.constraint, z, spread)[0]
    assert np.isfinite(p).all() and look_in_both_metrics(case.constraint, p, spread)[2] == 0
    for first, almost in (0.0, 1e-9), (3e38, 1e9), (np.inf, 1e9):
        steps = np.float32([first, 1, 1, 1, 1, 1])
        expected = case.metric(z[0].astype(float), np.array([almost, 1, 1, 1, 1, 1]))
        np.testing.assert_allclose(prox_in_a_metric(case.constraint, z[0], steps), expected, rtol=1e-5, atol=1e-6)


def test_metric_of_groups_is_that_of_each_group() -> None:
    with jax.enable_x64(True):
        z, s = sample((2, 5, 3)), np.exp(sample((2, 5, 3), seed=1))
        for constraint, project in (
            (MaxNorm(1.5, axis=(0, 1)), ball), (L1Ball(1.5, axis=(0, 1)), l1_ball), (Simplex(1.5, (0, 1)), simplex),
        ):  # fmt: skip
            p = np.asarray(constraint.prox(jnp.asarray(z), jnp.asarray(s)))
            for j in range(3):
                expected = project(z[..., j].ravel(), 1.5, s[..., j].ravel())
                np.testing.assert_allclose(p[..., j].ravel(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("constraint", [UnitNorm(0), SpectralBall(1.0)], ids=repr)
def test_no_answer_in_a_metric_says_what_to_use(constraint: Constraint) -> None:
    with pytest.raises(NotImplementedError, match=rf"{type(constraint).__name__}\.prox.*scalar step"):
        constraint.prox(jnp.ones((2, 2)), jnp.ones((2, 2)))


# ---------------------------------------------------------------------------------------------------- peers


def test_against_optax() -> None:
    @jax.jit
    def ours_and_theirs(z: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        return [
            (NonNegative().prox(z), optax.projections.projection_non_negative(z)),
            (Box(-0.5, 0.5).prox(z), optax.projections.projection_box(z, -0.5, 0.5)),
            (MaxNorm(1.5).prox(z), optax.projections.projection_l2_ball(z, 1.5)),
            (UnitNorm(None).prox(z), optax.projections.projection_l2_sphere(z, 1.0)),
            (L1Ball(1.5).prox(z), optax.projections.projection_l1_ball(z, 1.5)),
            (Simplex(1.5, axis=None).prox(z), optax.projections.projection_simplex(z, 1.5)),
        ]

    for seed in range(5):
        for ours, theirs in ours_and_theirs(np.float32(sample((4, 3), seed))):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_against_keras() -> None:
    pairs = (
        (MaxNorm(1.5, axis=0), keras.constraints.MaxNorm(1.5)),
        (MaxNorm(1.5, axis=(0, 1)), keras.constraints.MaxNorm(1.5, axis=(0, 1))),
        (UnitNorm(axis=0), keras.constraints.UnitNorm()),
        (UnitNorm(axis=-1), keras.constraints.UnitNorm(axis=-1)),
        (NonNegative(), keras.constraints.NonNeg()),
    )
    for found, expected in jax.jit(lambda w: [(ours.prox(w), theirs(w)) for ours, theirs in pairs])(
        f32(sample((4, 3)))
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_moreau_identity_of_the_l1_norm_and_the_box() -> None:
    z = f32(sample((50,)))
    np.testing.assert_allclose(jaxreg.L1(0.3).prox(z, 2.0) + Box(-0.6, 0.6).prox(z), z, rtol=1e-6)


def test_proximal_gradient_with_a_constraint_solves_non_negative_least_squares() -> None:
    with jax.enable_x64(True):
        a, b = sample((12, 5), 1), sample((12,), 2)
        step = 1 / np.linalg.norm(a, 2) ** 2
        w = jnp.zeros(5)
        for _ in range(500):
            w = NonNegative().prox(w - step * (a.T @ (a @ w - b)), step)
        np.testing.assert_allclose(w, scipy.optimize.nnls(a, b)[0], atol=1e-10)


# ------------------------------------------------------------------------------- the value, derivatives and transforms


@each_case
def test_value_is_zero_or_infinite_with_gradient_zero(case: Case) -> None:
    for x in map(np.float32, (sample((3, 4)), case.point, np.zeros((3, 4)))):
        _, violation, value, gradient, _ = first_order(case.constraint, x)
        assert value in (0, np.inf) and value.shape == () and value.dtype == np.float32
        assert gradient.dtype == x.dtype and (gradient == 0).all()
        assert (value == 0) == (violation <= 1e-5)
    prox, _, value, *_ = first_order(case.constraint, np.full((3, 4), np.nan, np.float32))
    assert np.isnan(value) and np.isnan(prox).all()


@each_case
def test_tolerance_is_rounding_and_no_more(case: Case) -> None:
    z = sample((12, 30))
    with jax.enable_x64(True):
        p = look(case.constraint, z.astype(np.float16))[0]
        assert look(case.constraint, p)[1] == 0
        outside = np.float32(p) + np.float32(0.05) * (np.float32(z) - np.float32(p))
        assert look(case.constraint, outside)[1] == np.inf
        inside = derivatives(case.constraint, case.point + 1e-12, np.zeros((3, 4)))[-1]
        assert inside == (0 if case.has_interior else np.inf)


def nested(constraint: Constraint) -> jaxreg.Regularizer:
    """In every wrapper that takes a set; the layers of axis 0 are each in it."""
    return 2.0 * jaxreg.Stacked(jaxreg.Matrix(constraint + jaxreg.L2(0.0)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_wrapper_calls_its_own_projection_infinite(dtype: str) -> None:
    cases = {type(case.constraint): case for case in CASES}
    cases = {cls: cases[cls] for cls in (Box, MaxNorm, UnitNorm, SpectralBall)}  # one of each kind of rounding
    regs = [*(nested(case.constraint) for case in cases.values()), jaxreg.Anchored(nested(Box(-0.5, 1.25)), 100.0)]
    z = jnp.asarray(sample((2, 3, 4), scale=3.0), dtype)
    points = jax.jit(lambda z: [reg.prox(z) for reg in regs])(z)  # two programs: in one, the rounding may be left out
    values = jax.jit(lambda points: [reg(w) for reg, w in zip(regs, points, strict=True)])
    np.testing.assert_array_equal(values(points), 0)
    np.testing.assert_array_equal(values([-1.5 * w for w in points]), np.inf)  # a tolerance, no more
    assert {w.dtype for w in points} == {z.dtype}
    for w, case in zip(points, cases.values(), strict=False):
        for layer in np.asarray(w, np.float64):
            off = np.linalg.norm(layer - case.project(layer))
            assert off <= 16 * float(jnp.finfo(dtype).eps) * np.linalg.norm(layer)


def test_a_tracked_penalty_allows_for_the_rounding_of_the_parameters() -> None:
    reg = 2.0 * MaxNorm(1.0)
    params = reg.prox(jnp.asarray(sample((5,)), jnp.bfloat16))
    tx = jaxreg.add_regularization(reg, track=True)
    _, state = jax.jit(lambda params: tx.update(jnp.zeros_like(params), tx.init(params), params))(params)
    assert float(state.penalty) == 0


@each_case
def test_derivative_of_the_prox(case: Case) -> None:
    with jax.enable_x64(True):
        for seed in range(3):
            z, dz = (sample((3, 4), s) for s in (seed, seed + 10))
            h = 1e-6
            (p, forward, reverse, violation, normal, _), (plus, *_), (minus, *_) = (
                derivatives(case.constraint, z + sign * h * dz, dz) for sign in (0, 1, -1)
            )
            np.testing.assert_allclose(forward, (plus - minus) / (2 * h), atol=1e-7)
            np.testing.assert_allclose(np.vdot(reverse, dz), np.vdot(forward, dz), rtol=1e-9)
            np.testing.assert_allclose(normal, (z - p) / violation, atol=1e-9)


@each_metric
def test_derivatives_in_a_metric(case: Case) -> None:
    with jax.enable_x64(True):
        arrays = (sample((7,)), np.exp(sample((7,), 1)))
        tangents = tuple(sample((7,), s) for s in (2, 3))

        def moved(h: float) -> tuple[jax.Array, jax.Array]:
            there = (a + h * t for a, t in zip(arrays, tangents, strict=True))
            return tangent_in_a_metric(case.constraint, *there, *tangents)

        difference = (moved(1e-6)[0] - moved(-1e-6)[0]) / 2e-6
        np.testing.assert_allclose(moved(0.0)[1], difference, atol=1e-6)


def test_second_derivatives_of_a_root() -> None:
    with jax.enable_x64(True):
        z, s, direction = sample((5,)), np.exp(sample((5,), 1)), np.eye(5)[1]

        @jax.jit
        def slope_and_curvature(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.jvp(jax.grad(lambda z: jnp.sum(MaxNorm(1.0).prox(z, s) ** 3)), (z,), (direction,))

        (plus, _), (minus, _), (_, curvature) = (slope_and_curvature(z + h * direction) for h in (1e-6, -1e-6, 0.0))
        np.testing.assert_allclose(curvature, (plus - minus) / 2e-6, atol=1e-6)


@each_case
def test_derivatives_with_respect_to_the_leaves(case: Case) -> None:
    with jax.enable_x64(True):
        z = sample((3, 4))
        leaves, treedef = jax.tree.flatten(case.constraint)
        for i, derivative in enumerate(jax.tree.leaves(cube(case.constraint, z)[1]) if leaves else ()):
            plus, minus = (
                cube(treedef.unflatten([c + h * (i == k) for k, c in enumerate(leaves)]), z)[0] for h in (1e-6, -1e-6)
            )
            np.testing.assert_allclose(derivative, (plus - minus) / 2e-6, rtol=1e-6, atol=1e-7)


@each_case
def test_finite_at_zeros_and_ties_in_strict_modes(case: Case) -> None:
    points = (np.zeros((3, 4)), case.point, np.ones((3, 4)), np.eye(3, 4), 1.5 * np.eye(3, 4), np.full((3, 4), -1.5),
              np.outer([1.0, 0.0, 2.0], np.ones(4)))  # fmt: skip
    programs = [(pulled_back_in_strict_modes, ())]
    if case.metric:
        programs.append((pulled_back_in_a_metric, (np.ones((3, 4), np.float32),)))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for point in points:
            for look_back, step in programs:
                p, value, *gradients, kept = look_back(case.constraint, np.float32(point), *step)
                assert np.isfinite(p).all() and value == 0
                assert all(np.isfinite(gradient).all() for gradient in gradients)
                # What `debug_nans` looks at in a compiled program: its outputs, here with what the gradients keep.
                assert not any(np.isnan(array).any() for array in kept)


def test_derivative_of_the_spectral_projection_where_an_svd_has_none() -> None:
    points = [np.diag([3.0, 3.0, 1.0, 1.0])[:, :3], np.diag([3.0, 0.0, 0.0]), 2 * np.eye(3), np.zeros((3, 2))]
    directions = [sample(z.shape) for z in points]

    @jax.jit
    def prox_and_derivative(points: list[jax.Array]) -> list[Any]:
        return [jax.jvp(SpectralBall(1.5).prox, (z,), (dz,)) for z, dz in zip(points, directions, strict=True)]

    with jax.enable_x64(True):
        plus, minus, here = (
            prox_and_derivative([z + h * dz for z, dz in zip(points, directions, strict=True)])
            for h in (1e-6, -1e-6, 0)
        )
        for (ahead, _), (behind, _), (_, derivative) in zip(plus, minus, here, strict=True):
            np.testing.assert_allclose(derivative, (ahead - behind) / 2e-6, atol=1e-6)


def multiplied(case: Case) -> Constraint:
    """Three sets, with the coefficients once, twice and three times."""
    return jax.tree.map(lambda c: np.float32(c * np.arange(1.0, 4.0)), case.constraint)


@functools.cache
def of_multiplied_sets() -> dict[str, Any]:
    """Of each case with a coefficient the projections on three sets, and the values in them at a point of the first."""
    x = np.float32(sample((3, 4)))
    with_leaves = [case for case in CASES if jax.tree.leaves(case.constraint)]
    inside = [first_order(case.constraint, x)[0] for case in with_leaves]

    @jax.jit
    def batches(sets: list[Constraint], x: jax.Array, inside: list[jax.Array]) -> list[Any]:
        return [jax.vmap(lambda c, p=p: (c.prox(x), c(p)))(c) for c, p in zip(sets, inside, strict=True)]

    sets, found = [multiplied(case) for case in with_leaves], []
    for few in (slice(first, first + 4) for first in range(0, len(sets), 4)):
        found += batches(sets[few], x, inside[few])
    return dict(zip(map(str, with_leaves), found, strict=True))


@each_case
def test_jit_vmap_and_one_compilation(case: Case) -> None:
    x = np.float32([sample((3, 4), seed) for seed in range(3)])
    proxes, violations = look_at_a_batch(case.constraint, x)
    for member, prox, violation in zip(x, proxes, violations, strict=True):
        one, distance, *_ = first_order(case.constraint, member)
        np.testing.assert_allclose(prox, one, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(violation, distance, rtol=1e-4)
    if jax.tree.leaves(case.constraint):
        proxes, values = of_multiplied_sets()[str(case)]
        for i in range(3):
            member = jax.tree.map(lambda c, i=i: c * (i + 1.0), case.constraint)
            np.testing.assert_allclose(proxes[i], first_order(member, x[0])[0], rtol=1e-5, atol=1e-6)
        assert values.shape == (3,) and values[0] == 0
    traces = []

    @jax.jit
    def prox(c: Constraint, z: jax.Array) -> jax.Array:
        traces.append(c)
        return c.prox(z)

    for factor in (1.0, 2.0, 3.0):
        prox.trace(jax.tree.map(lambda c, factor=factor: c * factor, case.constraint), x[0])
    assert len(traces) == 1


# ---------------------------------------------------------------------------------------------------- special arrays


@each_case
def test_empty_and_integer_arrays(case: Case) -> None:
    shapes, whole = ((0, 4), (4, 0), (0, 0)), np.array([[3, 0, -4], [1, 1, 0]], np.int32)
    empty = look_at_each(case.constraint, *(np.zeros(shape, np.float32) for shape in shapes))
    p, value = look(case.constraint, whole)
    for shape, result in zip(shapes, empty, strict=True):
        assert result[0].shape == shape and result[1] == 0 and result[2] == 0
    assert p.dtype == np.float32 and value == np.inf
    np.testing.assert_allclose(p, case.project(whole.astype(float)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [(NonNegative(), 0.0), (Box(-1.0, 1.0), -1.0), (MaxNorm(2.0), -2.0), (L1Ball(2.0), -2.0), (UnitNorm(None), -1.0),
     (Simplex(2.0, axis=None), 2.0)],
    ids=repr,
)  # fmt: skip
def test_numbers(constraint: Constraint, expected: float) -> None:
    assert constraint.prox(-3.0) == expected and constraint.prox(jnp.float32(-3.0)).shape == ()
    assert constraint.violation(-3.0) == abs(expected + 3.0) and constraint(-3.0) == jnp.inf


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e37, 2e38])
def test_large_and_small_entries(scale: float) -> None:
    unit = np.array([[0.5, -1.0, 0.25], [0.125, 0.5, 1.0]])
    z, norm, far = f32(scale * unit), np.linalg.norm(unit), scale > 1
    for constraint, expected in (
        (MaxNorm(1.0), unit / norm if far else scale * unit),
        (UnitNorm(None), unit / norm),
        (L1Ball(1.0), [[0, -0.5, 0], [0, 0, 0.5]] if far else scale * unit),
        (Simplex(1.0), [[1, 0, 0], [0, 0, 1]] if far else np.full((2, 3), 1 / 3)),
        (SpectralBall(1.0), np.linalg.svd(unit, full_matrices=False) if far else scale * unit),
    ):
        expected = expected.U @ expected.Vh if hasattr(expected, "Vh") else np.asarray(expected)
        p, value, _, normal, _ = pulled_back(constraint, z)
        np.testing.assert_allclose(p, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        assert value == 0 and np.isfinite(normal).all()


def test_small_sets_far_away() -> None:
    z = np.float32(1e6 + np.array([0.0, 0.5, 1.0, 1.0]))
    points = np.float32(1e6 + np.array([[0.0, 0.5, 0.25], [1.0, 1.0, 0.75]]))
    constraints = (Simplex(1e-3), L1Ball(1e-3), MaxNorm(1e-3))
    looks = jax.jit(lambda cs, z: [(p := c.prox(z), c(p), c.violation(z)) for c in cs])(constraints, z)
    assert all(value == 0 and violation > 1e5 for _, value, violation in looks)
    np.testing.assert_allclose(looks[0][0], [0, 0, 5e-4, 5e-4], rtol=1e-6)
    for constraint in (MaxNorm(0.0), L1Ball(0.0), SpectralBall(0.0), Simplex(0.0)):
        for point in (points, -points, 0 * points):
            p, value, gradient, _, _ = pulled_back(constraint, point)
            np.testing.assert_array_equal(p, np.zeros((2, 3)))
            assert np.isfinite(gradient).all() and value == 0


def test_half_precision_does_not_overflow() -> None:
    z = np.full((30, 40), 300.0, np.float16)
    ball, simplex, violation = jax.jit(
        lambda z: (MaxNorm(1.0, axis=0).prox(z), L1Ball(1.0, axis=0).prox(z), MaxNorm(1.0).violation(z[:3, :4]))
    )(z)
    np.testing.assert_allclose(ball, np.full((30, 40), 30**-0.5), rtol=1e-3)
    np.testing.assert_allclose(simplex, np.full((30, 40), 1 / 30), rtol=1e-3)
    assert violation.dtype == np.float32
    np.testing.assert_allclose(violation, 300 * 12**0.5 - 1, rtol=1e-6)


def test_zero_groups() -> None:
    z = np.float32([[3.0, 0.0, 1.0, 1.0], [4.0, 0.0, 1.0, -1.0]])

    @jax.jit
    def to_second_order(z: jax.Array) -> list[tuple[jax.Array, ...]]:
        return [
            (
                p := c.prox(z),
                c(p),
                c.violation(z),
                jax.jacobian(c.prox)(z),
                jax.hessian(lambda z, c=c: c.prox(z).sum())(z),
            )
            for c in (UnitNorm(axis=0), MaxNorm(1.0, axis=0))
        ]

    (p, value, violation, *_), (ball, *_) = results = to_second_order(z)
    np.testing.assert_allclose(p[:, 1], [0.5**0.5] * 2, rtol=1e-6)  # one of the nearest points, all equally near
    assert value == 0
    np.testing.assert_allclose(violation, np.sqrt(4**2 + 1 + 2 * (2**0.5 - 1) ** 2), rtol=1e-6)
    np.testing.assert_array_equal(ball[:, 1], [0.0, 0.0])
    assert all(np.isfinite(derivative).all() for *_, jacobian, hessian in results for derivative in (jacobian, hessian))


def test_zeros_are_positive_and_infinities_pass() -> None:
    p = NonNegative().prox(jnp.array([-0.0, -1.0, jnp.inf, -jnp.inf, jnp.nan]))
    np.testing.assert_array_equal(p, [0.0, 0.0, jnp.inf, 0.0, jnp.nan])
    assert not jnp.signbit(p[:2]).any()
    assert NonNegative()(jnp.array([1.0, jnp.inf])) == 0


def test_complex_numbers() -> None:
    z = jnp.array([[3 + 4j, 0j], [1j, -1.0]])
    np.testing.assert_allclose(MaxNorm(1.0).prox(z), z / np.sqrt(27), rtol=1e-6)
    np.testing.assert_allclose(L1Ball(5.5).prox(z), [[0.9 * (3 + 4j), 0], [0.5j, -0.5]], rtol=1e-6)
    u, s, vh = np.linalg.svd(np.asarray(z))
    np.testing.assert_allclose(SpectralBall(2.0).prox(z), (u * np.minimum(s, 2)) @ vh, rtol=1e-5, atol=1e-6)
    for constraint in (NonNegative(), Box(0.0, 1.0), Simplex()):
        with pytest.raises(TypeError, match=rf"`{type(constraint).__name__}` takes real numbers, got dtype complex64"):
            constraint.prox(z)


# ---------------------------------------------------------------------------------------------------- arguments


def test_bounds() -> None:
    assert Box(-1, np.float32(2)) == Box(-1.0, 2.0) and type(Box(-1).lower) is float
    assert Box() == Box(-np.inf, np.inf) == Box(None, None) and repr(Box(upper=1.0)) == "Box(lower=None, upper=1.0)"
    assert jax.tree.leaves(Box(upper=1.0)) == [-np.inf, 1.0]
    assert Box(1.0, 1.0).prox(jnp.zeros(2)).tolist() == [1.0, 1.0]
    z = f32(sample((3, 4)))
    lower = jnp.minimum(f32(sample((3, 4), 1)), 0).at[0, 0].set(-jnp.inf)
    np.testing.assert_array_equal(Box(lower, 0.5).prox(z), jnp.clip(z, lower, 0.5))
    with pytest.raises(TypeError, match=r"An array of shape \(3, 4\) has no config"):
        Box(lower, 0.5).get_config()
    with pytest.raises(ValueError, match=r"`Box\(lower=\.\.\.\)` must be a number or have the shape \(4,\).*vmap"):
        Box(lower, 0.5).prox(jnp.ones(4))
    assert jax.jit(lambda a: Box(a, 0.5).prox(jnp.ones(2)))(2.0).tolist() == [2.0, 2.0]  # lower > upper, traced


@pytest.mark.parametrize(
    ("bounds", "error", "match"),
    [((1.0, 0.0), ValueError, r"lower ≤ upper, got 1\.0 and 0\.0"), ((np.nan, 1), ValueError, r"Box\(lower="),
     ((np.inf, None), ValueError, r"Box\(lower="), ((None, -np.inf), ValueError, r"Box\(upper="),
     (("0", 1), TypeError, r"Box\(lower="), ((0, True), TypeError, r"Box\(upper="),
     ((0, 1j), TypeError, r"Box\(upper="),
     ((0, [1.0]), TypeError, r"Box\(upper="), ((np.zeros(2), np.array([1.0, -1.0])), ValueError, "lower ≤ upper"),
     ((np.array([0.0, np.nan]), 1), ValueError, r"Box\(lower="), ((jnp.array([True]), 1), TypeError, r"Box\(lower="),
     ((0, 10**400), ValueError, r"Box\(upper="), ((abs, 1), TypeError, r"Box\(lower=")],
    ids=repr,
)  # fmt: skip
def test_wrong_bounds(bounds: tuple[Any, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Box(*bounds)


@pytest.mark.parametrize(
    "make", [lambda a: MaxNorm(1.0, a), UnitNorm, lambda a: L1Ball(1.0, a), lambda a: Simplex(1.0, a)]
)
def test_wrong_axes(make: Callable[[Any], Constraint]) -> None:
    for axis in (1.0, "0", True, (0, 1.0), {0: 1}):
        with pytest.raises(TypeError, match=r"axis=\.\.\.\)` (must be an int, a tuple|is static)"):
            make(axis)
    for axis in (2, -3, (0, 2), (0, 0), (0, -2)):
        with pytest.raises(ValueError, match=r"axis=\.\.\.\)` must name different axes .* of rank 2, got"):
            make(axis).prox(jnp.ones((2, 2)))
    assert make([0, 1]).prox(jnp.ones((2, 2))).shape == (2, 2)
    assert make(np.int64(0)).get_config()["axis"] == 0


@pytest.mark.parametrize("make", [MaxNorm, L1Ball, Simplex, SpectralBall])
def test_wrong_coefficients(make: Callable[[Any], Constraint]) -> None:
    for value, error in ((-1.0, ValueError), (np.inf, ValueError), (np.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error, match=rf"`{make.__name__}\("):
            make(value)
    with pytest.raises(ValueError, match=rf"`{make.__name__}[^`]*` has a coefficient .* of shape \(2,\)"):
        make(jnp.ones(2))(jnp.ones((2, 2)))


@pytest.mark.parametrize("x", [[1.0], {"w": jnp.ones(2)}, None, "x"], ids=repr)
def test_what_is_no_array_is_refused(x: Any) -> None:
    for call in (NonNegative(), NonNegative().prox, NonNegative().violation):
        with pytest.raises(TypeError, match=r"`NonNegative[a-z.]*` takes one array, got .*TreeRegularizer"):
            call(x)
    with pytest.raises(ValueError, match=r"`SpectralBall` takes a matrix.*got shape \(3,\)"):
        SpectralBall(1.0).prox(jnp.ones(3))


@each_case
def test_round_trips(case: Case) -> None:
    config = json.loads(json.dumps(case.constraint.get_config(), allow_nan=False))
    assert type(case.constraint).from_config(config) == case.constraint
    assert eval(repr(case.constraint), dict(vars(jaxreg))) == case.constraint
    assert pickle.loads(pickle.dumps(case.constraint)) == case.constraint
    assert hash(jax.tree.map(lambda c: c, case.constraint)) == hash(case.constraint)
    leaves, treedef = jax.tree.flatten(case.constraint)
    assert repr(treedef.unflatten([object()] * len(leaves)))
    assert all(type(leaf) is float for leaf in leaves)
