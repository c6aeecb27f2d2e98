"""Kernels as matrices: NumPy's decomposition of the matrix that is written out, and the one rule of rank 2."""

import json
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import L1, L2, Box, Group, Matrix, Spectral, SpectralBall, SpectralNorm, Stacked
from jaxreg._core.structure import Reach
from tests.cases import label, sample

pytestmark = pytest.mark.wide  # every matrix penalty in every wrapper

Array = np.ndarray

# shape, outputs, the matrix and the way back written out by hand
KERNELS: dict[str, tuple[tuple[int, ...], Any, Any, Any]] = {
    "convolution": ((3, 3, 2, 4), -1, lambda x: x.reshape(18, 4), lambda m: m.reshape(3, 3, 2, 4)),
    "transposed convolution": (
        (3, 3, 4, 2), 2, lambda x: x.transpose(0, 1, 3, 2).reshape(18, 4),
        lambda m: m.reshape(3, 3, 2, 4).transpose(0, 1, 3, 2),
    ),
    "query": ((6, 2, 3), (-2, -1), lambda x: x.reshape(6, 6), lambda m: m.reshape(6, 2, 3)),
    "out": ((2, 3, 5), (2,), lambda x: x.reshape(6, 5), lambda m: m.reshape(2, 3, 5)),
    "packed": ((5, 3, 2, 2), (1, 2, 3), lambda x: x.reshape(5, 12), lambda m: m.reshape(5, 3, 2, 2)),
    "another order": (
        (2, 3, 4), (2, 0), lambda x: x.transpose(1, 2, 0).reshape(3, 8), lambda m: m.reshape(3, 4, 2).transpose(2, 0, 1)
    ),
    "one row": ((2, 3), (0, 1), lambda x: x.reshape(1, 6), lambda m: m.reshape(2, 3)),
    "one column": ((2, 3), (), lambda x: x.reshape(6, 1), lambda m: m.reshape(2, 3)),
    "a vector": ((4,), -1, lambda x: x.reshape(1, 4), lambda m: m.reshape(4)),
    "a number": ((), (), lambda x: x.reshape(1, 1), lambda m: m.reshape(())),
}  # fmt: skip
each_kernel = pytest.mark.parametrize("name", KERNELS)


def _decomposed(m: Array) -> tuple[Array, Array, Array]:
    return np.linalg.svd(m, full_matrices=False)


@each_kernel
@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
def test_value_gradient_and_prox_are_those_of_the_matrix_by_numpy(name: str, complex_: bool) -> None:
    shape, outputs, as_matrix, back = KERNELS[name]
    x = sample(shape) * (1 + 0j) + 1j * sample(shape, 1) * complex_
    x = x if complex_ else x.real
    u, s, vh = _decomposed(as_matrix(x))

    @jax.jit
    def compiled(x: jax.Array) -> tuple[Any, Any, Any]:
        nuclear, ball = (Matrix(reg, outputs) for reg in (Spectral(L1(0.3)), SpectralBall(1.5)))
        p = ball.prox(x)
        others = (Matrix(SpectralNorm(0.3), outputs)(x), Matrix(jaxreg.SoftOrthogonal(1.0), outputs)(x))
        return (
            (nuclear.matrix(x), *jax.value_and_grad(nuclear)(x), nuclear.prox(x, 2.0)),
            (p, ball.violation(x), ball(x), ball(p)),
            others,
        )

    with jax.enable_x64(True):
        of_nuclear, of_ball, (norm, orthogonal) = jax.tree.map(np.asarray, compiled(x))
    matrix, value, gradient, shrunk = of_nuclear
    p, violation, indicator, inside = of_ball
    np.testing.assert_array_equal(matrix, as_matrix(x))
    np.testing.assert_allclose(value, 0.3 * s.sum(), rtol=1e-12)
    np.testing.assert_allclose(norm, 0.3 * s[0], rtol=1e-12)
    np.testing.assert_allclose(np.conj(gradient), 0.3 * back(u @ vh), atol=1e-12)  # JAX conjugates
    np.testing.assert_allclose(shrunk, back(u * np.maximum(s - 0.6, 0) @ vh), atol=1e-12)
    np.testing.assert_allclose(p, back(u * np.minimum(s, 1.5) @ vh), atol=1e-12)
    np.testing.assert_allclose(violation, np.sqrt((np.maximum(s - 1.5, 0) ** 2).sum()), atol=1e-12)
    assert indicator == (np.inf if s[0] > 1.5 else 0) and inside == 0
    gram = as_matrix(x).conj().T @ as_matrix(x)
    np.testing.assert_allclose(orthogonal, (np.abs(gram - np.eye(len(gram))) ** 2).sum(), rtol=1e-12)


