"""Monotone: entries in order along an axis."""

from typing import ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, compiler, constraint, numerics
from jaxreg._core.struct import static
from jaxreg._core.structure import Reach
from jaxreg.penalties import _axes
from jaxreg.penalties._chain import along_a_chain


@final
class Monotone(constraint.Constraint):
    """Keep entries in order along an axis: isotonic regression, calibration curves, doses and their effects.

        {w : w_i ≤ w_{i+1} along the axis},   ≥ with increasing=False
        prox(z)_i = the mean of z over the block of i; blocks pool neighbours until their means are in order
        prox(z, τ)_i = the same with means weighted by 1/τ                                          (a diagonal metric)

    What is in order comes back bit for bit. Real. The derivative of the prox is the mean over the blocks, also where
    two blocks just meet. O(n) work and memory for each round that cuts blocks, about log₂ n rounds; sums have twice
    the digits of the dtype. A sharded axis is gathered: 4 bytes an entry on every device for float32. `violation` is
    the Euclidean distance to the set. Beside L1, L2, `NonNegative` and `Box` the prox of the sum is exact for a scalar
    step: theirs comes after.

    Args:
        axis: static; the axis along which entries are compared.
        increasing: static; False for entries that fall.

    Raises:
        TypeError, ValueError: `axis` is no int, or the array has no such axis. `increasing` is no bool.
        TypeError: the array is complex.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.Monotone().prox(jnp.array([1.0, 3.0, 2.0, 4.0]))
        Array([1. , 2.5, 2.5, 4. ], dtype=float32)

    References:
        Barlow, Bartholomew, Bremner and Brunk, *Statistical inference under order restrictions*, Wiley, 1972.
    """

    reach: ClassVar[Reach] = Reach.CHAIN

    axis: int = static(-1)
    increasing: bool = static(True, choices=(True, False))

    def __post_init__(self) -> None:
        super().__post_init__()
        _axes.check_one("Monotone", self.axis)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        checks.real_only("Monotone", z)
        (axis,) = _axes.axes_of("Monotone", self.axis, z.ndim)
        rise, fall = (0.0, jnp.inf) if self.increasing else (jnp.inf, 0.0)
        step = step if step.ndim else jnp.ones_like(step)  # a number does not matter, not even 0
        ordered = jnp.diff(z, axis=axis) >= 0 if self.increasing else jnp.diff(z, axis=axis) <= 0
        ordered = jnp.all(ordered, axis=axis, keepdims=True)
        w = along_a_chain(z, step, rise, fall, axis)
        return compiler.placed_like(z, jnp.where(ordered, numerics.exact(z, w), w))
