"""The projection onto a simplex, in a diagonal metric too."""

import jax
import jax.numpy as jnp

from jaxreg._core.numerics import relative_steps


def onto_simplex(z: jax.Array, step: jax.Array, total: jax.Array) -> jax.Array:
    """argmin ½ Σ (w_i − z_i)²/s_i over w ≥ 0, Σ w_i = total along the last axis; `step` is a scalar or like z.

    w_i = max(z_i − s_i·θ, 0), where f(θ) = Σ max(z_i − s_i·θ, 0) = total. As f is the largest of the linear functions
    Σ_S (z_i − s_i·θ), θ is the largest of (Σ_S z_i − total)/Σ_S s_i, over those S that are first by z_i/s_i.
    """
    if z.shape[-1] == 0:
        return z
    constant = jax.lax.stop_gradient
    largest = constant(jnp.maximum(jnp.max(jnp.abs(z), axis=-1, keepdims=True), total))
    scale = jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1), 1)  # a power of two
    r, total = z / scale, total / scale
    s = relative_steps(step, (z.ndim - 1,)) if step.ndim else jnp.ones_like(r)
    for _ in range(2):  # S of one element bounds θ below; with that subtracted, no r is larger than the total
        r = r - s * constant(jnp.max((r - total) / s, axis=-1, keepdims=True))
    order = jnp.argsort(constant(-r / s), axis=-1)
    above, weight = (jnp.cumsum(jnp.take_along_axis(constant(v), order, axis=-1), axis=-1) for v in (r, s))
    theta = jnp.max((above - constant(total)) / weight, axis=-1, keepdims=True)

    def newton(theta: jax.Array) -> jax.Array:
        support = r - s * theta > 0
        mass = jnp.sum(jnp.where(support, s, 0), axis=-1, keepdims=True)
        excess = jnp.sum(jnp.where(support, r - s * theta, 0), axis=-1, keepdims=True) - total
        return theta + jnp.where(mass > 0, excess / jnp.where(mass > 0, mass, 1), 0)

    theta = newton(constant(newton(theta)))  # the first mends rounding in the sums; the last carries the derivatives
    w = jnp.where((r - s * theta > 0) & (total > 0), r - s * theta, 0)
    return jnp.where(jnp.isnan(theta), theta, scale * w)
