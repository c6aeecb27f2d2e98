"""The polar factor of a matrix and what follows from it, by matrix products alone."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.lax.linalg import EighImplementation

from jaxreg._core import compiler, euclidean
from jaxreg._core.compiler import matmul, multiply_add

T = TypeVar("T")

# Amsel, Persson, Musco and Gower, *The Polar Express*, arXiv:2505.16932, Algorithm 1 (their safety factor is 1.01).
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)


_SAFETY = 1.01


_NEWTON_SCHULZ = (1.875, -1.25, 0.375)  # the quintic one, for what is still below 1: of an error δ it leaves 5/2·δ³
_STEPS = (*((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS), *(_NEWTON_SCHULZ,) * 9)
_NEARLY = 5e-3  # of ‖I − YᵀY‖: one step more is exact in float32
_LARGE = 256  # the smaller side from which matrix products beat a decomposition


def unless_large(by_svd: Callable[[jax.Array], T], by_products: Callable[[jax.Array], T], x: jax.Array) -> T:
    """By products for large real matrices on a TPU or a GPU, where a decomposition is what is slow."""
    return compiler.by_device(by_svd, by_products, x) if is_large(x) else by_svd(x)


def is_large(x: jax.Array) -> bool:
    """Whether a matrix is real and both sides are large; not if one is symbolic."""
    return not jnp.iscomplexobj(x) and all(isinstance(n, int) and n >= _LARGE for n in x.shape)


def _is_wide(x: jax.Array) -> bool:
    """Whether the transpose is cheaper; it need not be known, as it is not of the symbolic sizes of `jax.export`."""
    m, n = x.shape
    return isinstance(m, int) and isinstance(n, int) and m < n


def polar_factor(x: jax.Array) -> jax.Array:
    """U Vᵀ by matrix products alone; the null space maps to 0.

    Singular values below about 1e-6 of (Σσ⁴)^¼ are mapped to less than 1. There are as many steps as the matrix needs,
    8 to 16; the derivative takes all of them.
    """
    return polar_factor(x.T).T if _is_wide(x) else _polar_factor(x)


@jax.custom_jvp
def _polar_factor(x: jax.Array) -> jax.Array:
    return iterated(x)[0]


def isometry(x: jax.Array) -> jax.Array:
    """U Vᵀ with orthonormal columns, or rows, also where the null space is not 0.

    There the polar factor Y of X is completed: that of Y + (I − YYᵀ)·E·(I − YᵀY), with numbers E drawn once for all.
    """
    if _is_wide(x):
        return isometry(x.T).T
    y = polar_factor(x)

    def rest(y: jax.Array) -> jax.Array:
        return jnp.eye(y.shape[1], dtype=y.dtype) - matmul(y.T, y)

    def completed(y: jax.Array) -> jax.Array:
        e = matmul(jax.random.normal(jax.random.key(0), y.shape, y.dtype), rest(y))
        return polar_factor(y + e - matmul(y, matmul(y.T, e)))

    whole = jnp.linalg.norm(jax.lax.stop_gradient(rest(y))) <= _NEARLY
    return jax.lax.cond(whole, lambda y: y, completed, y)


def iterated(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The polar factor of a matrix that is not wide, ‖I − YᵀY‖ before the last step, and how many there were."""
    steps = jnp.asarray(_STEPS, x.dtype)

    def is_unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, error, count = state
        return (count < len(_STEPS)) & (error > _NEARLY)

    def step(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        y, _, count = state
        return *_step(y, steps[count], count == 0), count + 1

    start = (_scaled(x).T, jnp.asarray(jnp.inf, x.dtype), jnp.int32(0))
    y, error, count = jax.lax.while_loop(is_unfinished, step, start)
    return y.T, error, count


@_polar_factor.defjvp
def _polar_factor_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Of a loop with a known number of steps, which has a transpose."""

    def all_steps(x: jax.Array) -> jax.Array:
        steps, is_first = jnp.asarray(_STEPS, x.dtype), jnp.arange(len(_STEPS)) == 0
        return jax.lax.scan(lambda y, step: (_step(y, *step)[0], None), _scaled(x).T, (steps, is_first))[0].T

    return jax.jvp(all_steps, primals, tangents)


def _scaled(x: jax.Array) -> jax.Array:
    return x / _unless_zero(euclidean.norms(x, (0, 1)))


def _unless_zero(size: jax.Array) -> jax.Array:
    """A scale, which the polar factor does not depend on."""
    return jax.lax.stop_gradient(jnp.where(size == 0, 1, size))


def _step(y: jax.Array, coefficients: jax.Array, is_first: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a + bG + cG²)Y for G = YYᵀ, and ‖I − G‖ before it. The first one finds σ₁ ≤ ‖G‖^½, smaller than ‖Y‖."""
    gram, one = matmul(y, y.T), jnp.eye(y.shape[0], dtype=y.dtype)
    held = jax.lax.stop_gradient(gram)
    scale = 1 / _unless_zero(jnp.where(is_first, jnp.linalg.norm(held), 1))
    error = jnp.where(is_first, jnp.inf, jnp.linalg.norm(one - held))  # both norms in one read
    a, b, c = jnp.where(error > _NEARLY, coefficients, jnp.asarray(_NEWTON_SCHULZ, y.dtype))
    root = jnp.sqrt(scale)  # of Y, which is scaled by the coefficients
    return matmul(a * root * one + multiply_add(c * scale**2 * root, gram, gram, b * scale * root), y), error


@jax.custom_jvp
def nuclear_norm_polar(x: jax.Array) -> jax.Array:
    """Σσ = ⟨polar factor, X⟩; the gradient is the polar factor."""
    return jnp.sum(polar_factor(x) * x)


@nuclear_norm_polar.defjvp
def _nuclear_norm_polar_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    factor = polar_factor(x)
    return jnp.sum(factor * x), jnp.sum(factor * dx)


def singular_value_threshold_polar(x: jax.Array, t: jax.Array) -> jax.Array:
    """U max(Σ − t, 0) Vᵀ = ½·(X − tO)·(I + sign(P − tI)), O the polar factor and P = OᵀX symmetrized."""
    if _is_wide(x):
        return singular_value_threshold_polar(x.T, t).T
    factor, p = polar_decomposition(x)
    return multiply_add(0.5, above(p, t), (x - t * factor).T, 0.5).T


def polar_decomposition(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """O and P of X = OP, for a matrix that is not wide; P is symmetric with the eigenvalues σ."""
    factor = polar_factor(x)
    p = matmul(factor.T, x)
    return factor, (p + p.T) / 2


def svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U, σ and Vᵀ of X = O·P, P = VΣVᵀ and U = OV; a column of U is 0 where σ is.

    A TPU's compiler needs minutes for `svd` and `eigh` of large matrices, and a few seconds for Jacobi's rotations; a
    GPU decomposes a symmetric matrix much faster than another one.
    """
    if _is_wide(x):
        v, s, uh = svd(x.T)
        return uh.T, s, v.T
    factor, p = polar_decomposition(x)
    s, v = compiler.on_tpu(_eigh(EighImplementation.JACOBI), _eigh(None), p)
    s, v = jnp.maximum(s[::-1], 0), v[:, ::-1]
    return matmul(factor, v), s, v.T


def _eigh(implementation: EighImplementation | None) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    def eigh(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        v, s = jax.lax.linalg.eigh(p, implementation=implementation)
        return s, v

    return eigh


def above(p: jax.Array, t: jax.Array) -> jax.Array:
    """sign(P − tI) of a symmetric P: 1 where an eigenvalue is above t, −1 where it is below."""
    return polar_factor(p - t * jnp.eye(p.shape[0], dtype=p.dtype))


def clipped_polar(x: jax.Array, bound: jax.Array) -> jax.Array:
    """U min(Σ, bound) Vᵀ; x itself where nothing is above the bound but rounding."""
    excess = singular_value_threshold_polar(x, bound)
    is_above = euclidean.norms(excess, (0, 1)) > max(x.shape) * jnp.finfo(x.dtype).eps * euclidean.norms(x, (0, 1))
    return jnp.where(is_above, x - excess, x)
