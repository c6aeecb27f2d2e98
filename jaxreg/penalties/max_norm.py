"""MaxNorm: the Euclidean norm of every group at most a radius."""

from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import constraint, euclidean, numerics
from jaxreg._core.struct import coefficient, static
from jaxreg._core.structure import Reach
from jaxreg.penalties import _axes

_MOST_STEPS = 60  # a guard only


@final
class MaxNorm(constraint.Constraint):
    """Keep the Euclidean norm of every group at a radius or below (the L2 ball).

        {w : ‖w_g‖₂ ≤ radius for every group g}
        prox(z)_g = z_g · min(1, radius/‖z_g‖₂)
        prox(z, τ)_i = z_i / (1 + λ_g·τ_i), with the λ_g ≥ 0 at which the norm is the radius     (a diagonal metric)

    A group is what the norm sums over: `axis=0` of a Dense kernel (inputs, outputs) bounds the incoming weights of
    every unit, `axis=(0, 1, 2)` of a convolution kernel every filter. Groups inside, and zero groups, come back bit for
    bit; on the sphere the derivative of the prox is that of the inside. Any shape, also complex. λ comes from
    Newton's method on 1/‖w(λ)‖, whose steps rise; about five do. `violation` is the Euclidean distance to the set.

    The constraint `MaxNorm` of Keras, there with `max_value=2` and `axis=0`, and with 1e-7 added to every norm, so that
    it also shrinks the groups inside.

    Args:
        radius: leaf; real, finite, non-negative.
        axis: static; an int, a tuple of ints, or None for the whole array.

    Raises:
        ValueError: `radius` is negative or not a number, or `axis` is not an axis of the array.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.MaxNorm(radius=5.0, axis=1).prox(jnp.array([[30.0, 40.0], [1.0, 2.0]])).round(4)
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
    scale = jnp.minimum(jnp.where(largest == 0, 1, largest), jnp.finfo(radius.dtype).max / 8)  # 1/scale is normal
    z = jnp.where(outside, z / scale, jnp.ones_like(z))
    r = jnp.maximum(radius / scale, float(jnp.finfo(radius.dtype).tiny) ** 0.5)
    s = numerics.relative_steps(step, axes)

    def newton(z: jax.Array, s: jax.Array, r: jax.Array, shift: jax.Array) -> jax.Array:
        below = 1 / (1 + shift * s)
        u = z * below / r  # at most 1, because the norm of w is not below an entry
        square = jnp.sum(numerics.real_product(u, u), axis=axes, keepdims=True)
        slope = jnp.sum(numerics.real_product(u, u) * (s * below), axis=axes, keepdims=True)
        move = (jnp.sqrt(jnp.where(outside, square, 1)) - 1) * (square / jnp.where(slope > 0, slope, 1))
        return jnp.maximum(jnp.where(outside, shift + move, 0), 0)

    def goes_on(state: Any) -> jax.Array:
        shift, before, steps = state
        return jnp.any(jnp.abs(shift - before) > tolerance * shift) & (steps < _MOST_STEPS)

    tolerance = 0.25 * float(jnp.finfo(radius.dtype).eps) ** 0.5  # a step squares the relative error
    constants = jax.lax.stop_gradient((z, s, r))
    least = jnp.max((jnp.abs(constants[0]) / constants[2] - 1) / constants[1], axis=axes, keepdims=True, initial=0)
    start = jnp.where(outside, least, 0)
    state = newton(*constants, start), start, 1
    shift, _, _ = jax.lax.while_loop(goes_on, lambda x: (newton(*constants, x[0]), x[0], x[2] + 1), state)
    for _ in range(2):  # two steps at the root carry the first and second derivatives
        shift = newton(z, s, r, shift)
    return z / (1 + shift * s)
