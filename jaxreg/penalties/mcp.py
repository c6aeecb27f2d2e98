"""MCP: the minimax concave penalty."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient


@final
class MCP(Elementwise):
    """Push small entries to zero as L1 does, and leave large ones alone, without bias (minimax concave penalty).

        R(x) = Σ_i ρ(|x_i|),   ρ(w) = strength·w − w²/(2·gamma) up to w = gamma·strength, then gamma·strength²/2
        ∇R(x)_i = max(strength − |x_i|/gamma, 0) · sign(x_i)
        prox(z, τ)_i, a = |z_i|, τ < gamma:  0 if a ≤ τ·strength; (a − τ·strength)/(1 − τ/gamma) if
                                             a ≤ gamma·strength; else a;   with the sign of z_i
                                 τ ≥ gamma:  z_i if a > strength·√(τ·gamma), else 0

    A sum over all axes; any shape. At 0 the subgradient is 0. For τ ≥ gamma the problem is not convex and the prox is a
    hard threshold (adaptive optimizers reach such steps); at the threshold it gives 0. It takes a scalar step or an
    array.

    Args:
        strength: leaf; real, finite, non-negative: the slope at 0.
        gamma: leaf; real, finite, positive: the penalty is flat from gamma·strength on.

    Raises:
        TypeError, ValueError: `strength` or `gamma` is not such a number.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.MCP(1.0, gamma=2.0)
        >>> float(reg(jnp.array([0.0, 1.0, 5.0])))
        1.75
        >>> reg.prox(jnp.array([0.5, -1.5, 5.0]))
        Array([ 0., -1.,  5.], dtype=float32)

    References:
        Zhang, *Nearly unbiased variable selection under minimax concave penalty*, Annals of Statistics, 2010.
    """

    strength: ArrayLike = coefficient(0.01)
    gamma: ArrayLike = coefficient(3.0, above=0.0)

    def profile(self, a: jax.Array) -> jax.Array:
        strength, gamma = jnp.asarray(self.strength, a.dtype), jnp.asarray(self.gamma, a.dtype)
        w = jnp.minimum(a, gamma * strength)
        return strength * w - w**2 / (2 * gamma)

    def slope(self, a: jax.Array) -> jax.Array:
        strength, gamma = jnp.asarray(self.strength, a.dtype), jnp.asarray(self.gamma, a.dtype)
        return jnp.where(a < gamma * strength, strength - a / gamma, 0)

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        strength, gamma = jnp.asarray(self.strength, a.dtype), jnp.asarray(self.gamma, a.dtype)
        convex = step < gamma
        u = jnp.where(convex, step, 0)
        firm = numerics.soft_threshold(a, u * strength) / (1 - u / gamma)
        firm = jnp.where(a >= gamma * strength, a, firm)
        jump = numerics.threshold(jnp.sqrt(step) * jnp.sqrt(gamma), strength)
        return jnp.where(convex, firm, jnp.where((a <= jump) & (jump > 0), 0, a))
