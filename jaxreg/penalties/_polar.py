"""The polar factor of a matrix and what follows from it, by matrix products alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import compiler, euclidean
from jaxreg.penalties._singular_values import matmul

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


_POLISH = ((1.875, -1.25, 0.375),) * 9  # the quintic Newton-Schulz step, for what is still below 1
_LARGE = 256  # the smaller side from which matrix products beat a decomposition off the CPU


def unless_large(
    by_svd: Callable[[jax.Array], jax.Array], by_products: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    """By products for large real matrices on a TPU or a GPU, where a decomposition is what is slow."""
    if jnp.iscomplexobj(x) or not all(isinstance(n, int) and n >= _LARGE for n in x.shape):
        return by_svd(x)
    return compiler.by_device(by_svd, by_products, x)


def _is_wide(x: jax.Array) -> bool:
    """Whether the transpose is cheaper; it need not be known, as it is not of the symbolic sizes of `jax.export`."""
    m, n = x.shape
    return isinstance(m, int) and isinstance(n, int) and m < n


def polar_factor(x: jax.Array) -> jax.Array:
    """U Vᵀ by matrix products alone; the null space maps to 0.

    Singular values below about 1e-6 of the Frobenius norm are mapped to less than 1.
    """
    if _is_wide(x):
        return polar_factor(x.T).T
    frobenius = jax.lax.stop_gradient(euclidean.norms(x, (0, 1)))
    y = x / jnp.where(frobenius == 0, 1, frobenius)
    safe = tuple((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS)

    def step(y: jax.Array, coefficients: jax.Array) -> tuple[jax.Array, None]:
        a, b, c = coefficients
        gram = matmul(y.T, y)
        return a * y + matmul(y, b * gram + c * matmul(gram, gram)), None

    return jax.lax.scan(step, y, jnp.asarray((*safe, *_POLISH), x.dtype))[0]


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
    factor = polar_factor(x)
    p = matmul(factor.T, x)
    p = (p + p.T) / 2
    sign = polar_factor(p - t * jnp.eye(len(p), dtype=p.dtype))
    rest = x - t * factor
    return (rest + matmul(rest, sign)) / 2


def clipped_polar(x: jax.Array, bound: jax.Array) -> jax.Array:
    """U min(Σ, bound) Vᵀ; x itself where nothing is above the bound but rounding."""
    excess = singular_value_threshold_polar(x, bound)
    above = euclidean.norms(excess, (0, 1)) > max(x.shape) * jnp.finfo(x.dtype).eps * euclidean.norms(x, (0, 1))
    return jnp.where(above, x - excess, x)
