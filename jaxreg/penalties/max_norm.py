"""MaxNorm: the Euclidean norm of every group at most a radius."""

from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import constraint, euclidean, numerics
from jaxreg._core.struct import coefficient, static
from jaxreg._core.structure import Reach
from jaxreg.penalties import _axes


@final
class MaxNorm(constraint.Constraint):
    """Keep the Euclidean norm of every group at a radius or below (the L2 ball).

        {w : ‖w_g‖₂ ≤ radius for every group g}
        prox(z)_g = z_g · min(1, radius/‖z_g‖₂)
        prox(z, τ)_i = z_i / (1 + λ_g·τ_i), with the λ_g ≥ 0 at which the norm is the radius     (a diagonal metric)

    A group is what the norm sums over: `axis=0` of a Dense kernel (inputs, outputs) bounds the incoming weights of
    every unit, `axis=(0, 1, 2)` of a convolution kernel every filter. Groups inside, and zero groups, come back bit for
    bit; on the sphere the derivative of the prox is that of the inside. Any shape, also complex. λ comes from 16 steps
    of Newton's method on 1/‖w(λ)‖, which rise monotonically. `violation` is the Euclidean distance to the set.

    The constraint `MaxNorm` of Keras, there with `max_value=2` and `axis=0`, and with 1e-7 added to every norm, so that
    it also shrinks the groups inside.

    Args:
        radius: leaf; real, finite, non-negative.
        axis: static; an int, a tuple of ints, or None for the whole array.

    Raises:
        ValueError: `radius` is negative or not a number, or `axis` is not an axis of the array.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.MaxNorm(radius=5.0, axis=1).prox(jnp.array([[30.0, 40.0], [1.0, 2.0]]))
        Array([[3., 4.],
               [1., 2.]], dtype=float32)
        >>> float(jaxreg.MaxNorm(radius=5.0).violation(jnp.array([30.0, 40.0])))
        45.0

    References:
        Srivastava et al., *Dropout*, JMLR, 2014, section 5.1. Moré and Sorensen, *Computing a trust region step*, SIAM
        Journal on Scientific and Statistical Computing, 1983 (the metric).
    """

    reach: ClassVar[Reach] = Reach.GROUP

    radius: ArrayLike = coefficient(1.0)
    axis: Any = static(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        _axes.check_axis("MaxNorm", self.axis)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        axes = _axes.axes_of("MaxNorm", self.axis, z.ndim)
        radius = jnp.asarray(self.radius, numerics.real_dtype(z))
        outside = euclidean.norms(z, axes) > radius
        w = _shrink(z, step, radius, outside, axes) if step.ndim else z
        return jnp.where(outside, radius * euclidean.directions(w, axes), z)


def _shrink(z: jax.Array, step: jax.Array, radius: jax.Array, outside: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """z/(1 + λ·step) of norm `radius` up to a factor that does not depend on the entry, for the groups outside."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), axis=axes, keepdims=True, initial=0))
    scale = jnp.where(largest == 0, 1, largest)
    z = jnp.where(outside, z / scale, jnp.ones_like(z))
    r = jnp.maximum(radius / scale, float(jnp.finfo(radius.dtype).tiny) ** 0.5)
    s = numerics.relative_steps(step, axes)

    def newton(z: jax.Array, s: jax.Array, r: jax.Array, shift: jax.Array) -> jax.Array:
        w = z / (1 + shift * s)
        unit = euclidean.directions(w, axes)
        slope = jnp.sum(numerics.real_product(unit, unit) * s / (1 + shift * s), axis=axes, keepdims=True)
        move = (euclidean.norms(w, axes) / r - 1) / jnp.where(slope > 0, slope, 1)
        return jnp.maximum(jnp.where(outside, shift + move, 0), 0)

    constants = jax.lax.stop_gradient((z, s, r))
    # 13 steps give all digits of float64 for steps that differ by 1e14, 11 for 1e8.
    shift = jax.lax.fori_loop(0, 14, lambda _, shift: newton(*constants, shift), jnp.zeros_like(r))
    for _ in range(2):  # two steps at the root carry the first and second derivatives
        shift = newton(z, s, r, shift)
    return z / (1 + shift * s)
