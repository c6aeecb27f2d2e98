"""HoyerSquare: a scale-free measure of how many entries are large."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import coefficient


@final
class HoyerSquare(Regularizer):
    """Push towards few large entries, whatever the scale of the array.

        R(x) = strength · (Σ_i |x_i|)² / Σ_i |x_i|²,   0 at x = 0
        ∇R(x)_i = 2·strength · (A/Q) · (sign(x_i) − (A/Q)·x_i),   A = Σ|x_i|, Q = Σ|x_i|²,   0 where x = 0

    Between 1 (one entry) and the number of entries (all of one size), times `strength`. A zero entry has subgradient 0,
    so that it stays zero (`jnp.abs` would push it away). Scale-free, so with weight decay and normalization layers only
    the directions matter. There is no useful proximal operator.

    Args:
        strength: leaf; real, finite, non-negative.

    Raises:
        TypeError, ValueError: `strength` is not such a number.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.HoyerSquare(1.0)
        >>> float(reg(jnp.array([0.0, 5.0, 0.0]))), float(reg(jnp.ones(4)))
        (1.0, 4.0)

    References:
        Yang, Wen and Li, *DeepHoyer: learning sparser neural network with differentiable scale-invariant sparsity
        measures*, arXiv:1908.09979.
    """

    strength: ArrayLike = coefficient(0.01)

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        y, _ = numerics.normalized(x, None)  # scale-free, so the scale may be held constant
        a, q = jnp.sum(numerics.absolute(y)), jnp.sum(numerics.real_product(y, y))
        strength = jnp.asarray(self.strength, numerics.real_dtype(x))
        return strength * a * (a / jnp.where(q == 0, 1, q))
