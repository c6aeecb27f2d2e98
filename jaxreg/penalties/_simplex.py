"""The projection onto a simplex, in a diagonal metric too."""

import jax
import jax.numpy as jnp

from jaxreg._core import numerics

_MOST_STEPS = 50  # a guard only: a million entries take about five


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
    s = numerics.relative_steps(step, (z.ndim - 1,)) if step.ndim else jnp.ones_like(r)
    for _ in range(2):  # a total that is small beside the entries: after θ ≥ bound, no r is larger than it
        bound = constant(jnp.max((r - total) / s, axis=-1, keepdims=True))
        near = jnp.abs(bound) <= 2 * jnp.abs(constant(jnp.max(r / s, axis=-1, keepdims=True)))
        r = r - s * jnp.where(near, bound, 0)  # a far one would take digits away from r
    order = jnp.argsort(constant(-r / s), axis=-1)
    above, weight = (jnp.cumsum(jnp.take_along_axis(constant(v), order, axis=-1), axis=-1) for v in (r, s))
    start = jnp.max((above - constant(total)) / weight, axis=-1, keepdims=True)
    theta = constant(_root(*constant((r, s, total)), start))
    r = r - s * theta  # what is left of θ is small, and so is its rounding
    support = (r > 0) | ((total == 0) & (r == 0))  # from 0 on, the largest entries grow
    rest = _newton(r, s, total, jnp.zeros_like(theta), support)  # carries the derivatives
    w = jnp.where(support, r - s * rest, 0)
    w = numerics.exact(jnp.where(total > 0, jnp.maximum(w, 0), 0), w)
    return jnp.where(jnp.isnan(theta), theta, scale * w)


def _root(r: jax.Array, s: jax.Array, total: jax.Array, start: jax.Array) -> jax.Array:
    """θ by Newton's method from a start that has the rounding of running sums; from the second step on it rises."""
    bound = jnp.max((r - total) / s, axis=-1, keepdims=True)

    def step(theta: jax.Array) -> jax.Array:
        return jnp.maximum(_newton(r, s, total, theta, r - s * theta > 0), bound)

    def goes_on(state: tuple[jax.Array, jax.Array, int]) -> jax.Array:
        theta, before, count = state
        return jnp.any(theta > before) & (count < _MOST_STEPS)

    def body(state: tuple[jax.Array, jax.Array, int]) -> tuple[jax.Array, jax.Array, int]:
        theta, _, count = state
        return step(theta), theta, count + 1

    return jax.lax.while_loop(goes_on, body, body((step(start), start, 1)))[0]


def _newton(r: jax.Array, s: jax.Array, total: jax.Array, theta: jax.Array, support: jax.Array) -> jax.Array:
    mass = jnp.sum(jnp.where(support, s, 0), axis=-1, keepdims=True)
    excess = jnp.sum(jnp.where(support, r - s * theta, 0), axis=-1, keepdims=True) - total
    return theta + jnp.where(mass > 0, excess / jnp.where(mass > 0, mass, 1), 0)
