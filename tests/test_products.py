"""Spectra of large matrices on a TPU and a GPU, by matrix products: run here on a CPU, against NumPy in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg._core import compiler
from jaxreg.penalties import _polar

pytestmark = pytest.mark.wide  # decompositions of large matrices

Array = np.ndarray
RNG = np.random.default_rng(0)
SHAPES = [(40, 24), (24, 32)]  # tall and wide
ROUNDING = 5e-6  # of σ₁, in float32


def spectra(k: int) -> dict[str, Array]:
    return {
        "all alike": np.full(k, 3.0),
        **{f"condition 1e{e}": 3 * np.geomspace(1, 10.0**-e, k) for e in (1, 2, 4, 6, 8)},
        "half the rank": np.r_[np.full(k // 2, 2.0), np.zeros(k - k // 2)],
        "rank 1": np.r_[1.0, np.zeros(k - 1)],
        "zero": np.zeros(k),
        "random": np.linalg.svd(RNG.normal(size=(k, k)), compute_uv=False),
        "tiny": 1e-25 * np.linspace(1, 2, k)[::-1],
        "huge": 1e25 * np.linspace(1, 2, k)[::-1],
    }


def with_spectrum(shape: tuple[int, int], s: Array) -> tuple[Array, Array, Array]:
    """u, v and the matrix."""
    u, v = (np.linalg.qr(RNG.normal(size=(n, len(s))))[0] for n in shape)
    return u, v, (u * s) @ v.T


def level(s: Array, excess: float) -> float:
    """θ ≥ 0 with Σ(σ − θ)₊ = excess, by bisection."""
    low, high = 0.0, s.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(s - middle, 0).sum() > excess else (low, middle)
    return low


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """What large matrices on a TPU and a GPU take."""
    monkeypatch.setattr(_polar, "is_large", lambda x: True)
    monkeypatch.setattr(compiler, "by_device", lambda on_cpu, elsewhere, *operands: elsewhere(*operands))


NORM, NUCLEAR, LOG = jaxreg.SpectralNorm(1.0), jaxreg.Spectral(jaxreg.L1(1.0)), jaxreg.Spectral(jaxreg.LogSum(1.0, 0.5))
STEPS = (1e-4, 0.02, 0.7, 1e4)  # of σ₁


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spectra_by_products(shape: tuple[int, int]) -> None:
    """Every spectrum through one program a shape."""

    @jax.jit
    def found(x: jax.Array, scale: jax.Array) -> dict[str, Any]:
        return {
            "σ₁": jax.value_and_grad(NORM)(x),
            "nuclear": NUCLEAR(x),
            "clipped": jax.vmap(lambda t: NORM.prox(x, t * scale))(jnp.array(STEPS)),
            "ball": jax.vmap(lambda r: jaxreg.SpectralBall(r * scale).prox(x))(jnp.array([0.3, 0.9])),
            "log": (LOG(x), LOG.prox(x, 0.1)),
            "root": jaxreg.SoftOrthogonal(1.0).prox(x, 0.05),
        }

    for name, s in spectra(min(shape)).items():
        u, v, x = with_spectrum(shape, s)
        top = s.max()
        got = jax.tree.map(lambda a: np.asarray(a, np.float64), found(jnp.float32(x), jnp.float32(top)))
        value, gradient = got["σ₁"]
        first = (s >= top * (1 - 1e-9)) & (top > 0)
        np.testing.assert_allclose(value, top, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(gradient, (u * first / max(first.sum(), 1)) @ v.T, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(got["nuclear"], s.sum(), rtol=2e-6, err_msg=name)
        for t, clipped in zip(STEPS, got["clipped"], strict=True):
            expected = (u * np.minimum(s, level(s, t * top))) @ v.T
            assert np.linalg.norm(clipped / max(top, 1e-99) - expected / max(top, 1e-99), 2) <= ROUNDING, (name, t)
        for r, clipped in zip((0.3, 0.9), got["ball"], strict=True):
            expected = (u * np.minimum(s, r * top)) @ v.T
            assert np.linalg.norm(clipped / max(top, 1e-99) - expected / max(top, 1e-99), 2) <= ROUNDING, (name, r)
        if name not in ("huge", "tiny"):
            np.testing.assert_allclose(got["log"][0], np.log1p(s / 0.5).sum(), rtol=2e-6, atol=2e-6, err_msg=name)
            shrunk = np.where(
                s > 0.2, (s - 0.5 + np.sqrt(np.maximum((s + 0.5) ** 2 - 0.4, 0))) / 2, 0
            )  # p + 0.1/(0.5 + p) = σ
            roots = [max(np.roots([0.2, 0, 0.8, -sigma]).real) for sigma in s]  # of the one real root
            for matrix, moved in ((got["log"][1], shrunk), (got["root"], roots)):
                assert np.linalg.norm(matrix - (u * moved) @ v.T, 2) <= ROUNDING * max(top, 1), name


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("reg", [NORM, LOG], ids=["SpectralNorm", "Spectral"])
def test_derivatives_by_products_are_those_by_a_decomposition(reg: jaxreg.Regularizer) -> None:
    """The second derivative of the value and the first one of the prox, in both modes, against central differences."""
    z, direction, other = (np.float32(RNG.normal(size=(7, 5))) for _ in range(3))

    def moved(x: jax.Array) -> jax.Array:
        return reg.prox(x, 0.05)

    @jax.jit
    def found(x: jax.Array) -> Any:
        changes = [jax.jvp(f, (x,), (jnp.asarray(direction),)) for f in (jax.grad(reg), moved)]
        backward = [jax.vjp(f, x)[1](jnp.asarray(other))[0] for f in (jax.grad(reg), moved)]
        return changes, backward

    changes, backward = found(jnp.asarray(z))
    h = 1e-2
    (above, _), (below, _) = found(jnp.asarray(z + h * direction)), found(jnp.asarray(z - h * direction))
    for i, (_, change) in enumerate(changes):
        difference = (above[i][0] - below[i][0]) / (2 * h)
        np.testing.assert_allclose(change, difference, atol=0.01 * np.abs(difference).max())
        np.testing.assert_allclose(np.vdot(change, other), np.vdot(backward[i], direction), rtol=2e-3)


@pytest.mark.usefixtures("products")
def test_what_is_no_number_stays_none_and_a_single_row_is_a_norm() -> None:
    row = np.float32(RNG.normal(size=(1, 9)))
    size = np.linalg.norm(row)
    found = jax.jit(lambda x, t: (*jax.value_and_grad(NORM)(x), NORM.prox(x, t), NUCLEAR(x)))
    value, gradient, moved, nuclear = found(row, 0.5)
    np.testing.assert_allclose((value, nuclear), size, rtol=1e-6)
    np.testing.assert_allclose(gradient, row / size, atol=1e-6)
    np.testing.assert_allclose(moved, row * (1 - 0.5 / size), atol=1e-6)
    np.testing.assert_array_equal(found(row, 0.0)[2], row)
    np.testing.assert_array_equal(found(row, np.inf)[2], 0 * row)
    for bad in (np.nan, np.inf):
        value, _, moved, nuclear = found(np.where(np.arange(9) == 2, np.float32(bad), row), 0.5)
        assert np.isnan([value, nuclear]).all() and not np.isfinite(moved).all()


def test_a_well_conditioned_matrix_takes_half_the_steps() -> None:
    """Of 16, which a singular matrix takes; a stack of matrices takes what its members need."""
    well, singular = (np.float32(with_spectrum((40, 30), spectra(30)[name])[2]) for name in ("condition 1e1", "rank 1"))
    iterated = jax.jit(_polar.iterated)
    assert (int(iterated(well)[2]), int(iterated(singular)[2])) == (8, 16)
    together = jax.jit(jax.vmap(_polar.polar_factor))(np.stack([well, singular]))
    np.testing.assert_allclose(together, [iterated(well)[0], iterated(singular)[0]], atol=1e-6)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_large_matrices_are_not_decomposed_as_they_are(platform: str) -> None:
    """σ₁ and its prox take products alone, the other functions the decomposition of a symmetric matrix."""

    def names(reg: jaxreg.Regularizer) -> list[bool]:
        function = jax.jit(lambda x: (*jax.value_and_grad(reg)(x), reg.prox(x, 0.1)))
        lowered = function.trace(jax.ShapeDtypeStruct((260, 256), jnp.float32)).lower(lowering_platforms=(platform,))
        text = lowered.as_text().lower()
        return [any(name in text for name in kind) for kind in (("svd",), ("eigh", "syev"))]

    assert names(NORM) == [False, False]
    assert names(LOG) == [False, True]


@pytest.mark.parametrize("rank", [0, 1, 20, 32])
def test_an_isometry_is_whole_also_where_the_rank_is_not(rank: int) -> None:
    """Orthonormal columns; on the row space it is the polar factor of NumPy's decomposition."""
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(48, rank)) @ rng.normal(size=(rank, 32))
    found = np.asarray(jax.jit(_polar.isometry)(x.astype(np.float32)), np.float64)
    np.testing.assert_allclose(found.T @ found, np.eye(32), atol=2e-5)
    u, _, vh = np.linalg.svd(x)
    np.testing.assert_allclose(found @ vh[:rank].T, u[:, :rank], atol=1e-4)
    np.testing.assert_allclose(jax.jit(_polar.isometry)(x.T.astype(np.float32)), found.T, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(256, 300), (257, 300), (600, 256), (1000, 700)])
