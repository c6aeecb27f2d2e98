"""L1L2: the elastic net."""

from typing import ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics, sums
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient
from jaxreg._core.structure import Parts


@final
class L1L2(Elementwise):
    """Select entries as L1 does and shrink the selected ones as L2 does (the elastic net).

        R(x) = l1 · Σ_i |x_i| + l2 · Σ_i |x_i|²                                              (sums, no ½)
        ∇R(x)_i = l1 · sign(x_i) + 2 · l2 · x_i
        prox(z, τ)_i = sign(z_i) · max(|z_i| − τ·l1, 0) / (1 + 2·τ·l2)

    Any shape; at 0 the subgradient is 0. Both defaults are 0, as in Keras, so `L1L2()` penalizes nothing, while the
    identifier `"l1_l2"` means `L1L2(0.01, 0.01)`. scikit-learn's `ElasticNet(alpha, l1_ratio)` has
    l1 = alpha·l1_ratio and l2 = ½·alpha·(1 − l1_ratio). The prox takes a scalar step or an array.

    Args:
        l1: leaf; real, finite, non-negative.
        l2: leaf; real, finite, non-negative.

    Raises:
        TypeError, ValueError: a coefficient is not such a number.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.L1L2(l1=1.0, l2=0.5)
        >>> x = jnp.array([-3.0, 0.0, 1.0])
        >>> float(reg(x))
        9.0
        >>> jax.grad(reg)(x)
        Array([-4.,  0.,  2.], dtype=float32)
        >>> reg.prox(x, step=1.0)
        Array([-1.,  0.,  0.], dtype=float32)

    References:
        Zou and Hastie, *Regularization and variable selection via the elastic net*, JRSS B, 2005.
    """

    l1: ArrayLike = coefficient(0.0)
    l2: ArrayLike = coefficient(0.0)

    def __call__(self, x: ArrayLike) -> jax.Array:
        return sums.scaled_l1l2(self.l1, self.l2, jnp.asarray(x))

    convex: ClassVar[bool] = True

    def profile(self, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.l1, a.dtype) * a + jnp.asarray(self.l2, a.dtype) * a**2

    def slope(self, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.l1, a.dtype) + 2 * jnp.asarray(self.l2, a.dtype) * a

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        return self.prox(a, step)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        shrunk = numerics.soft_threshold(z, numerics.threshold(step, self.l1))
        return shrunk / (1 + 2 * numerics.threshold(step, self.l2))

    def parts(self) -> Parts:
        return Parts(self.l1, self.l2)
