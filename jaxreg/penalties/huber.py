"""Huber: the smoothed absolute value."""

from typing import ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient


@final
class Huber(Elementwise):
    """Shrink small entries in proportion and large ones by a constant: L1 made smooth at 0.

        R(x) = strength · Σ_i ρ(|x_i|),   ρ(w) = w²/(2·delta) if w ≤ delta, else w − delta/2
        ∇R(x)_i = strength · min(|x_i|/delta, 1) · sign(x_i)
        prox(z, τ)_i = z_i · (1 − u/max(|z_i|, u + delta)),   u = τ·strength

    A sum over all axes; any shape; smooth everywhere, so it gives no exact zeros. It is the Moreau envelope of the
    modulus. The prox takes a scalar step or an array.

    Args:
        strength: leaf; real, finite, non-negative.
        delta: leaf; real, finite, positive: where the parabola meets the line.

    Raises:
        TypeError, ValueError: `strength` or `delta` is not such a number.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Huber(1.0, delta=2.0)
        >>> float(reg(jnp.array([0.0, 1.0, 5.0])))
        4.25
        >>> reg.prox(jnp.array([1.5, -5.0]))
        Array([ 1., -4.], dtype=float32)

    References:
        Huber, *Robust estimation of a location parameter*, Annals of Mathematical Statistics, 1964.
    """

    strength: ArrayLike = coefficient(0.01)
    delta: ArrayLike = coefficient(1.0, above=0.0)

    convex: ClassVar[bool] = True

    def profile(self, a: jax.Array) -> jax.Array:
        strength, delta = jnp.asarray(self.strength, a.dtype), jnp.asarray(self.delta, a.dtype)
        inner = jnp.minimum(a, delta)
        return strength * (inner * (inner / (2 * delta)) + (a - inner))

    def slope(self, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.strength, a.dtype) * jnp.minimum(a / jnp.asarray(self.delta, a.dtype), 1)

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        u, delta = numerics.threshold(step, self.strength), jnp.asarray(self.delta, a.dtype)
        parabola = a * (delta / (u + delta))  # both branches are finite for an infinite u
        return jnp.where(a <= u + delta, parabola, a - jnp.where(jnp.isfinite(u), u, 0))
