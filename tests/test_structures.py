"""Structures over every elementwise penalty: groups, spectra, anchors, sums; each prox held against its definition."""

import functools
import json
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg.penalties import _polar
from jaxreg.penalties.l0 import _warn_once
from tests.cases import PROX_CASES, STRUCTURES, Case, gradient_and_product, row, sample

pytestmark = pytest.mark.wide

Array = np.ndarray
STEPS = (0.1, 1.0, 5.0)
REFERENCE = np.array([[0.5, -1.0], [0.0, 2.0]])
Z = np.array([[0.9, -0.05], [-2.0, 0.1]])

STRUCTURE: dict[str, tuple[Callable[[jaxreg.Regularizer], jaxreg.Regularizer], Callable[[Array], Array]]] = {
    "group": (lambda reg: jaxreg.Group(reg, 0), lambda w: np.linalg.norm(w, axis=-2)),
    "group of all": (lambda reg: jaxreg.Group(reg, None), lambda w: np.linalg.norm(w, axis=(-2, -1))[..., None]),
    "spectral": (lambda reg: jaxreg.Spectral(reg, "svd"), lambda w: _singular_values(w)),
    "anchored": (
        lambda reg: jaxreg.Anchored(reg, REFERENCE),
        lambda w: np.abs(w - REFERENCE).reshape(*w.shape[:-2], 4),
    ),
    "anchored group": (
        lambda reg: jaxreg.Anchored(jaxreg.Group(reg, 1), REFERENCE),
        lambda w: np.linalg.norm(w - REFERENCE, axis=-1),
    ),
}
each_structure = pytest.mark.parametrize("structure", STRUCTURE)
each_case = pytest.mark.parametrize("case", PROX_CASES, ids=str)


SCALES = (0.3, 0.65, 0.8, 1.0, 3.0)


def _singular_values(w: Array) -> Array:
    s = np.linalg.svd(w, compute_uv=False)
    return np.where(s < 1e-9, 0, s)  # the rank counts what is not rounding


def _objective(w: Array, z: Array, step: float, scalar: Any, reduce: Any) -> Array:
    return step * scalar(reduce(w)).sum(-1) + ((w - z) ** 2).sum((-2, -1)) / 2


NOISE = np.random.default_rng(0).normal(size=(4, 5, 400, 2, 2)) * np.array([1e-6, 1e-3, 0.03, 0.3, 2.0]).reshape(
    5, 1, 1, 1
)
LINE = np.linspace(-0.5, 1.5, 401)[:, None, None]


def _pairs(count: int) -> Array:
    """All pairs of `count` numbers from 0 to 1, a pair a row."""
    grid = np.linspace(0, 1, count)
    return np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)


def _candidates_by_z(z: Array) -> Array:
    clouds = [center + noise for center, noise in zip((z, 0 * z, REFERENCE), NOISE[[0, 2, 3]], strict=True)]
    lines = [LINE * z, REFERENCE + LINE * (z - REFERENCE)]
    columns, rows = z * _pairs(41)[:, None, :], REFERENCE + (z - REFERENCE) * _pairs(41)[:, :, None]
    u, s, vh = np.linalg.svd(z)
    spectra = (u * (s * _pairs(81))[:, None, :]) @ vh
    zeroed = [np.where(mask, z, other) for mask in (np.eye(2), 1 - np.eye(2)) for other in (0 * z, REFERENCE)]
    return np.concatenate([*(cloud.reshape(-1, 2, 2) for cloud in clouds), *lines, columns, rows, spectra, zeroed])


def _candidates_by_w(z: Array, w: Array) -> Array:
    return np.concatenate([(w + NOISE[1]).reshape(-1, 2, 2), LINE * w, w + LINE * (z - w)])


def candidates(z: Array, w: Array) -> Array:
    """Points among which none may beat w: near w, z and 0, on the segments between them, and w with parts zeroed."""
    return np.concatenate([_candidates_by_z(z), _candidates_by_w(z, w)])


@functools.cache
def _reduced_candidates(structure: str, scale: float) -> tuple[Array, Array]:
    """Of the candidates that depend on z = scale·Z alone: what the structure makes of them, and half the distances."""
    points = _candidates_by_z(scale * Z)
    return STRUCTURE[structure][1](points), ((points - scale * Z) ** 2).sum((-2, -1)) / 2


def _shortfall(w: Array, scale: float, step: float, scalar: Any, structure: str) -> float:
    """How much worse the objective is at w than at the best of the candidates, for z = scale·Z."""
    z, reduce = scale * Z, STRUCTURE[structure][1]
    reduced, distances = _reduced_candidates(structure, scale)
    best = min(
        (step * scalar(reduced).sum(-1) + distances).min(),
        _objective(_candidates_by_w(z, w), z, step, scalar, reduce).min(),
    )
    return float(_objective(w, z, step, scalar, reduce) - best)


