"""Inner steps towards a proximal operator in a diagonal metric, for penalties that have one for a scalar step alone."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp

_MOST = 2.0**10  # γ beside entries that stay: γ∂R/∂w is added to them, and their digits are to be left


def inner_steps(reg: Any, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
    """Return the result of `count` steps from p towards argmin_w R(w) + ½ Σ (w_i − z_i)²/τ_i.

    w ← prox_{γR}(w + (γ/τ)(z − w)), γ the least τ > 0: each step minimizes R plus a scalar majorizer of the quadratic.
    A run from p for z = p − τm stays at p exactly if prox_{γR}(p − γm) = p, that is, if p is optimal: so a loop around
    any number of these steps has the right fixed points.

    Entries with τ_i = 0 stay, unless that leads out of the set where R is finite. The proximal operator moves them, by
    −γ∂R/∂w_i where R is smooth, so they go in with as much added, and the others see them where they stay. For that
    sum γ must not be large; a smaller one majorizes too.
    """
    step = jnp.broadcast_to(step, z.shape)
    free = step > 0
    all_free = jnp.all(free)
    most = jnp.where(all_free, jnp.inf, _MOST)
    gamma = jnp.where(jnp.any(free), jnp.min(step, where=free, initial=most), 0)
    ratio = jnp.where(step > gamma, gamma / jnp.where(step > gamma, step, 1), 1)  # 1 also where all are ∞

    def slope(p: jax.Array) -> jax.Array:
        with warnings.catch_warnings(action="ignore"):  # of L0, whose gradient is 0: here that is meant
            return jnp.conj(jax.grad(reg)(p))

    target = jnp.where(free, z, z + gamma * jax.lax.cond(all_free, jnp.zeros_like, slope, p))
    w = jax.lax.fori_loop(0, count, lambda _, w: reg.prox(w + ratio * (target - w), gamma), p)
    stayed = jnp.where(free, w, z)
    may_stay = jax.lax.cond(all_free, lambda _: jnp.array(True), lambda x: jnp.isfinite(reg(x)), stayed)
    return jnp.where(may_stay, stayed, w)
