"""L0: the number of entries that are not zero."""

import functools
import warnings
from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient


@final
class L0(Elementwise):
    """Keep an entry as it is or set it to zero: count the entries that are not zero.

        R(x) = l0 · #{i : x_i ≠ 0}
        ∇R(x) = 0
        prox(z, τ)_i = z_i if |z_i| > √(2·τ·l0) else 0                                          (hard threshold)

    A sum over all axes; any shape. The gradient is 0 everywhere, so in a loss it does nothing, and a warning says so
    once: use it by `prox` (`jaxreg.proximal`). At the threshold itself both values are optimal and the prox gives 0.
    The prox takes a scalar step or an array.

    Args:
        l0: leaf; real, finite, non-negative.

    Raises:
        TypeError, ValueError: `l0` is not such a number.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.L0(0.5)
        >>> float(reg(jnp.array([-3.0, 0.0, 0.1])))
        1.0
        >>> reg.prox(jnp.array([-3.0, 0.9, 1.1]))
        Array([-3. ,  0. ,  1.1], dtype=float32)

    References:
        Blumensath and Davies, *Iterative thresholding for sparse approximations*, JFAA, 2008.
    """

    l0: ArrayLike = coefficient(0.01)

    def profile(self, a: jax.Array) -> jax.Array:
        return jnp.where(jnp.isnan(a), a, jnp.where(a != 0, jnp.asarray(self.l0, a.dtype), 0))

    def slope(self, a: jax.Array) -> jax.Array:
        _warn_once()
        return jnp.zeros_like(a)

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        u = numerics.threshold(step, self.l0)
        return jnp.where((a <= jnp.sqrt(2 * u)) & (u > 0), 0, a)


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "The gradient of `L0` is zero everywhere, so in a loss or in `jaxreg.add_regularization` it does nothing; use "
        "its proximal operator, `jaxreg.proximal(optimizer, jaxreg.L0(...), learning_rate)`.",
        UserWarning,
        stacklevel=2,
    )
