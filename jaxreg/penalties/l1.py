"""L1: the sum of absolute values."""

from typing import ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics, sums
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient
from jaxreg._core.structure import Parts


@final
class L1(Elementwise):
    """Push entries towards zero with a constant force, so that many become exactly zero (by `prox`).

        R(x) = l1 · Σ_i |x_i|
        ∇R(x)_i = l1 · sign(x_i)
        prox(z, τ)_i = sign(z_i) · max(|z_i| − τ·l1, 0)

    A sum, not a mean, over all axes; any shape; |·| is the modulus for complex x. At 0 the subgradient is 0, the one of
    least norm (Keras on JAX has +l1 there, which pushes exact zeros away). The prox takes a scalar step or an array.

    Args:
        l1: leaf; real, finite, non-negative.

    Raises:
        TypeError, ValueError: `l1` is not such a number.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.L1(0.5)
        >>> x = jnp.array([-3.0, 0.0, 1.0])
        >>> float(reg(x))
        2.0
        >>> jax.grad(reg)(x)
        Array([-0.5,  0. ,  0.5], dtype=float32)
        >>> reg.prox(x, step=2.0)
        Array([-2.,  0.,  0.], dtype=float32)

    References:
        Tibshirani, *Regression shrinkage and selection via the lasso*, JRSS B, 1996.
    """

    l1: ArrayLike = coefficient(0.01)

    def __call__(self, x: ArrayLike) -> jax.Array:
        return sums.scaled_l1(self.l1, jnp.asarray(x))

    convex: ClassVar[bool] = True

    def profile(self, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.l1, a.dtype) * a

    def slope(self, a: jax.Array) -> jax.Array:
        return jnp.full_like(a, jnp.asarray(self.l1, a.dtype))

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        return numerics.soft_threshold(a, numerics.threshold(step, self.l1))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        return numerics.soft_threshold(jnp.asarray(z), numerics.threshold(jnp.asarray(step), self.l1))

    def parts(self) -> Parts:
        return Parts(l1=self.l1)
