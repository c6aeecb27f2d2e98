"""Numbers of twice the digits, as unevaluated sums of two floats: what a prefix sum of a million entries needs.

Dekker, *A floating-point technique for extending the available precision*, Numerische Mathematik, 1971.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Primitives on arrays of one shape and dtype, for they are traced in a tenth of the time of the functions of jax.numpy,
# and a prefix sum has hundreds.


class Double(NamedTuple):
    """high + low, with |low| at most half a unit in the last place of high. All entries finite, arrays of one shape."""

    high: Any
    low: Any


def exactly(x: Any) -> Double:
    """x, a float or an array."""
    return Double(x, 0.0 if isinstance(x, float) else lax.full_like(x, 0))


def add(a: Double, b: Double) -> Double:
    """a + b, up to a rounding of twice the digits of the larger one."""
    total = lax.add(a.high, b.high)
    of_b = lax.sub(total, a.high)
    error = lax.add(lax.sub(a.high, lax.sub(total, of_b)), lax.sub(b.high, of_b))
    return _normal(total, lax.add(error, lax.add(a.low, b.low)))


def subtract(a: Double, b: Double) -> Double:
    """a − b."""
    return add(a, Double(lax.neg(b.high), lax.neg(b.low)))


def times(a: Double, factor: jax.Array) -> Double:
    """a·factor, the factor a float."""
    product = lax.mul(a.high, factor)
    (a1, a2), (b1, b2) = _halves(a.high), _halves(factor)
    error = lax.add(lax.sub(lax.mul(a1, b1), product), lax.mul(a1, b2))
    error = lax.add(lax.add(error, lax.mul(a2, b1)), lax.mul(a2, b2))
    return _normal(product, lax.add(error, lax.mul(a.low, factor)))


def divide(a: Double, b: Double) -> Double:
    """a / b."""
    quotient = lax.div(a.high, b.high)
    rest = subtract(a, times(b, quotient))
    return _normal(quotient, lax.div(rest.high, b.high))


def greater(a: Double, b: Double) -> jax.Array:
    """a > b."""
    behind = lax.bitwise_and(lax.eq(a.high, b.high), lax.gt(a.low, b.low))
    return lax.bitwise_or(lax.gt(a.high, b.high), behind)


def where(condition: jax.Array, a: Double, b: Double) -> Double:
    """a where the condition holds, else b."""
    return Double(lax.select(condition, a.high, b.high), lax.select(condition, a.low, b.low))


def clip(x: Double, least: Double, most: Double) -> Double:
    """x, moved between `least` and `most`."""
    x = where(greater(least, x), least, x)
    return where(greater(x, most), most, x)


def _normal(high: jax.Array, low: jax.Array) -> Double:
    total = lax.add(high, low)
    return Double(total, lax.sub(low, lax.sub(total, high)))


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two floats of half of the digits: their products are exact."""
    split = lax.mul(x, lax.full_like(x, 2.0 ** ((jnp.finfo(x.dtype).nmant + 2) // 2) + 1))
    upper = lax.sub(split, lax.sub(split, x))
    return upper, lax.sub(x, upper)
