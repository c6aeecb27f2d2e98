"""Simplex: non-negative entries with a given sum."""

from typing import Any, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, constraint
from jaxreg._core.struct import coefficient, static
from jaxreg.penalties import _axes
from jaxreg.penalties._simplex import onto_simplex


@final
class Simplex(constraint.Constraint):
    """Keep entries non-negative with a given sum along an axis: mixture weights, rows of a stochastic matrix.

        {w : w_i ≥ 0, Σ_i w_i = total}                                                 along `axis`, the last by default
        prox(z)_i = max(z_i − θ, 0)                                                with the θ at which the sum is right
        prox(z, τ)_i = max(z_i − θ·τ_i, 0)                                                          (a diagonal metric)

    Unlike softmax it gives exact zeros. Real; `axis=None` takes the whole array, of any shape, as one vector (which is
    what `optax.projections.projection_simplex` does). θ is found by Newton's method, about ten steps, each a read of
    the array. At the kinks, z_i = θ, the derivative of the prox is 0. `violation` is the Euclidean distance to the set.
    A group without entries stays empty. Of a group that is sharded, each read costs an all-reduce of two sums.

    Args:
        total: leaf; real, finite, non-negative.
        axis: static; an int, a tuple of ints, or None for the whole array.

    Raises:
        ValueError: `total` is negative or not a number, or `axis` is not an axis of the array.
        TypeError: the array is complex.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.Simplex().prox(jnp.array([[1.0, 0.5, -3.0], [0.25, 0.25, 0.5]]))
        Array([[0.75, 0.25, 0.  ],
               [0.25, 0.25, 0.5 ]], dtype=float32)

    References:
        Duchi, Shalev-Shwartz, Singer and Chandra, *Efficient projections onto the l1-ball for learning in high
        dimensions*, ICML, 2008.
    """

    total: ArrayLike = coefficient(1.0)
    axis: Any = static(-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _axes.check_axis("Simplex", self.axis)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        checks.real_only("Simplex", z)
        axes = _axes.axes_of("Simplex", self.axis, z.ndim)
        return onto_simplex(z, step, jnp.asarray(self.total, z.dtype), axes)
