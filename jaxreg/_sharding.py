"""Sharded arrays: penalties run on Auto mesh axes, where the compiler places what is between input and output."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def automatic(function: Callable[..., Any], x: jax.Array, *, whole: bool) -> Callable[..., Any]:
    """Return `function` with the Explicit axes of the mesh of `x` made Auto inside; the result is typed as outside.

    Explicit axes want an output sharding for a Gram product and refuse the SVD or the sort of a sharded axis.

    Args:
        function: of arrays, `x` among them.
        x: the array whose mesh it is.
        whole: whether the result stands whole on every device (a scalar, a Gram matrix), or is like `x` and as `x`.
    """
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return function
    out = NamedSharding(sharding.mesh, PartitionSpec()) if whole else sharding
    return jax.sharding.auto_axes(function, out_sharding=out)


def placed_like(x: jax.Array, result: jax.Array) -> jax.Array:
    """`result`, which stands where `x` stands also on Auto axes; nan where `x` is nan.

    Types do not carry Auto shardings: an operation that takes both arrays entry by entry is what hands them on.
    """
    return jnp.where(jnp.isnan(x), x, result)
