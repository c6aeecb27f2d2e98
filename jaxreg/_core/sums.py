"""Σ|x|, Σ|x|² and both: one pass over memory, and no overflow on the way to a result that is representable."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core.compiler import factored_sum, is_large, unshared
from jaxreg._core.numerics import multiple, real_dtype, real_product


def scaled_l1(c: Any, x: jax.Array) -> jax.Array:
    """c·Σ|x| for a promoted x, without overflow on the way if the result is representable."""
    return _scaled_l1(jnp.asarray(c, real_dtype(x)), x)


def scaled_l2(c: Any, x: jax.Array) -> jax.Array:
    """c·Σ|x|² for a promoted x, without overflow on the way if the result is representable."""
    return _scaled_l2(jnp.asarray(c, real_dtype(x)), x)


def scaled_l1l2(l1: Any, l2: Any, x: jax.Array) -> jax.Array:
    """l1·Σ|x| + l2·Σ|x|² in one pass over a promoted x, without overflow on the way."""
    return _scaled_l1l2(jnp.asarray(l1, real_dtype(x)), jnp.asarray(l2, real_dtype(x)), x)


@jax.custom_jvp
def _scaled_l1(c: jax.Array, x: jax.Array) -> jax.Array:
    return factored_sum(c, x, lambda c, x: c * jnp.abs(x))


@_scaled_l1.defjvp
def _scaled_l1_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (c, x), (dc, dx) = primals, tangents
    tangent = dc * _scaled_l1(jnp.ones_like(c), x) + jnp.sum(real_product(c * jnp.sign(x), dx))
    return _scaled_l1(c, x), tangent


@jax.custom_jvp
def _scaled_l2(c: jax.Array, x: jax.Array) -> jax.Array:
    return factored_sum(c, x, (lambda c, x: real_product(c * x, x)) if is_large(x) else _times_square)


@_scaled_l2.defjvp
def _scaled_l2_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (c, x), (dc, dx) = primals, tangents
    tangent = dc * _scaled_l2(jnp.ones_like(c), x) + jnp.sum(real_product(2 * c * x, dx))
    return _scaled_l2(c, x), tangent


@jax.custom_jvp
def _scaled_l1l2(l1: jax.Array, l2: jax.Array, x: jax.Array) -> jax.Array:
    l1, l2, x = unshared((l1, l2, x))
    a = jnp.abs(x)
    return jnp.sum(a * (l1 + l2 * a))


@_scaled_l1l2.defjvp
def _scaled_l1l2_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (l1, l2, x), (dl1, dl2, dx) = primals, tangents
    one = jnp.ones_like(l1)
    tangent = dl1 * _scaled_l1(one, x) + dl2 * _scaled_l2(one, x)
    return _scaled_l1l2(l1, l2, x), tangent + jnp.sum(real_product(l1 * jnp.sign(x) + 2 * l2 * x, dx))


def _times_square(c: jax.Array, x: jax.Array) -> jax.Array:
    """c·|x|²: the square first, which has the digits of Keras, where it is in range."""
    in_range = (jnp.abs(x) > 2.0**-60) & (jnp.abs(x) < 2.0**60)
    return jnp.where(in_range, c * real_product(x, x), real_product(c * x, x))


def no_exact_form(terms: Iterable[str], *, has_box: bool) -> str:
    """The message for a sum whose proximal operator is none of the known ones."""
    lower = " If the `Box` is `Box(lower=0.0)`, write `NonNegative()`." if has_box else ""
    return (
        f"`({' + '.join(terms)}).prox` has no exact form: the proximal operators of the terms, one after the other, "
        "are not that of their sum. Put all terms but one into the loss or into `jaxreg.add_regularization`, and give "
        f"the remaining one to `jaxreg.proximal`.{lower}"
    )


def unrolled(reg: Any, dtype: Any) -> tuple[jax.Array, Any]:
    """The factors of multiples of multiples, the inner first, and the penalty inside."""
    factors, penalty = [reg.factor], reg.penalty
    while isinstance(penalty, type(reg)):
        factors.append(penalty.factor)
        penalty = penalty.penalty
    return jnp.stack([jnp.asarray(factor, dtype) for factor in reversed(factors)]), penalty


def times(factors: jax.Array, value: jax.Array) -> jax.Array:
    """The value times one factor after the other, which the compiler takes as one loop."""
    return jax.lax.scan(lambda value, c: (multiple(c, value), None), value, factors, unroll=8)[0]