@functools.cache
def within(structure: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of the structure around a penalty; one for each structure, so that its program is kept."""
    return lambda reg, *args: function(STRUCTURE[structure][0](reg), *args)


def value(reg: jaxreg.Regularizer, x: jax.Array) -> jax.Array:
    return reg(x)


def prox(reg: jaxreg.Regularizer, x: jax.Array, step: jax.Array) -> jax.Array:
    return reg.prox(x, step)


def gradient(reg: jaxreg.Regularizer, x: jax.Array) -> jax.Array:
    return jax.grad(reg)(x)


@each_case
@each_structure
def test_value_is_that_of_norms_or_singular_values(case: Case, structure: str) -> None:
    assert case.scalar is not None
    for w in (Z, REFERENCE + 0.5, np.zeros((2, 2))):
        found = row(within(structure, value), PROX_CASES, case, w.astype(np.float32))
        np.testing.assert_allclose(found, case.scalar(STRUCTURE[structure][1](w)).sum(), rtol=3e-6, atol=1e-7)


@pytest.mark.core
@each_case
@each_structure
def test_no_point_has_a_lower_objective(case: Case, structure: str) -> None:
    with jax.enable_x64(True):
        for step in STEPS:
            for scale in SCALES:
                w = row(within(structure, prox), PROX_CASES, case, scale * Z, step)
                assert _shortfall(w, scale, step, case.scalar, structure) <= 1e-9


@pytest.mark.core
@each_structure
def test_the_check_sees_planted_mistakes(structure: str) -> None:
    """√2 missing in L0, the branch of MCP for large steps dropped, ½ in L2: the three that peers shipped."""
    scalars = {type(case.regularizer): case.scalar for case in PROX_CASES}
    planted = (
        (jaxreg.L0, lambda z, t: jaxreg.L0(0.15).prox(z, t)),  # half of the 0.3 of the case: √(τ·l0) for √(2·τ·l0)
        (jaxreg.MCP, lambda z, t: np.where(z <= 1, 0 * z, z)),  # the 0.5·2.0 of the case, whatever the step
        (jaxreg.L2, lambda z, t: jaxreg.L2(0.35).prox(z, t)),
    )
    for cls, wrong in planted:
        shortfalls = []
        for step in STEPS:
            for scale in np.geomspace(0.2, 4.0, 25):
                w = _structured_prox(structure, wrong, scale * Z, step)
                shortfalls.append(_shortfall(w, float(scale), step, scalars[cls], structure))
        assert max(shortfalls) > 1e-4, cls


def _structured_prox(structure: str, prox: Callable[..., Any], z: Array, step: float) -> Array:
    """The structure's proximal operator in NumPy, around a scalar operator that may be wrong."""
    shift = REFERENCE if structure.startswith("anchored") else np.zeros_like(z)
    d = z - shift
    if structure == "anchored":
        return shift + np.asarray(prox(d, step))
    if structure == "spectral":
        u, s, vh = np.linalg.svd(d)
        return (u * np.asarray(prox(s, step))) @ vh
    axis = {"group": 0, "group of all": None, "anchored group": 1}[structure]
    norms = np.linalg.norm(d, axis=axis, keepdims=True)
    return shift + d / norms * np.asarray(prox(norms, step))


@each_case
@each_structure
def test_gradient_is_the_central_difference(case: Case, structure: str) -> None:
    assert case.scalar is not None
    w, direction, h = 1.7 * Z + 0.3, sample((2, 2), seed=2), 1e-6
    plus, minus = (case.scalar(STRUCTURE[structure][1](w + sign * h * direction)).sum() for sign in (1, -1))
    with jax.enable_x64(True):
        found = row(within(structure, gradient), PROX_CASES, case, w)
    np.testing.assert_allclose(np.vdot(found, direction), (plus - minus) / (2 * h), rtol=1e-6, atol=1e-8)


AT_KINKS: tuple[tuple[Callable[[jaxreg.Regularizer], jaxreg.Regularizer], list[Array]], ...] = (
    (jaxreg.Group, [np.zeros((2, 2)), np.array([[0.0, 1.0], [0.0, 2.0]])]),
    (jaxreg.Spectral, [np.zeros((2, 2)), np.eye(2), np.diag([1.0, 0.0])]),
    (lambda reg: jaxreg.Anchored(reg, REFERENCE), [REFERENCE, REFERENCE + np.eye(2)]),
)


def twice(reg: jaxreg.Regularizer, x: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """The gradient, and the product of the Hessian and a direction, of each structure in `AT_KINKS`."""
    return [jax.jvp(jax.grad(build(reg)), (x,), (jnp.ones_like(x),)) for build, _ in AT_KINKS]


@each_case
def test_gradients_at_kinks_are_zero_and_finite_twice(case: Case) -> None:
    for number, (build, kinks) in enumerate(AT_KINKS):
        for i, kink in enumerate(kinks):
            first, second = row(twice, PROX_CASES, case, np.float32(kink))[number]
            assert np.isfinite(first).all() and np.isfinite(second).all()
            assert i > 0 or (first == 0).all()
            if build in (jaxreg.Group, jaxreg.Spectral) and kink[0, 0] == 0:
                np.testing.assert_array_equal(first[:, 0], 0.0)


def prox_and_tangent(reg: jaxreg.Regularizer, x: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """With point, step and every coefficient moved by as much."""
    ones = jax.tree.map(jnp.ones_like, (reg, x, step))
    return jax.jvp(prox, (reg, x, step), ones)


@each_case
@each_structure
def test_prox_derivatives_are_finite_and_dtypes_are_kept(case: Case, structure: str) -> None:
    for z in (Z, np.zeros((2, 2)), REFERENCE, np.eye(2)):
        x = np.float32(z)
        moved, unmoved = (row(within(structure, prox_and_tangent), PROX_CASES, case, x, step) for step in (0.7, 0.0))
        assert np.isfinite(moved[1]).all()
        np.testing.assert_allclose(unmoved[0], x, atol=1e-6 if structure == "spectral" else 0)
    reg = STRUCTURE[structure][0](case.regularizer)
    assert jax.eval_shape(reg.prox, jax.ShapeDtypeStruct((2, 2), jnp.bfloat16)).dtype == jnp.bfloat16


def structured_proxes(reg: jaxreg.Regularizer, z: jax.Array) -> list[jax.Array]:
    return [of.prox(z, 0.5) for of in (jaxreg.Group(reg, axis=0), jaxreg.Anchored(reg, 0.5), jaxreg.Spectral(reg))]


@each_case
def test_nan_stays_nan(case: Case) -> None:
    z = np.array([[1.0, np.nan], [2.0, 3.0]], np.float32)
    group, anchored, spectral = row(structured_proxes, PROX_CASES, case, z)
    np.testing.assert_array_equal(np.isnan(group), [[False, True], [False, True]])
    assert np.isnan(anchored[0, 1])
    assert np.isnan(spectral).any()


# ----------------------------------------------------------------------------------------------------------- identities


def values_and_proxes(reg: jaxreg.Regularizer, x: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    regs = (reg, jaxreg.Group(reg, axis=1), jaxreg.Group(reg, axis=()), jaxreg.Anchored(reg, 0.0))
    return [*((r(x), r.prox(x, 0.7)) for r in regs), _of_a_diagonal(jaxreg.Spectral(reg), x[:, 0])]


@each_case
def test_structures_that_reduce_to_the_elementwise_penalty(case: Case) -> None:
    for x in (np.float32(sample((3, 1))), np.float32([[3.0], [-1.0], [0.2]])):
        (value, prox), *others, (spectral, diagonal) = row(values_and_proxes, PROX_CASES, case, x)
        for other, other_prox in others:
            np.testing.assert_allclose(other, value, rtol=1e-6)
            np.testing.assert_allclose(other_prox, prox, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(spectral, value, rtol=1e-5)
        np.testing.assert_allclose(diagonal, prox[:, 0], rtol=1e-4, atol=1e-6)


def _of_a_diagonal(reg: jaxreg.Regularizer, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return reg(jnp.diag(x)), jnp.diag(reg.prox(jnp.diag(x), 0.7))


def test_invariances() -> None:
    with jax.enable_x64(True):
        q, r = (jnp.asarray(np.linalg.qr(sample((4, 4), seed))[0]) for seed in (1, 2))
        x = jnp.asarray(sample((4, 4), 3))
        for reg in (jaxreg.Spectral(jaxreg.MCP(0.5)), jaxreg.SpectralNorm(0.5), jaxreg.SoftOrthogonal(0.5)):
            np.testing.assert_allclose(reg(q @ x @ r), reg(x), rtol=1e-10)
            np.testing.assert_allclose(reg.prox(q @ x @ r, 0.3), q @ reg.prox(x, 0.3) @ r, atol=1e-10)
        group = jaxreg.Group(jaxreg.LogSum(0.5), axis=0)
        np.testing.assert_allclose(group.prox(q @ x, 0.3), q @ group.prox(x, 0.3), atol=1e-12)
        hoyer = jaxreg.HoyerSquare(1.0)
        np.testing.assert_allclose(hoyer(1e200 * x), hoyer(x), rtol=1e-12)


def test_double_soft_orthogonality_is_soft_orthogonality() -> None:
    w = sample((5, 3), scale=1.0)
    both = ((w.T @ w - np.eye(3)) ** 2).sum() + ((w @ w.T - np.eye(5)) ** 2).sum()
    np.testing.assert_allclose(2 * jaxreg.SoftOrthogonal(1.0)(w) + 2, both, rtol=1e-5)
    np.testing.assert_allclose(jaxreg.SoftOrthogonal(1.0)(w.T), ((w @ w.T - np.eye(5)) ** 2).sum(), rtol=1e-5)
    kernel = sample((3, 3, 2, 4))
    flat = kernel.reshape(18, 4)
    found = jaxreg.Matrix(jaxreg.SoftOrthogonal(1.0))(kernel)
    np.testing.assert_allclose(found, ((flat.T @ flat - np.eye(4)) ** 2).sum(), rtol=1e-5)


@pytest.mark.parametrize("u", [0.01, 0.2, 3.0, 1e4])
def test_the_root_of_soft_orthogonality(u: float) -> None:
    with jax.enable_x64(True):
        sigma = np.array([1e-3, 0.3, 1.0, 2.0, 50.0])
        found = np.diag(jaxreg.SoftOrthogonal(1.0).prox(np.diag(sigma), u))
        roots = [max(r.real for r in np.roots([4 * u, 0, 1 - 4 * u, -s]) if abs(r.imag) < 1e-9) for s in sigma]
        np.testing.assert_allclose(found, roots, rtol=1e-9)


@pytest.mark.parametrize("step", [0.1, 1.0, 5.0])
def test_prox_of_the_spectral_norm_by_moreau(step: float) -> None:
    """σ − prox(σ) is the projection on the ℓ₁ ball; here by bisection in NumPy."""
    with jax.enable_x64(True):
        z = sample((4, 3))
        u, s, vh = np.linalg.svd(z, full_matrices=False)
        low, high = 0.0, s.max()
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.maximum(s - middle, 0).sum() > 2 * step else (low, middle)
        expected = (u * np.minimum(s, high)) @ vh if s.sum() > 2 * step else np.zeros_like(z)
        np.testing.assert_allclose(jaxreg.SpectralNorm(2.0).prox(jnp.asarray(z), step), expected, atol=1e-9)


@jax.jit
def value_prox_gradient(reg: jaxreg.Regularizer, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return reg(x), reg.prox(x, 0.5), jax.grad(reg)(x)


def test_stacks_of_matrices() -> None:
    x = np.float32(sample((5, 3, 2)))
    for reg in (jaxreg.Spectral(jaxreg.L1(0.3)), jaxreg.Spectral(jaxreg.L1(0.3), "polar"), jaxreg.SpectralNorm(0.3)):
        found = value_prox_gradient(jaxreg.Stacked(reg), x)
        values, proxes, gradients = zip(*(value_prox_gradient(reg, matrix) for matrix in x), strict=True)
        np.testing.assert_allclose(found[0], np.sum(values), rtol=1e-5)
        np.testing.assert_allclose(found[1], np.stack(proxes), atol=1e-5)
        np.testing.assert_allclose(found[2], np.stack(gradients), atol=1e-5)


# -------------------------------------------------------------------------------------------------------- the polar way


@pytest.mark.parametrize("shape", [(64, 40), (40, 64), (32, 32)])
@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_polar_and_svd_agree(shape: tuple[int, int], spread: float) -> None:
    u, s, vh = np.linalg.svd(sample(shape), full_matrices=False)
    x = jnp.asarray((u * np.geomspace(5.0, 5.0 * spread, s.size)) @ vh, jnp.float32)
    svd, polar = jaxreg.Spectral(jaxreg.L1(0.7), "svd"), jaxreg.Spectral(jaxreg.L1(0.7), "polar")
    exact = 0.7 * np.geomspace(5.0, 5.0 * spread, s.size).sum()
    for reg in (svd, polar):
        np.testing.assert_allclose(reg(x), exact, rtol=2e-6)
        for t in (0.3, 2.0, 100.0):
            shrunk = (u * np.maximum(np.geomspace(5.0, 5.0 * spread, s.size) - 0.7 * t, 0)) @ vh
            assert np.linalg.norm(reg.prox(x, t) - shrunk, 2) <= 2e-6 * 5.0 * (1 + 0.7 * t)
    ones, zeros = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    for reg in (svd, polar):
        found, product = gradient_and_product(reg, x, ones)
        np.testing.assert_allclose(found, 0.7 * u @ vh, atol=2e-5)
        assert np.isfinite(product).all()
    assert (np.asarray(gradient_and_product(polar, zeros, ones)[0]) == 0).all()
    assert (np.asarray(polar.prox(zeros, 1.0)) == 0).all()


@pytest.mark.parametrize("smallest", [1.0, 1e-5, 0.0], ids=["well", "ill-conditioned", "rank 4"])
def test_singular_values_are_cut_by_products_as_by_a_decomposition(smallest: float) -> None:
    """What `SpectralBall` does with large matrices on a TPU and a GPU, against NumPy's decomposition."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, 8)))[0] for n in (12, 8))
    spectrum = np.r_[3.0, 2.0, 1.5, 1.0, np.full(4, smallest)]
    x = ((u * spectrum) @ v.T).astype(np.float32)
    cut = jax.jit(_polar.clipped_polar)
    for bound in (1.2, 0.3):
        for z, expected in (
            (x, (u * np.minimum(spectrum, bound)) @ v.T),
            (x.T, (v * np.minimum(spectrum, bound)) @ u.T),
        ):
            np.testing.assert_allclose(cut(z, bound), expected, atol=5e-6)
    np.testing.assert_array_equal(cut(x, 3.1), x)
    np.testing.assert_array_equal(cut(0 * x, 1.0), 0 * x)


def test_polar_is_for_real_multiples_of_l1() -> None:
    for reg, x in ((jaxreg.MCP(), jnp.eye(2)), (jaxreg.L1(), jnp.eye(2) * 1j)):
        with pytest.raises(ValueError, match="method='svd'"):
            jaxreg.Spectral(reg, "polar")(x)


# --------------------------------------------------------------------------------------------------------------- metric


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("c", [0.0, 0.3, 2.0, 50.0])
def test_group_lasso_in_a_diagonal_metric_is_stationary(spread: float, c: float) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        z, step = rng.normal(size=(6, 50)), 10.0 ** rng.uniform(-spread, spread, size=(6, 50))
        step[0, 0] = 0.0
        w = np.asarray(jaxreg.Group(jaxreg.L1(c)).prox(z, step))
        norms = np.linalg.norm(w, axis=0)
        active = norms > 0
        assert w[0, 0] == z[0, 0]
        moved = np.divide(w - z, step, out=np.zeros_like(w), where=step > 0)
        residual = moved[:, active] + c * w[:, active] / norms[active]
        residual[np.asarray(step == 0)[:, active]] = 0
        assert np.abs(residual).max(initial=0) <= 1e-9 * max(1, np.abs(moved).max())
        assert (np.linalg.norm(z / np.where(step == 0, 1, step), axis=0)[~active] <= c * (1 + 1e-12)).all()
        if c == 0:
            np.testing.assert_array_equal(w, z)
    in_float32 = jaxreg.Group(jaxreg.L1(c)).prox(jnp.asarray(z, jnp.float32), jnp.asarray(step, jnp.float32))
    assert jnp.isfinite(in_float32).all()
    np.testing.assert_allclose(in_float32, w, atol=2e-5)


jitted_prox = jax.jit(prox)


@jax.jit
def values_of_many(reg: jaxreg.Regularizer, points: jax.Array) -> jax.Array:
    return jax.vmap(reg)(points)


@pytest.mark.parametrize(
    "reg",
    [
        jaxreg.Group(jaxreg.L1(0.4)),
        jaxreg.Group(jaxreg.L1L2(0.4, 0.3), weight="sqrt_size"),
        jaxreg.L1(0.2) + jaxreg.Group(jaxreg.L1(0.4)),
        jaxreg.L1L2(0.2, 0.1) + 2 * jaxreg.Group(jaxreg.L1(0.2)),
        jaxreg.Anchored(jaxreg.Group(jaxreg.L1(0.4)), REFERENCE),
        jaxreg.Anchored(jaxreg.L1(0.4), REFERENCE, weights=np.array([[0.0, 1.0], [2.0, 0.5]])),
        jaxreg.L2(0.5) + jaxreg.MCP(0.5, 2.0),
    ],
    ids=str,
)
def test_no_point_is_better_in_a_diagonal_metric(reg: jaxreg.Regularizer) -> None:
    with jax.enable_x64(True):
        for step in (np.array([[0.1, 1.0], [3.0, 0.5]]), np.full((2, 2), 0.7), np.array([[0.0, 2.0], [1.0, 1e5]])):
            w = np.asarray(jitted_prox(reg, Z, step))
            points = candidates(Z, w)
            points = np.concatenate([[w], points, w + np.where(step > 0, points - w, 0)])
            fixed = (points == np.where(step == 0, Z, points)).all(axis=(1, 2))
            weights = np.where(step > 0, 1 / np.where(step > 0, step, 1), 0)
            values = np.asarray(values_of_many(reg, points)) + (weights * (points - Z) ** 2).sum((1, 2)) / 2
            assert values[0] <= values[fixed].min() + 1e-9
            if np.ptp(step) == 0:
                np.testing.assert_allclose(w, jitted_prox(reg, Z, step[0, 0]), atol=1e-12)


@pytest.mark.parametrize(
    "reg",
    [jaxreg.Group(jaxreg.MCP()), jaxreg.Spectral(jaxreg.L1()), jaxreg.SpectralNorm(), jaxreg.SoftOrthogonal()],
    ids=str,
)
def test_what_has_no_metric_prox_says_so(reg: jaxreg.Regularizer) -> None:
    with pytest.raises(NotImplementedError, match=r"array step.*(metric=None|one step)"):
        reg.prox(jnp.ones((2, 2)), jnp.ones((2, 2)))


# ----------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize(
    "reg",
    [
        jaxreg.L1(0.2) + jaxreg.Group(jaxreg.L1(0.4)),
        jaxreg.L1(0.2) + jaxreg.Group(jaxreg.MCP(0.5, 2.0)),
        jaxreg.L1(0.2) + 2 * jaxreg.Group(jaxreg.L0(0.3)),
        jaxreg.L1L2(0.2, 0.3) + jaxreg.Group(jaxreg.Lq(0.4)),
        jaxreg.L2(0.3) + jaxreg.Spectral(jaxreg.L1(0.4)),
        jaxreg.L2(0.3) + jaxreg.MCP(0.5, 2.0),
        jaxreg.L2(0.3) + jaxreg.SpectralNorm(0.5),
    ],
    ids=str,
)
def test_prox_of_sums_by_brute_force(reg: jaxreg.Regularizer) -> None:
    with jax.enable_x64(True):
        for z in (Z, 3 * Z):
            for step in STEPS:
                w = np.asarray(jitted_prox(reg, z, step))
                soft = np.sign(z) * np.maximum(np.abs(z) - 0.2 * step, 0)
                points = np.concatenate([[w], candidates(z, w), candidates(soft, w)])
                values = step * np.asarray(values_of_many(reg, points)) + ((points - z) ** 2).sum((1, 2)) / 2
                assert values[0] <= values.min() + 1e-9


@pytest.mark.parametrize(
    ("reg", "names"),
    [
        (jaxreg.L1() + jaxreg.Spectral(jaxreg.L1()), r"L1 \+ Spectral"),
        (jaxreg.L1() + jaxreg.MCP(), r"L1 \+ MCP"),
        (jaxreg.Group(jaxreg.L1(), 0) + jaxreg.Group(jaxreg.L1(), 1), r"Group \+ Group"),
        (jaxreg.L2() + jaxreg.MCP() + jaxreg.Huber(), r"L2 \+ MCP \+ Huber"),
        (jaxreg.L1() + jaxreg.Anchored(jaxreg.L1(), 1.0), r"L1 \+ Anchored"),
    ],
)
def test_sums_without_an_exact_prox_raise(reg: jaxreg.Regularizer, names: str) -> None:
    with pytest.raises(NotImplementedError, match=names + r".*all terms but one"):
        reg.prox(jnp.ones((2, 2)))


def test_disjoint_leaves_of_a_tree_need_no_rule() -> None:
    tree = {"a": jnp.asarray(Z, jnp.float32), "b": jnp.asarray(Z, jnp.float32)}
    reg = jaxreg.TreeRegularizer({"a": jaxreg.L1(0.3), "b": jaxreg.Spectral(jaxreg.L1(0.3))})
    after = reg.prox(tree, 0.5)
    np.testing.assert_array_equal(after["a"], jaxreg.L1(0.3).prox(tree["a"], 0.5))
    np.testing.assert_array_equal(after["b"], jaxreg.Spectral(jaxreg.L1(0.3)).prox(tree["b"], 0.5))


# ------------------------------------------------------------------------------------------------ arguments and configs


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: jaxreg.Group(jaxreg.SpectralNorm()), TypeError, r"Group\(penalty.*elementwise.*SpectralNorm"),
        (lambda: jaxreg.Spectral(jaxreg.Group(jaxreg.L1())), TypeError, r"Spectral\(penalty.*elementwise.*Group"),
        (lambda: jaxreg.Group(jaxreg.L1(), axis="0"), TypeError, r"Group\(axis"),
        (lambda: jaxreg.Group(jaxreg.L1(), axis=True), TypeError, r"Group\(axis"),
        (lambda: jaxreg.Group(jaxreg.L1(), weight="sqrt"), ValueError, r"Group\(weight"),
        (lambda: jaxreg.Group(jaxreg.L1(), 2)(jnp.ones((2, 2))), ValueError, r"must name different axes .* rank 2"),
        (lambda: jaxreg.Group(jaxreg.L1(), (0, -2))(jnp.ones((2, 2))), ValueError, "must name different axes"),
        (lambda: jaxreg.Spectral(jaxreg.L1())(jnp.ones(3)), ValueError, "takes a matrix"),
        (lambda: jaxreg.Spectral(jaxreg.L1(), "qr"), ValueError, r"Spectral\(method"),
        (lambda: jaxreg.Difference(jaxreg.L1(), axis=0.5), TypeError, r"Difference\(axis"),
        (lambda: jaxreg.Difference(jaxreg.L1(), order=0), ValueError, r"Difference\(order"),
        (lambda: jaxreg.Difference(jaxreg.L1(), axis=3)(jnp.ones(3)), ValueError, "must name different axes"),
        (lambda: jaxreg.Difference(jaxreg.L1(), order=2).prox(jnp.ones(3)), NotImplementedError, "inner_steps=10"),
        (lambda: jaxreg.Lq(0.1, q=1.0), ValueError, r"Lq\(q"),
        (lambda: jaxreg.Lq(0.1, q="1"), TypeError, r"Lq\(q"),
        (lambda: jaxreg.MCP(0.1, 0.0), ValueError, r"MCP\(gamma=.*greater than 0"),
        (lambda: jaxreg.SCAD(0.1, 2.0), ValueError, r"SCAD\(a=.*greater than 2"),
        (lambda: jaxreg.LogSum(0.1, -1), ValueError, r"LogSum\(eps"),
        (lambda: jaxreg.Huber(0.1, 0), ValueError, r"Huber\(delta"),
        (lambda: jaxreg.Anchored(jaxreg.L1(), None), TypeError, r"Anchored\(reference"),
        (lambda: jaxreg.Anchored(jaxreg.L1(), [1.0]), TypeError, r"Anchored\(reference"),
        (
            lambda: jaxreg.Anchored(jaxreg.Group(jaxreg.L1()), 0.0, weights=1.0),
            TypeError,
            "weights need an elementwise",
        ),
        (
            lambda: jaxreg.Anchored(jaxreg.L1(), jnp.ones(2))(jnp.ones(3)),
            ValueError,
            r"shape \(2,\), the array has \(3,\)",
        ),
    ],
)
def test_wrong_arguments(build: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_l0_in_a_loss_warns_once() -> None:
    """The warning comes with a trace, so the shapes are those of no other test in this process."""
    _warn_once.cache_clear()
    with pytest.warns(UserWarning, match="gradient of `L0` is zero"):
        jax.grad(jaxreg.L0())(jnp.ones((1, 3, 1, 7)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.grad(jaxreg.L0())(jnp.ones((1, 3, 1, 8)))
        jaxreg.L0()(jnp.ones((1, 3, 1, 9)))


def test_the_config_of_an_anchor_names_its_arrays() -> None:
    reg = jaxreg.Anchored(jaxreg.L2(0.5), REFERENCE, weights=np.ones((2, 2)))
    config = json.loads(json.dumps(jaxreg.serialize(reg)))
    assert config["config"]["reference"]["shape"] == [2, 2]
    again = jaxreg.Anchored.from_config(config["config"], reference=REFERENCE, weights=np.ones((2, 2)))
    assert again == reg
    for arrays in ({}, {"reference": REFERENCE}, {"reference": REFERENCE + 1, "weights": np.ones((2, 2))}):
        with pytest.raises(ValueError, match=r"from_config\(config, reference=reference, weights=weights\)"):
            jaxreg.Anchored.from_config(config["config"], **arrays)
    with pytest.raises(ValueError, match="from_config"):
        jaxreg.deserialize(config)
    for broken in (None, {}, {**config["config"], "x": 1}):
        with pytest.raises(ValueError, match="takes a dict"):
            jaxreg.Anchored.from_config(broken)  # type: ignore[arg-type]


def test_anchors_are_pytrees_without_gradient_into_the_reference() -> None:
    reg = jaxreg.Anchored(jaxreg.L2(0.5), jnp.asarray(REFERENCE), weights=jnp.ones((2, 2)))
    assert len(jax.tree.leaves(reg)) == 3
    slope = jax.grad(lambda reg: reg(jnp.asarray(Z)))(reg)
    assert (slope.reference == 0).all() and (slope.weights == 0).all() and slope.penalty.l2 > 0
    stacked = jax.vmap(lambda c: jaxreg.Anchored(jaxreg.L2(c), jnp.zeros(2)))(jnp.arange(3.0))
    np.testing.assert_allclose(jax.vmap(lambda reg: reg(jnp.ones(2)))(stacked), [0.0, 2.0, 4.0])


def test_a_tree_anchored_to_pretrained_parameters() -> None:
    pretrained = {"a[0]": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "b": {"kernel": jnp.zeros((2, 1))}}
    params = jax.tree.map(lambda p: p + 2.0, pretrained)
    reg = jaxreg.TreeRegularizer({"**/kernel": jaxreg.L2(0.5), "**": None}).anchored(pretrained)
    assert float(reg(params)) == 0.5 * 4 * 6
    assert set(reg.assignment(params)) == {"a[0]/kernel", "b/kernel"}
    np.testing.assert_array_equal(reg.prox(params, 1e30)["a[0]"]["kernel"], jnp.ones((2, 2)))


@pytest.mark.parametrize("case", STRUCTURES, ids=str)
def test_structures_round_trip_through_json(case: Case) -> None:
    assert jaxreg.deserialize(json.loads(json.dumps(jaxreg.serialize(case.regularizer)))) == case.regularizer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decades", [0, 2, 4, 8])
def test_group_in_a_metric_of_many_decades_is_the_root_by_bisection(dtype: str, decades: int) -> None:
    rng = np.random.default_rng(decades)
    step = 10 ** rng.uniform(-decades / 2, decades / 2, (400, 60))
    z = rng.normal(size=(400, 60)) * step ** rng.uniform(0, 1.5, (400, 1))
    z *= (1 + 10 ** rng.uniform(-4, 3, (400, 1))) / np.linalg.norm(
        z / step, axis=1, keepdims=True
    )  # just above, far above
    low, high = np.zeros((400, 1)), np.linalg.norm(z, axis=1, keepdims=True)
    r = high / 2
    while ((low < r) & (r < high)).any():  # the root of Σ(z/(r + τ))² = 1
        low, high = np.where(((z / (r + step)) ** 2).sum(1, keepdims=True) > 1, (r, high), (low, r))
        r = (low + high) / 2
    expected = z * r / (r + step)
    with jax.enable_x64(dtype == "float64"):
        w = np.asarray(jaxreg.Group(jaxreg.L1(1.0), axis=1).prox(jnp.asarray(z, dtype), jnp.asarray(step, dtype)))
    error = np.abs(w - expected).max(axis=1) / np.abs(z).max(axis=1)
    assert error.max() <= 8 * np.finfo(dtype).eps


def test_derivatives_of_the_group_prox_in_a_metric_are_central_differences() -> None:
    """In z, the steps and the coefficient, forwards and backwards, though the root is found in a while loop."""
    rng = np.random.default_rng(0)
    z, step, c = rng.normal(size=(4, 6)), 10 ** rng.uniform(-2, 0.5, (4, 6)), np.float64(0.8)
    z[0] *= 1e-3  # a group that vanishes
    dz, dstep, dc, h = rng.normal(size=(4, 6)), step * rng.normal(size=(4, 6)), np.float64(1.3), 1e-6

    def prox(z: Any, step: Any, c: Any) -> jax.Array:
        return jaxreg.Group(jaxreg.L1(c), axis=1).prox(z, step)

    with jax.enable_x64(True):
        ahead = np.asarray(prox(z + h * dz, step + h * dstep, c + h * dc))
        behind = np.asarray(prox(z - h * dz, step - h * dstep, c - h * dc))
        expected = (ahead - behind) / (2 * h)
        w, forwards = jax.jvp(prox, (z, step, c), (dz, dstep, dc))
        cotangent = rng.normal(size=w.shape)
        backwards = jax.vjp(prox, z, step, c)[1](jnp.asarray(cotangent))
    assert (np.asarray(w)[0] == 0).all() and (np.asarray(w)[1:] != 0).all()
    np.testing.assert_allclose(forwards, expected, atol=1e-8)
    inner = sum(np.sum(np.asarray(b) * d) for b, d in zip(backwards, (dz, dstep, dc), strict=True))
    np.testing.assert_allclose(inner, np.sum(cotangent * expected), rtol=1e-7)


def test_the_axes_of_a_stack_are_checked() -> None:
    for axes in (True, "0", 1.0, None, (0, "1"), ((0,),)):
        with pytest.raises(TypeError, match=r"`Stacked\(axes=...\)` must be an int or a tuple of ints, got"):
            jaxreg.Stacked(jaxreg.L1(1.0), axes=axes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`Stacked\(axes=...\)` must name different axes, got \(0, 0\)"):
        jaxreg.Stacked(jaxreg.L1(1.0), axes=(0, 0))
    norms = jaxreg.Stacked(jaxreg.SpectralNorm(1.0), axes=(0, -3))
    with pytest.raises(
        ValueError, match=r"`Stacked\(axes=...\)` must name different axes of the array, here of rank 3"
    ):
        norms(np.ones((2, 3, 4)))
    np.testing.assert_allclose(norms(np.ones((5, 2, 1, 4))), 10 * 2.0, rtol=1e-6)  # of a row of 4 ones: 2
    assert jaxreg.Stacked(jaxreg.L1(1.0), axes=np.int64(1)).axes == (1,)  # type: ignore[arg-type]
