"""The projection onto a simplex, in a diagonal metric too."""

import jax
import jax.numpy as jnp

from jaxreg._core import numerics

_MOST_STEPS = 100  # a guard only: a million entries take seven to twelve

Axes = tuple[int, ...]


def onto_simplex(z: jax.Array, step: jax.Array, total: jax.Array, axes: Axes) -> jax.Array:
    """argmin ½ Σ (w_i − z_i)²/s_i over w ≥ 0, Σ w_i = total over `axes`; `step` is a scalar or like z.

    w_i = max(z_i − s_i·θ, 0), where f(θ) = Σ max(z_i − s_i·θ, 0) = total. f is convex, piecewise linear and falls, so
    Newton's method from the left of the root rises and ends at it: each step halves f − total or the slope. Below the
    root is (z_i − total)/s_i for every i, because that entry alone would make up the total.
    """
    if any(z.shape[axis] == 0 for axis in axes):
        return z
    constant = jax.lax.stop_gradient

    def most(x: jax.Array) -> jax.Array:
        return constant(jnp.max(x, axis=axes, keepdims=True))

    largest = jnp.maximum(most(jnp.abs(z)), constant(total))
    scale = numerics.power_of_two(largest)
    usual = (scale > 0) & (scale < jnp.inf)
    scale = jnp.where(usual, jnp.minimum(scale, 2.0 ** (jnp.finfo(z.dtype).maxexp - 3)), 1)  # 1/scale is not subnormal
    r, total = z / scale, total / scale
    s = numerics.relative_steps(step, axes) if step.ndim else jnp.ones_like(r)
    for _ in range(2):  # a total that is small beside the entries: after θ ≥ bound, no r is larger than it
        bound = most((r - total) / s)
        near = jnp.abs(bound) <= 2 * jnp.abs(most(r / s))
        r = r - s * jnp.where(near, bound, 0)  # a far one would take digits away from r
    theta = _root(*constant((r, s, total)), axes)
    r = r - s * theta  # what is left of θ is small, and so is its rounding
    support = (r > 0) | ((total == 0) & (r == 0))  # from 0 on, the largest entries grow
    rest = _newton(r, s, total, jnp.zeros_like(theta), support, axes)  # carries the derivatives
    w = jnp.where(support, r - s * rest, 0)
    w = numerics.exact(jnp.where(total > 0, jnp.maximum(w, 0), 0), w)
    return jnp.where(jnp.isnan(theta), theta, scale * w)


def _root(r: jax.Array, s: jax.Array, total: jax.Array, axes: Axes) -> jax.Array:
    """θ by Newton's method from the left, until rounding stops it: when it has not risen twice.

    Where f − total is large, rounding may carry a step beyond the root; the next one then comes back to its left.
    """
    bound = jnp.max((r - total) / s, axis=axes, keepdims=True)
    far = bound < -2 * jnp.max(jnp.abs(r) / s, axis=axes, keepdims=True)  # entries count little beside such a θ
    of_all = _newton(r, s, total, jnp.zeros_like(bound), jnp.ones_like(r, bool), axes)  # f ≥ Σ (z_i − s_i·θ)
    bound = jnp.where(far, jnp.maximum(bound, of_all), bound)

    def goes_on(state: tuple[jax.Array, jax.Array, int]) -> jax.Array:
        _, stops, count = state
        return jnp.any(stops < 2) & (count < _MOST_STEPS)

    def body(state: tuple[jax.Array, jax.Array, int]) -> tuple[jax.Array, jax.Array, int]:
        theta, stops, count = state
        new = jnp.maximum(_newton(r, s, total, theta, r - s * theta > 0, axes), bound)
        return new, stops + (~(new > theta)).astype(stops.dtype), count + 1

    return jax.lax.while_loop(goes_on, body, (bound, jnp.zeros(bound.shape, jnp.int8), 0))[0]


def _newton(
    r: jax.Array, s: jax.Array, total: jax.Array, theta: jax.Array, support: jax.Array, axes: Axes
) -> jax.Array:
    mass = jnp.sum(jnp.where(support, s, 0), axis=axes, keepdims=True)
    excess = jnp.sum(jnp.where(support, r - s * theta, 0), axis=axes, keepdims=True) - total
    return theta + jnp.where(mass > 0, excess / jnp.where(mass > 0, mass, 1), 0)
