"""L1Ball: the sum of absolute values at most a radius."""

from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import constraint, numerics
from jaxreg._core.struct import coefficient, static
from jaxreg._core.structure import Reach
from jaxreg.penalties import _axes
from jaxreg.penalties._simplex import onto_simplex


@final
class L1Ball(constraint.Constraint):
    """Keep the sum of absolute values at a radius or below: many entries become exactly zero, as by L1.

        {w : Σ_i |w_i| ≤ radius}
        prox(z)_i = sign(z_i) · max(|z_i| − θ, 0)      with the θ ≥ 0 at which the sum is the radius; z itself if inside
        prox(z, τ)_i = sign(z_i) · max(|z_i| − θ·τ_i, 0)                                          (a diagonal metric)

    Over the whole array, or over every group of entries along `axis`; any shape; |·| is the modulus for complex x. θ is
    found by Newton's method, about ten steps, each a read of the array. At the kinks, |z_i| = θ, the derivative of the
    prox is 0; on the boundary of the ball it is that of the inside. `violation` is the Euclidean distance to the ball,
    not the excess of the sum. Of a group that is sharded, each read costs an all-reduce of two sums.

    Args:
        radius: leaf; real, finite, non-negative.
        axis: static; an int, a tuple of ints, or None for the whole array.

    Raises:
        ValueError: `radius` is negative or not a number, or `axis` is not an axis of the array.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.L1Ball(radius=2.0).prox(jnp.array([3.0, -2.0, 0.5]))
        Array([ 1.5, -0.5,  0. ], dtype=float32)

    References:
        Duchi, Shalev-Shwartz, Singer and Chandra, *Efficient projections onto the l1-ball for learning in high
        dimensions*, ICML, 2008.
    """

    reach: ClassVar[Reach] = Reach.GROUP

    radius: ArrayLike = coefficient()
    axis: Any = static(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        _axes.check_axis("L1Ball", self.axis)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        axes = _axes.axes_of("L1Ball", self.axis, z.ndim)
        size = numerics.absolute(z)
        radius = jnp.asarray(self.radius, size.dtype)
        shrunk = onto_simplex(size, step, radius, axes)
        outside = jnp.sum(size, axis=axes, keepdims=True) > radius
        return jnp.where(outside, numerics.with_modulus(z, size, shrunk), z)