@each_kernel
def test_an_array_step_is_moved_like_the_array(name: str) -> None:
    shape, outputs, as_matrix, back = KERNELS[name]
    z, step = sample(shape), np.abs(sample(shape, 1))
    regs = Group(L1(0.3), axis=0), jaxreg.Difference(L1(0.3), axis=0)

    @jax.jit
    def of_both(wrapped: tuple[Any, jax.Array, jax.Array], plain: tuple[Any, jax.Array, jax.Array]) -> list[Any]:
        """With a number, with an array, by inner steps of both penalties: of the array and of the matrix."""
        return [
            [regs[0].prox(z, 0.7), regs[0].prox(z, step)] + [reg.approximate_prox(0 * z, z, step, 5) for reg in regs]
            for regs, z, step in (wrapped, plain)
        ]

    with jax.enable_x64(True):
        of_arrays = tuple(Matrix(reg, outputs) for reg in regs), z, step
        of_matrices = regs, as_matrix(z), as_matrix(step)
        wrapped, plain = jax.tree.map(np.asarray, of_both(of_arrays, of_matrices))
    for found, expected in zip(wrapped, plain, strict=True):
        np.testing.assert_allclose(found, back(expected), atol=1e-12)


def test_the_figures_of_a_kernel_of_ones() -> None:
    kernel = jnp.ones((3, 3, 4, 8))
    np.testing.assert_allclose(Matrix(SpectralNorm(1.0))(kernel), np.sqrt(36 * 8), rtol=1e-6)
    np.testing.assert_allclose(Stacked(SpectralNorm(1.0), axes=(0, 1))(kernel), 9 * np.sqrt(4 * 8), rtol=1e-6)


def test_the_matrices_of_flax() -> None:
    """What the kernels do to an input: x @ M is the layer, for each of attention's kernels and for a convolution."""
    key, x = jax.random.key(0), jnp.asarray(sample((4, 8)), jnp.float32)
    layer = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, out_features=5)
    params = layer.init(key, x)["params"]
    for name in ("query", "key", "value"):
        project = nn.DenseGeneral((2, 3))
        expected = project.apply({"params": params[name]}, x).reshape(4, 6)
        m = Matrix(L2() + Spectral(L1()), outputs=(-2, -1)).matrix(params[name]["kernel"])
        np.testing.assert_allclose(x @ m, expected, atol=1e-5)
    heads = jnp.asarray(sample((4, 2, 3)), jnp.float32)
    expected = nn.DenseGeneral(5, axis=(-2, -1)).apply({"params": params["out"]}, heads)
    m = Matrix(Spectral(L1())).matrix(params["out"]["kernel"])
    np.testing.assert_allclose(heads.reshape(4, 6) @ m, expected, atol=1e-5)
    patch = jnp.asarray(sample((1, 3, 3, 2)), jnp.float32)
    conv = nn.Conv(4, (3, 3), padding="VALID", use_bias=False)
    kernel = conv.init(key, patch)["params"]["kernel"]
    m = Matrix(Spectral(L1())).matrix(kernel)
    expected = conv.apply({"params": {"kernel": kernel}}, patch).reshape(1, 4)
    np.testing.assert_allclose(patch.reshape(1, 18) @ m, expected, atol=1e-5)


def test_each_head_by_itself() -> None:
    query, out, packed = sample((5, 2, 3)), sample((2, 3, 5), 1), sample((5, 3, 2, 2), 2)

    def largest(m: Array) -> float:
        return float(np.linalg.svd(m, compute_uv=False)[0])

    for reg, kernel, matrices in (
        (Stacked(SpectralNorm(1.0), axes=(1,)), query, [query[:, i] for i in range(2)]),
        (Stacked(SpectralNorm(1.0), axes=(0,)), out, list(out)),
        (
            Stacked(Matrix(SpectralNorm(1.0), outputs=(-2, -1)), axes=(1,)),
            packed,
            [packed[:, i].reshape(5, 4) for i in range(3)],
        ),
    ):
        np.testing.assert_allclose(reg(kernel), sum(map(largest, matrices)), rtol=1e-5)


