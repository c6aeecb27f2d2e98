"""L2: the sum of squares."""

from typing import ClassVar, Self, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics, sums
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient
from jaxreg._core.structure import Parts


@final
class L2(Elementwise):
    """Shrink entries in proportion to their size.

        R(x) = l2 · Σ_i |x_i|²                   (no ½: as Keras; scikit-learn, PyTorch and optax have ½ or its effect)
        ∇R(x) = 2 · l2 · x
        prox(z, τ) = z / (1 + 2·τ·l2)

    A sum, not a mean, over all axes; any shape; smooth everywhere. The `weight_decay` of an optimizer is twice `l2`:
    use `L2.from_weight_decay(wd)`. The prox takes a scalar step or an array.

    Args:
        l2: leaf; real, finite, non-negative.

    Raises:
        TypeError, ValueError: `l2` is not such a number.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.L2(0.5)
        >>> x = jnp.array([-3.0, 0.0, 1.0])
        >>> float(reg(x))
        5.0
        >>> jax.grad(reg)(x)
        Array([-3.,  0.,  1.], dtype=float32)
        >>> reg.prox(x, step=1.0)
        Array([-1.5,  0. ,  0.5], dtype=float32)

    References:
        Hoerl and Kennard, *Ridge regression*, Technometrics, 1970.
    """

    l2: ArrayLike = coefficient(0.01)

    @classmethod
    def from_weight_decay(cls, weight_decay: float) -> Self:
        """Return the L2 whose gradient is `weight_decay · x`, that is `L2(weight_decay / 2)`.

        Example:
            >>> import jaxreg
            >>> jaxreg.L2.from_weight_decay(0.1)
            L2(l2=0.05)
        """
        return cls(cls(weight_decay).l2 / 2)

    def __call__(self, x: ArrayLike) -> jax.Array:
        return sums.scaled_l2(self.l2, jnp.asarray(x))

    convex: ClassVar[bool] = True

    def profile(self, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.l2, a.dtype) * a**2

    def slope(self, a: jax.Array) -> jax.Array:
        return 2 * jnp.asarray(self.l2, a.dtype) * a

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        return a / (1 + 2 * numerics.threshold(step, self.l2))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        return jnp.asarray(z) / (1 + 2 * numerics.threshold(jnp.asarray(step), self.l2))

    def parts(self) -> Parts:
        return Parts(l2=self.l2)
