"""Maps that change the size of entries or groups and keep their direction: gradients and proximal operators.

    F(x) = f(r)·x/r,   r = |x| or ‖x‖ of a group,   F(0) = 0
    dF = (f/r)·dx + (x/r)·(df + (f′(r) − f/r)·⟨x/r, dx⟩)

At 0, where f(0) = 0, F has the derivative f′(0), to which f/r tends too: the curvature of a smooth penalty, the slope
of its proximal operator. Where f(0) > 0, at a kink, f′(0) is taken as well: the mean of the second derivatives from
the two sides. It is linear in the penalty, so that derivatives of a sum are the sums of those of its terms.

`f` is a function (params, r), entry by entry, and no closure: what is differentiated is in `params`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import euclidean, numerics
from jaxreg._core.partition import Arrays, Grouping, spread, total

Profile = Callable[[Any, jax.Array], jax.Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def directed(f: Profile, params: Any, x: jax.Array) -> jax.Array:
    """f(|x|)·sign(x), for slopes."""
    return f(params, jnp.abs(x)) * jnp.sign(x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def resized(f: Profile, params: Any, x: jax.Array) -> jax.Array:
    """The number of the sign (or phase) of x and of modulus f(|x|), x itself where that is |x|: for shrinkage."""
    a = jnp.abs(x)
    return numerics.with_modulus(x, a, f(params, a))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def directed_groups(f: Profile, groups: Grouping, params: Any, x: Arrays) -> Any:
    """f(‖x_g‖)·x_g/‖x_g‖, for slopes."""
    sizes = spread(f(params, euclidean.norms(x, groups)), groups)
    return jax.tree.map(jnp.multiply, sizes, euclidean.directions(x, groups))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def resized_groups(f: Profile, groups: Grouping, params: Any, x: Arrays) -> Any:
    """The same by a ratio, so that a group whose norm stays comes back bit for bit: for shrinkage."""
    norms = _finite_norms(x, groups)
    positive = norms > 0
    ratio = jnp.where(positive, f(params, norms) / jnp.where(positive, norms, 1), 0 * norms)  # nan stays nan
    return jax.tree.map(jnp.multiply, x, spread(ratio, groups, beside=1))


def _finite_norms(x: Arrays, groups: Grouping) -> jax.Array:
    """‖x_g‖; an infinite norm of finite entries has the same ratios as this one, whose reciprocal is not subnormal."""
    norms = euclidean.norms(x, groups)
    return jnp.minimum(norms, jnp.finfo(norms.dtype).max / 8)


def _of_entries(f: Profile, primals: Any, tangents: Any) -> jax.Array:
    (params, x), (dparams, dx) = primals, tangents
    a = numerics.absolute(x)
    value, change, slope = _parts(f, params, dparams, a)
    if not jnp.iscomplexobj(x):
        return slope * dx + change * jnp.sign(x)
    phase = numerics.with_modulus(x, a, jnp.ones_like(a))
    ratio = _ratio(value, slope, a)
    return ratio * dx + phase * (change + (slope - ratio) * numerics.real_product(phase, dx))


def _of_groups(f: Profile, groups: Grouping, primals: Any, tangents: Any, beside: float) -> Any:
    (params, x), (dparams, dx) = primals, tangents
    r, unit = _finite_norms(x, groups), euclidean.directions(x, groups)
    value, change, slope = _parts(f, params, dparams, r)
    ratio = _ratio(value, slope, r)
    dr = total(jax.tree.map(numerics.real_product, unit, dx), groups)
    ratios, along = spread(ratio, groups, beside), spread(change + (slope - ratio) * dr, groups)
    return jax.tree.map(lambda unit, dx, ratio, along: ratio * dx + unit * along, unit, dx, ratios, along)


def _parts(f: Profile, params: Any, dparams: Any, r: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """f, its change with the parameters, and its slope f′(r)."""
    value, change = jax.jvp(lambda p: f(p, r), (params,), (dparams,))
    return value, change, jax.jvp(lambda t: f(params, t), (r,), (jnp.ones_like(r),))[1]


def _ratio(value: jax.Array, slope: jax.Array, r: jax.Array) -> jax.Array:
    positive = r > 0
    return jnp.where(positive, value / jnp.where(positive, r, 1), slope)


directed.defjvp(lambda f, primals, tangents: (directed(f, *primals), _of_entries(f, primals, tangents)))
resized.defjvp(lambda f, primals, tangents: (resized(f, *primals), _of_entries(f, primals, tangents)))
directed_groups.defjvp(
    lambda f, groups, primals, tangents: (
        directed_groups(f, groups, *primals),
        _of_groups(f, groups, primals, tangents, 0),
    )
)
resized_groups.defjvp(
    lambda f, groups, primals, tangents: (
        resized_groups(f, groups, *primals),
        _of_groups(f, groups, primals, tangents, 1),
    )
)