# ------------------------------------------------------------------------------------------- rank 2, and no other rank

MATRIX_PENALTIES = (
    Spectral(L1(0.3)),
    Spectral(L1(0.3), "polar"),
    SpectralNorm(0.3),
    SpectralBall(0.3),
    jaxreg.SoftOrthogonal(0.3),
    jaxreg.OrthogonalRegularizer(0.3),
)


@pytest.mark.parametrize("reg", MATRIX_PENALTIES, ids=label)
def test_beyond_rank_two_the_error_names_both_ways_out_and_they_run(reg: Any) -> None:
    x, name = jnp.asarray(sample((3, 2, 4, 5)), jnp.float32), type(reg).__name__
    calls = [(reg, name)]
    if name != "OrthogonalRegularizer":
        calls.append((reg.prox, name if name == "SpectralBall" else f"{name}.prox"))
    for call, written in calls:
        with pytest.raises(ValueError, match=re.escape("(3, 2, 4, 5)")) as caught:
            call(x)
        assert written in str(caught.value).partition("(3, 2, 4, 5)")[0]
        ways = re.findall(r"`(jaxreg\.\w+\(.*?\), \w+=.*?\))`", str(caught.value))
        assert [way.partition("(")[0] for way in ways] == ["jaxreg.Matrix", "jaxreg.Stacked"]
        matrix, stacked = (
            eval(way.replace(f"jaxreg.{name}(...)", "reg"), {"jaxreg": jaxreg, "reg": reg}) for way in ways
        )
        np.testing.assert_allclose(matrix(x), reg(x.reshape(24, 5)), rtol=1e-5)
        layers = x.reshape(6, 4, 5)
        np.testing.assert_allclose(stacked(x), sum(reg(layer) for layer in layers), rtol=1e-5)
        if call is not reg:
            np.testing.assert_allclose(matrix.prox(x).reshape(24, 5), reg.prox(x.reshape(24, 5)), atol=1e-6)
            expected = jnp.stack([reg.prox(layer) for layer in layers])
            np.testing.assert_allclose(stacked.prox(x).reshape(6, 4, 5), expected, atol=1e-6)
    for shape in ((), (3,)):
        with pytest.raises(ValueError, match=re.escape(str(shape))):
            reg(jnp.ones(shape))


@pytest.mark.parametrize("reg", MATRIX_PENALTIES, ids=label)
@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (2, 3, 0)])
def test_empty_kernels(reg: Any, shape: tuple[int, ...]) -> None:
    for outputs in (-1, (0, 2), ()):
        wrapped = Matrix(reg, outputs)
        x = jnp.ones(shape)
        m = np.ones(wrapped.matrix(x).shape)
        np.testing.assert_allclose(wrapped(x), reg(m))
        assert jax.grad(wrapped)(x).shape == shape
        if not isinstance(reg, jaxreg.OrthogonalRegularizer):
            assert wrapped.prox(x).shape == shape


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    x = jnp.asarray(sample((3, 3, 2, 4)), dtype)
    for reg in (Spectral(L1(0.3)), SpectralBall(1.5), Group(L1(0.3), axis=0), Box(-0.3, 0.7)):
        wrapped, flat = Matrix(reg), x.reshape(18, 4)
        assert wrapped(x).dtype == jnp.float32 and wrapped.prox(x).dtype == x.dtype
        np.testing.assert_allclose(wrapped(x), reg(flat), rtol=1e-6)
        np.testing.assert_array_equal(wrapped.prox(x).reshape(18, 4), reg.prox(flat))
        assert jnp.isfinite(wrapped(wrapped.prox(x)))  # what was projected is inside, up to the rounding of its dtype


# ---------------------------------------------------------------------------------------------- its form, its arguments


