"""SCAD: the smoothly clipped absolute deviation."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient


@final
class SCAD(Elementwise):
    """Push small entries to zero as L1 does, and leave large ones alone (smoothly clipped absolute deviation).

        R(x) = Σ_i ρ(|x_i|),   ρ(w) = λw                             for w ≤ λ
                                      (2aλw − w² − λ²)/(2(a − 1))    for λ < w ≤ aλ
                                      λ²(a + 1)/2                    for w > aλ,               λ = strength
        ∇R(x)_i = (λ, (aλ − |x_i|)/(a − 1), or 0) · sign(x_i)
        prox(z, τ)_i, m = |z_i|, τ < a − 1:  (m − τλ)₊ if m ≤ λ(1 + τ); ((a−1)m − aτλ)/(a − 1 − τ) if m ≤ aλ; else m
                                 τ ≥ a − 1:  the better of min((m − τλ)₊, λ) and m;   with the sign of z_i

    A sum over all axes; any shape. At 0 the subgradient is 0. For τ ≥ a − 1 the problem is not convex; where both
    candidates are equally good the prox gives the smaller. It takes a scalar step or an array.

    Args:
        strength: leaf; real, finite, non-negative: λ, the slope at 0.
        a: leaf; real, finite, greater than 2: the penalty is flat from a·strength on.

    Raises:
        TypeError, ValueError: `strength` or `a` is not such a number.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.SCAD(1.0, a=3.0)
        >>> float(reg(jnp.array([0.0, 1.0, 5.0])))
        3.0
        >>> reg.prox(jnp.array([0.5, -1.5, 2.5, 5.0]))
        Array([ 0. , -0.5,  2. ,  5. ], dtype=float32)

    References:
        Fan and Li, *Variable selection via nonconcave penalized likelihood and its oracle properties*, JASA, 2001.
    """

    strength: ArrayLike = coefficient(0.01)
    a: ArrayLike = coefficient(3.7, above=2.0)

    def profile(self, a: jax.Array) -> jax.Array:
        strength, bend = jnp.asarray(self.strength, a.dtype), jnp.asarray(self.a, a.dtype)
        linear = jnp.minimum(a, strength)
        beyond = jnp.clip(a, strength, bend * strength) - strength  # 0 up to λ, then up to (a − 1)λ
        return strength * linear + strength * beyond - beyond**2 / (2 * (bend - 1))

    def slope(self, a: jax.Array) -> jax.Array:
        strength, bend = jnp.asarray(self.strength, a.dtype), jnp.asarray(self.a, a.dtype)
        middle = (bend * strength - a) / (bend - 1)
        return jnp.where(a <= strength, strength, jnp.where(a < bend * strength, middle, 0))

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        strength, bend = jnp.asarray(self.strength, a.dtype), jnp.asarray(self.a, a.dtype)
        convex = step < bend - 1
        u = jnp.where(convex, step, 0)
        middle = ((bend - 1) * a - bend * u * strength) / (bend - 1 - u)
        shrunk = numerics.soft_threshold(a, u * strength)
        r = jnp.where(a <= strength * (1 + u), shrunk, jnp.where(a <= bend * strength, middle, a))
        soft = jnp.minimum(numerics.soft_threshold(a, numerics.threshold(step, strength)), strength)
        finite = jnp.where(jnp.isfinite(step), step, 1)
        worse = finite * self.profile(soft) + (soft - a) ** 2 / 2 > finite * self.profile(a)
        jump = jnp.where((worse & jnp.isfinite(step)) | (strength == 0), a, soft)
        return jnp.where(convex, r, jump)
