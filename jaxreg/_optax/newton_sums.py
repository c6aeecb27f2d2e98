"""What is summed over each group for a Newton step in a metric, with the letters of `groups.py`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreg._core.sums_on_gpu import Three


class OfGroups(NamedTuple):
    """Numbers of each group, which broadcast against the entries."""

    r: jax.Array
    c: jax.Array
    unit: jax.Array  # of z/d, whose cube is taken out
    per_c: jax.Array  # 1/c, and 0 for 0
    at_zero: jax.Array  # ρ′(0)


def inverse(tau: jax.Array) -> jax.Array:
    """1/τ, cut so that its products are finite."""
    most = 2.0 ** (jnp.finfo(tau.dtype).maxexp * 3 // 4)
    return jnp.clip(1 / tau, 1 / most, most)


def share(dtype: Any) -> float:
    """Of |z_i|/τ_i the least that d_i/τ_i counts: quotients z_i/d_i are cut at 2²¹ (in float64 2¹⁷⁰).

    There the penalty is below the rounding, and no square overflows.
    """
    return 2.0 ** -(jnp.finfo(dtype).maxexp // 6)


def terms(x: jax.Array, least: jax.Array, inverse: jax.Array, of_groups: OfGroups) -> Three:
    """Those of S_3 and T, of a common factor, and of the pull; x is |z|/τ, `least` the `share` of it.

    Products with 1/τ leave one division for each entry.
    """
    r, c, unit, per_c, at_zero = of_groups
    tiny = float(jnp.finfo(inverse.dtype).tiny)
    q = 1 / jnp.maximum(r * inverse + c, jnp.maximum(least, tiny))  # 1/d_i is q/τ_i
    cubes = (x * q) ** 2 * (q * unit)
    steps = jnp.maximum(1, (least - r * inverse) * per_c)  # as d_i
    pull = jnp.minimum(x / jnp.maximum(at_zero, tiny), 1 / share(inverse.dtype))
    return cubes * inverse, cubes * steps, pull**2
