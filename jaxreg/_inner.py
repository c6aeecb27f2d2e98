"""Proximal operators without a closed form, by a fixed number of inner steps."""

import jax
import jax.numpy as jnp

from jaxreg import _numerics
from jaxreg._regularizer import Regularizer, Scaled
from jaxreg.penalties import Difference, Huber


def has_prox(reg: Regularizer, z: jax.Array, step: jax.Array) -> bool:
    """Whether `reg.prox(z, step)` has a closed form; traces it and computes nothing."""
    try:
        jax.eval_shape(reg.prox, z, step)
    except NotImplementedError:
        return False
    return True


def inner_prox(reg: Regularizer, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
    """Return the result of `count` inner steps towards argmin_w R(w) + ½ Σ (w_i − z_i)²/τ_i, begun at p."""
    match reg:
        case Scaled():
            return inner_prox(reg.penalty, p, z, _numerics.threshold(step, reg.factor), count)
        case Difference():
            return _difference_prox(reg, z, jnp.broadcast_to(step, z.shape), count)
    return _majorized_prox(reg, p, z, jnp.broadcast_to(step, z.shape), count)


def _majorized_prox(reg: Regularizer, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
    """w ← prox_{γR}(w + (γ/τ)(z − w)), γ = min τ: each step minimizes R + a scalar majorizer of the quadratic.

    Begun at p, the point is p exactly where prox_{γR}(p − γm) = p for z = p − τm: the fixed points are those of the
    problem for any number of steps.
    """
    gamma = jnp.min(step, initial=jnp.inf)
    ratio = jnp.where(step > 0, gamma / jnp.where(step > 0, step, 1), 0)
    return jax.lax.fori_loop(0, count, lambda _, w: reg.prox(w + ratio * (z - w), gamma), p)


def _difference_prox(reg: Difference, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
    """w = z − τDᵀy, y by `count` accelerated proximal gradient steps on the dual, with one step size σ_j for each y_j.

    y ← prox_{σP*}(y + σDw) = v − σ·prox_{P/σ}(v/σ);   σ = 1/(|D|τ|Dᵀ|1), the row sums of |DτDᵀ|.
    """
    if reg.penalty._elastic() is None and not isinstance(reg.penalty, Huber):
        raise NotImplementedError(
            f"`Difference({type(reg.penalty).__name__})` has inner steps for L1, L2, L1L2 and Huber only. Put its "
            "gradient into the loss or into `jaxreg.add_regularization`."
        )
    axis, order = reg.axis % max(z.ndim, 1), min(reg.order, z.shape[reg.axis] if z.ndim else 0)

    def difference(w: jax.Array) -> jax.Array:
        return jnp.diff(w, n=order, axis=axis)

    def absolute(w: jax.Array) -> jax.Array:
        for _ in range(order):
            length = w.shape[axis]
            w = jax.lax.slice_in_dim(w, 1, length, axis=axis) + jax.lax.slice_in_dim(w, 0, length - 1, axis=axis)
        return w

    shape = jax.ShapeDtypeStruct(z.shape, z.dtype)
    transpose, absolute_transpose = jax.linear_transpose(difference, shape), jax.linear_transpose(absolute, shape)
    start = jnp.zeros_like(difference(z))
    rows = absolute(step * absolute_transpose(jnp.ones_like(start))[0])
    sigma = 1 / jnp.where(rows > 0, rows, 1)

    def body(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, extrapolated = carry
        v = extrapolated + sigma * difference(z - step * transpose(extrapolated)[0])
        new = v - sigma * reg.penalty.prox(v / sigma, 1 / sigma)
        return new, new + (k / (k + 3)).astype(y.dtype) * (new - y)

    y, _ = jax.lax.fori_loop(0, count, body, (start, start))
    return z - step * transpose(y)[0]
