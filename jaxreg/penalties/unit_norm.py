"""UnitNorm: the Euclidean norm of every group equal to a radius, by default one."""

import math
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, constraint, euclidean, numerics
from jaxreg._core.struct import coefficient, static
from jaxreg.penalties import _axes


@final
class UnitNorm(constraint.Constraint):
    """Keep the Euclidean norm of every group at a radius (the sphere), by default at one.

        {w : ‖w_g‖₂ = radius for every group g}
        prox(z)_g = radius · z_g / ‖z_g‖₂

    A group is what the norm sums over: `axis=0` of a Dense kernel (inputs, outputs) is the incoming weights of every
    unit. The set is not convex. Every point of the sphere is nearest to a zero group of n entries; the prox takes the
    one with the equal entries radius/√n, there with derivative 0 in z. Any shape, also complex. `violation` is the root
    of Σ_g (‖x_g‖₂ − radius)². There is no exact prox in a diagonal metric (a step of the shape of z).

    The constraint `UnitNorm` of Keras, there with `axis=0`, with 1e-7 added to every norm, and 0 for a zero group.

    Args:
        axis: static; an int, a tuple of ints, or None for the whole array.
        radius: leaf; real, finite, non-negative.

    Raises:
        TypeError: `axis` is not an int, a tuple of ints or None.
        ValueError: the array has no such axis, or `radius` is negative or not a number.
        NotImplementedError: `prox` with a step of the shape of `z`.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.UnitNorm(axis=1).prox(jnp.array([[30.0, 40.0], [0.0, -2.0]])).round(6)
        Array([[ 0.6,  0.8],
               [ 0. , -1. ]], dtype=float32)

    References:
        `keras.constraints.UnitNorm`.
    """

    axis: Any = static()
    radius: ArrayLike = coefficient(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _axes.check_axis("UnitNorm", self.axis)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z = jnp.asarray(z)
        checks.scalar_step("UnitNorm", jnp.asarray(step), constraint.SCALAR_STEP)
        axes = _axes.axes_of("UnitNorm", self.axis, z.ndim)
        n = math.prod(z.shape[i] for i in axes)
        zero = euclidean.norms(z, axes) == 0
        radius = jnp.asarray(self.radius, numerics.real_dtype(z))
        even = 1 / numerics.root_of(n if n != 0 else 1, radius.dtype)
        return radius * jnp.where(zero, even, euclidean.directions(z, axes))
