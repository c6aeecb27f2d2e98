"""Multiples of multiples of a penalty, 3·(2·(…·P)): their factors are one loop, whatever their number."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core.numerics import multiple


def unrolled(reg: Any, dtype: Any) -> tuple[jax.Array, Any]:
    """The factors, the inner first, and the penalty inside."""
    factors, penalty = [reg.factor], reg.penalty
    while isinstance(penalty, type(reg)):
        factors.append(penalty.factor)
        penalty = penalty.penalty
    return jnp.stack([jnp.asarray(factor, dtype) for factor in reversed(factors)]), penalty


def times(factors: jax.Array, value: jax.Array) -> jax.Array:
    """The value times one factor after the other."""
    return jax.lax.scan(lambda value, c: (multiple(c, value), None), value, factors, unroll=8)[0]
