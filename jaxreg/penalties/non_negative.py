"""NonNegative: no entry below zero."""

from typing import ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, constraint
from jaxreg._core.structure import Parts, Reach


@final
class NonNegative(constraint.Constraint):
    """Keep every entry at zero or above.

        {w : w_i ≥ 0}
        prox(z)_i = max(z_i, 0)                              for any step, also an array: the same in a diagonal metric

    Any shape, real. At 0 the derivative of the prox is 0; a zero comes back as +0. `violation` is the Euclidean norm of
    the negative part. The constraint `NonNeg` of Keras.

    Raises:
        TypeError: the array is complex.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> x = jnp.array([-3.0, 0.5, -4.0])
        >>> jaxreg.NonNegative().prox(x)
        Array([0. , 0.5, 0. ], dtype=float32)
        >>> float(jaxreg.NonNegative()(x)), float(NonNegative().violation(x))
        (inf, 5.0)

    References:
        Parikh and Boyd, *Proximal algorithms*, Foundations and Trends in Optimization, 2014, section 6.2.
    """

    reach: ClassVar[Reach] = Reach.ENTRY

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        del step
        z = jnp.asarray(z)
        checks.real_only("NonNegative", z)
        return jnp.where(z <= 0, 0, z)

    def parts(self) -> Parts:
        return Parts(nonnegative=1.0)