def test_panels_of_rows_are_the_whole_product(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in programs for a TPU, also where the last panel is not full; with their derivatives, in both modes."""
    monkeypatch.setattr(compiler, "on_tpu", lambda there, elsewhere, *operands: there(*operands))
    a, b, g = (RNG.normal(size=shape) for shape in ((rows, 40), (40, columns), (rows, rows)))

    def close(found: jax.Array, expected: Array) -> None:
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())

    found, change = jax.jit(lambda a, b: jax.jvp(lambda a: compiler.matmul(a, b), (a,), (2 * a,)))(
        *map(jnp.float32, (a, b))
    )
    close(found, a @ b)
    close(change, 2 * a @ b)
    close(
        jax.jit(jax.grad(lambda b: jnp.sum(compiler.matmul(jnp.float32(a), b))))(jnp.float32(b)),
        a.T @ np.ones(found.shape),
    )
    close(jax.jit(compiler.multiply_add)(0.5, *map(jnp.float32, (g, g)), -2.0), 0.5 * g @ g - 2 * g)


@pytest.mark.parametrize("shape", [(600, 300), (300, 600)], ids=str)
def test_gradients_of_gram_matrices_are_the_formulas(on_tpu: list[Any], shape: tuple[int, int]) -> None:
    """Their product is one by panels; of a matrix that devices share it is whole."""
    x = RNG.normal(size=shape)
    rest = x @ x.T - np.eye(len(x)) if shape[0] < shape[1] else x.T @ x - np.eye(shape[1])
    soft = 4 * (rest @ x if shape[0] < shape[1] else x @ rest)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    u, n = x / norms, len(x)
    pulls = 2 * np.sign(u @ u.T - 2 * np.eye(n) * (u @ u.T)) @ u + 2 * u  # without the diagonal, whose sign is −1 here
    cosines = (pulls - u * (pulls * u).sum(1, keepdims=True)) / norms / (n * (n - 1))
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    shared = jax.device_put(jnp.float32(x), jax.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None)))
    for where, panels in ((jnp.float32(x), True), (shared, False)):
        for reg, expected in ((jaxreg.SoftOrthogonal(1.0), soft), (jaxreg.OrthogonalRegularizer(1.0), cosines)):
            jax.clear_caches()
            on_tpu.clear()
            found = jax.jit(jax.grad(reg))(where)
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
            assert bool(on_tpu) == panels