def test_what_it_says_of_its_form() -> None:
    box = Box(jnp.zeros((6, 4)) - 0.5, 0.5)
    parts = Matrix(L1(0.1) + 2 * L2(0.2) + jaxreg.NonNegative() + box + jaxreg.MCP() + Group(L1())).parts()
    np.testing.assert_allclose([parts.l1, parts.l2, parts.nonnegative], [0.1, 0.4, 1.0])
    assert parts.intervals == (Matrix(box),) and parts.rest == (jaxreg.MCP(), Matrix(Group(L1())))
    for reg, reach in ((L1(), Reach.ENTRY), (Group(L1()), Reach.GROUP), (SpectralNorm(), Reach.ARRAY)):
        assert Matrix(reg).reach == reach
    x = jnp.asarray(sample((2, 3, 4)), jnp.float32)
    np.testing.assert_array_equal(Matrix(box).prox(x), jnp.clip(x, -0.5, 0.5))  # bounds of the shape of the matrix
    for reg in (L1(0.3), jaxreg.MCP(0.3) + L2(0.1)):  # its entries are those of the array
        for outputs in (-1, (0, 1), (2, 0)):
            np.testing.assert_array_equal(Matrix(reg, outputs)(x), reg(x))
            np.testing.assert_array_equal(Matrix(reg, outputs).prox(x, jnp.abs(x)), reg.prox(x, jnp.abs(x)))
        np.testing.assert_array_equal(Group(Matrix(reg, (0, 1)), axis=0)(x), Group(reg, axis=0)(x))
    sparse = L1(0.1) + Matrix(Group(L1(0.3), axis=0))  # the sparse group lasso over the filters
    np.testing.assert_allclose(sparse.prox(x), (L1(0.1) + Group(L1(0.3), axis=(0, 1))).prox(x), rtol=1e-6)


def test_transformations() -> None:
    x = jnp.asarray(sample((4, 3, 2, 2)), jnp.float32)
    reg = Matrix(Spectral(L1(0.3)), outputs=(0, 2))
    expected = jnp.stack([reg.prox(kernel) for kernel in x])
    np.testing.assert_allclose(jax.vmap(reg.prox)(x), expected, atol=1e-6)
    np.testing.assert_allclose(Stacked(reg).prox(x), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jit(Stacked(reg))(x), sum(reg(kernel) for kernel in x), rtol=1e-5)
    tree = jaxreg.TreeRegularizer({"**/kernel": reg})
    np.testing.assert_array_equal(tree.prox({"a": {"kernel": x[0]}})["a"]["kernel"], reg.prox(x[0]))


@pytest.mark.parametrize("outputs", [-1, 0, (0, 2), (-2, -1), ()])
def test_json(outputs: Any) -> None:
    reg = Matrix(2 * SpectralNorm(0.3), outputs)
    assert jaxreg.deserialize(json.loads(json.dumps(jaxreg.serialize(reg)))) == reg
    assert reg == Matrix(2 * SpectralNorm(0.3), np.int64(outputs) if isinstance(outputs, int) else list(outputs))
    assert eval(repr(reg), vars(jaxreg)) == reg


def test_wrong_arguments() -> None:
    for outputs in (None, 1.0, "0", True, (0, 1.0), {0: 1}):
        with pytest.raises(TypeError, match=r"Matrix\(outputs=\.\.\.\)` (must be an int or a tuple of ints|is static)"):
            Matrix(SpectralNorm(), outputs)
    for outputs in (3, -4, (0, 3), (0, 0), (0, -3)):
        for call in (Matrix(SpectralNorm(), outputs), Matrix(SpectralNorm(), outputs).prox):
            with pytest.raises(ValueError, match=r"Matrix\(outputs=\.\.\.\)` must name different axes .* rank 3, got"):
                call(jnp.ones((2, 2, 2)))
    with pytest.raises(TypeError, match=r"`Matrix` takes one array, got (?s:.*)TreeRegularizer"):
        Matrix(SpectralNorm())({"kernel": jnp.ones((2, 2))})
    with pytest.raises(TypeError, match=r"`Matrix\.violation` is for constraints, got L1"):
        Matrix(L1()).violation(jnp.ones((2, 2)))
    with pytest.raises(NotImplementedError, match="array step"):
        Matrix(SpectralNorm()).prox(jnp.ones((2, 2, 2)), jnp.ones((2, 2, 2)))
