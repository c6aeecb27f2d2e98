"""SpectralNorm: the largest singular value."""

from typing import Any, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import coefficient
from jaxreg.penalties import _largest_singular_value, _polar, _singular_values


@final
class SpectralNorm(Regularizer):
    """Bound the gain of a linear map: penalize its largest singular value.

        R(X) = strength · σ₁(X)
        ∇R(X) = strength · u₁ v₁ᴴ,   the mean over the singular vectors where σ₁ is repeated, 0 at X = 0
        prox(Z, τ) = U min(Σ, θ) Vᴴ with Σ_i (σ_i − θ)₊ = τ·strength, and 0 if Σ_i σ_i ≤ τ·strength

    For an array of rank 2. Kernels of a higher rank: `Matrix(SpectralNorm(...), outputs)`; stacks of matrices:
    `Stacked(SpectralNorm(...), axes)`. A sharded matrix is gathered: 4·m·n bytes on every device for float32.

    Cost: one decomposition. For real matrices of 256 and more value and gradient take 10 to 26 products of the smaller
    Gram matrix instead, with the accuracy of a decomposition. On a TPU and a GPU `prox` is made of about a hundred
    products, most of them for the polar factor, with an error of a few 1e-6 of σ₁. The derivatives of gradient and
    `prox` take a decomposition.

    Args:
        strength: leaf; real, finite, non-negative.

    Raises:
        ValueError: the rank is not 2, or `strength` is not such a number.
        NotImplementedError: `prox` with an array step; there is no closed form in a diagonal metric.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.SpectralNorm(2.0)
        >>> x = jnp.diag(jnp.array([3.0, 1.0]))
        >>> float(reg(x))
        6.0
        >>> jnp.diag(reg.prox(x, step=0.5))
        Array([2., 1.], dtype=float32)

    References:
        Yoshida and Miyato, *Spectral norm regularization for improving the generalizability of deep learning*,
        arXiv:1705.10941 (they penalize ½σ₁²).
    """

    strength: ArrayLike = coefficient(0.01)

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = checks.matrix("SpectralNorm", jnp.asarray(x))
        strength = jnp.asarray(self.strength, numerics.real_dtype(x))
        if x.size == 0:
            return 0 * strength

        if _polar.is_large(x):  # a dozen products, and so the faster one on a CPU too
            return strength * _largest_singular_value.largest_singular_value(x)
        share = _singular_values.share_of_largest
        return strength * _singular_values.spectral_sum(_largest_of, share, (), x)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = checks.matrix("SpectralNorm.prox", jnp.asarray(z)), jnp.asarray(step)
        checks.scalar_step("SpectralNorm(...)", step, _singular_values.SCALAR_STEP)
        if z.size == 0:
            return z
        excess = numerics.threshold(step, self.strength)
        by_products = _singular_values.with_derivative_of(_clipped_by_svd, _largest_singular_value.clipped)
        return _polar.unless_large(lambda z: _clipped_by_svd(z, excess), lambda z: by_products(z, excess), z)


def _clipped_by_svd(z: jax.Array, excess: jax.Array) -> jax.Array:
    level = _clip_level(_singular_values.singular_values(z), excess)
    return _singular_values.spectral_map(_below, level, z)


def _below(bound: jax.Array, s: jax.Array) -> jax.Array:
    """min(σ, θ); with the step 0, where θ = σ₁, the derivative is that of θ."""
    return jnp.where(s < bound, s, bound)


def _largest_of(params: Any, s: jax.Array) -> jax.Array:
    del params
    return jnp.max(s)


def _clip_level(s: jax.Array, u: jax.Array) -> jax.Array:
    """θ ≥ 0 with Σ(σ_i − θ)₊ = u, for σ in decreasing order; 0 where Σσ_i ≤ u."""
    count = jnp.arange(1, s.size + 1, dtype=s.dtype)
    levels = (jnp.cumsum(s) - u) / count  # the level if the first k are clipped; the largest one is right
    clipped = s >= jax.lax.stop_gradient(jnp.max(levels))
    level = (jnp.sum(jnp.where(clipped, s, 0)) - u) / jnp.maximum(jnp.sum(clipped), 1)
    return jnp.maximum(numerics.exact(jnp.max(levels), level), 0)
