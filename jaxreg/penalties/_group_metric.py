"""The proximal operator of the norms of groups in a diagonal metric, by the roots of secular equations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import compiler, numerics
from jaxreg._core.partition import Arrays, Grouping, each, first, largest, results, spread, total

_MOST_STEPS = 60  # a guard only: steps that spread over 16 decades take four


def secular_prox(z: Arrays, tau: Arrays, c: jax.Array, groups: Grouping) -> tuple[Any, jax.Array]:
    """argmin_w c·Σ_g ‖w_g‖ + ½ Σ_i (w_i − z_i)²/τ_i, and its ‖w_g‖.

    w_i = z_i·r/(r + cτ_i) with r = ‖w_g‖, the root of ‖v(r)‖ = 1, v_i = z_i/(r + cτ_i), or 0 if ‖v(0)‖ ≤ 1.
    c is a number, or one for each group.
    """

    def finite(groups: Grouping, tau: jax.Array) -> jax.Array:
        return jnp.where((spread(c, groups) == 0) & jnp.isinf(tau), 0, tau)

    tau = each(finite, groups, tau)
    r = roots(groups, z, tau, c)

    def moved(groups: Grouping, z: jax.Array, tau: jax.Array) -> jax.Array:
        of_entries = spread(r, groups, beside=1)
        w = z * (of_entries / _above(of_entries, tau, c, groups))
        return numerics.exact(jnp.where(spread(c, groups) == 0, z, w), w)

    return each(moved, groups, z, tau), r


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def roots(groups: Grouping, z: Arrays, tau: Arrays, c: jax.Array) -> jax.Array:
    """Newton's method on h(r) = 1/‖v(r)‖ = 1, until it has converged in all groups.

    h is increasing and concave (a power mean of order −2 of the r + cτ_i), so that a step from either side ends at or
    below the root, and below 0 only if the root is. With e the error over r, a step leaves at most 1.5·e², because
    −h″/h′ ≤ 3/r. Each sum is fused with all that it needs; what two of them shared would be kept in memory.
    """
    tolerance = 0.25 * jnp.sqrt(jnp.finfo(first(tau).dtype).eps)

    def newton(r: jax.Array) -> jax.Array:
        def term(groups: Grouping, z: jax.Array, tau: jax.Array) -> jax.Array:
            r_, c_, tau = compiler.unshared((r, c, tau))  # with τ, which no other array has
            v = z / _above(spread(r_, groups, beside=1), tau, c_, groups)
            return numerics.real_product(v, v)

        square = total(each(term, groups, z, tau), groups)

        def curved(groups: Grouping, z: jax.Array, tau: jax.Array) -> jax.Array:
            one, r_, c_, tau = compiler.unshared((jnp.ones_like(r), r, c, tau))
            inverse = spread(one, groups) / _above(spread(r_, groups, beside=1), tau, c_, groups)
            v = z * inverse
            return numerics.real_product(v, v) * inverse

        curvature = total(each(curved, groups, z, tau), groups)
        return jnp.maximum(0, r + (jnp.sqrt(square) - 1) * (square / jnp.where(curvature > 0, curvature, 1)))

    def goes_on(state: Any) -> jax.Array:
        r, before, steps = state
        return jnp.any(jnp.abs(r - before) > tolerance * r) & (steps < _MOST_STEPS)

    start = _start(z, tau, c, groups)
    begin = newton(start), start, 1
    return jax.lax.while_loop(goes_on, lambda state: (newton(state[0]), state[0], state[2] + 1), begin)[0]


@roots.defjvp
def _roots_jvp(groups: Grouping, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The total differential of Σ v_i² = 1; 0 where r = 0."""
    (z, tau, c), (dz, dtau, dc) = primals, tangents
    r = roots(groups, z, tau, c)
    positive = r > 0

    def parts(groups: Grouping, z: jax.Array, tau: jax.Array, dz: jax.Array, dtau: jax.Array) -> tuple[jax.Array, ...]:
        of_entries = spread(jnp.where(positive, r, 0), groups)
        above = jnp.where(of_entries > 0, _above(of_entries, tau, c, groups), 1)
        v = z / above
        square = numerics.real_product(v, v) / above
        pushed = square * (spread(c, groups) * dtau + tau * spread(dc, groups))
        return square, numerics.real_product(v / above, dz) - pushed

    square, change = results(parts, groups, z, tau, dz, dtau)
    change = total(change, groups)
    return r, jnp.where(positive, change / jnp.where(positive, total(square, groups), 1), 0)


def _start(z: Arrays, tau: Arrays, c: jax.Array, groups: Grouping) -> jax.Array:
    """The larger of two bounds from below: max_i |z_i| − cτ_i, where no |v_i| exceeds 1, and the tangent of h at ∞."""

    def beyond(groups: Grouping, z: jax.Array, tau: jax.Array) -> jax.Array:
        c_tau = spread(compiler.unshared(c), groups) * tau
        return jnp.abs(z) - c_tau if jnp.iscomplexobj(z) else jnp.maximum(z - c_tau, -z - c_tau)

    square = total(jax.tree.map(lambda z: numerics.real_product(z, z), z), groups)
    steps = total(jax.tree.map(lambda z, tau: numerics.real_product(z, z * tau), z, tau), groups)
    tangent = jnp.sqrt(square) - c * steps / square
    least = largest(each(beyond, groups, z, tau), groups)
    return jnp.maximum(least, jnp.where(jnp.isfinite(tangent), tangent, 0))


def _above(r: jax.Array, tau: jax.Array, c: jax.Array, groups: Grouping) -> jax.Array:
    """r + cτ for an r of each entry, kept above 0. Where r = cτ = 0, z is 0 too, so the floor changes nothing."""
    r, c = compiler.unshared((r, c))
    return jnp.maximum(r, jnp.finfo(tau.dtype).tiny) + spread(c, groups) * tau
