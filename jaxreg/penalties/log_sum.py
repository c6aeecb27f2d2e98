"""LogSum: the sum of logarithms of moduli."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient


@final
class LogSum(Elementwise):
    """Push small entries to zero and leave large ones almost alone: the penalty behind reweighted L1.

        R(x) = strength · Σ_i log(1 + |x_i|/eps)
        ∇R(x)_i = strength / (eps + |x_i|) · sign(x_i)
        prox(z, τ)_i = 0 or ½(|z_i| − eps + √((|z_i| + eps)² − 4·τ·strength)), whichever is better, with the sign of z_i

    A sum over all axes; any shape. At 0 the subgradient is 0. Where both candidates are equally good the prox gives 0.
    It takes a scalar step or an array. Not convex.

    Args:
        strength: leaf; real, finite, non-negative.
        eps: leaf; real, finite, positive: the modulus at which the slope has halved.

    Raises:
        TypeError, ValueError: `strength` or `eps` is not such a number.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.LogSum(1.0, eps=1.0)
        >>> reg(jnp.array([0.0, 1.0])).round(4)  # log 2
        Array(0.6931, dtype=float32)
        >>> reg.prox(jnp.array([-1.5, 0.5]))
        Array([-1.,  0.], dtype=float32)

    References:
        Candès, Wakin and Boyd, *Enhancing sparsity by reweighted ℓ1 minimization*, JFAA, 2008. Prater-Bennette, Shen
        and Tripp, *The proximity operator of the log-sum penalty*, arXiv:2103.02681.
    """

    strength: ArrayLike = coefficient(0.01)
    eps: ArrayLike = coefficient(0.1, above=0.0)

    def profile(self, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.strength, a.dtype) * jnp.log1p(a / jnp.asarray(self.eps, a.dtype))

    def slope(self, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.strength, a.dtype) / (jnp.asarray(self.eps, a.dtype) + a)

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        u, eps = numerics.threshold(step, self.strength), jnp.asarray(self.eps, a.dtype)
        finite = jnp.isfinite(u)
        u = jnp.where(finite, u, 0)
        under = 1 - 4 * (u / (a + eps)) / (a + eps)
        real = (under > 0) & finite
        root = a - 2 * (u / (a + eps)) / (1 + jnp.sqrt(jnp.where(real, under, 1)))  # without the difference a − eps
        r = jnp.where(real & (root > 0), root, 1)
        gain = a - r / 2 - u * (jnp.log1p(r / eps) / r)  # ½a² less the objective at r, over r
        better = (real & (root > 0) & ~(gain <= 0)) | ((u == 0) & finite) | jnp.isnan(a)
        return jnp.where(better, root, 0)
