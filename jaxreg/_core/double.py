"""Numbers of twice the digits, as unevaluated sums of two floats: what a prefix sum of a million entries needs.

Dekker, *A floating-point technique for extending the available precision*, Numerische Mathematik, 1971.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Double(NamedTuple):
    """high + low, with |low| at most half a unit in the last place of high. All entries finite."""

    high: Any
    low: Any


def exactly(x: Any) -> Double:
    """x, a float or an array."""
    return Double(x, 0.0 if isinstance(x, float) else jnp.zeros_like(x))


def add(a: Double, b: Double) -> Double:
    """a + b, up to a rounding of twice the digits of the larger one."""
    total = a.high + b.high
    of_b = total - a.high
    error = (a.high - (total - of_b)) + (b.high - of_b)
    return _normal(total, error + (a.low + b.low))


def subtract(a: Double, b: Double) -> Double:
    """a − b."""
    return add(a, Double(-b.high, -b.low))


def times(a: Double, factor: jax.Array) -> Double:
    """a·factor, the factor a float."""
    product = a.high * factor
    (a1, a2), (b1, b2) = _halves(a.high), _halves(factor)
    error = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    return _normal(product, error + a.low * factor)


def divide(a: Double, b: Double) -> Double:
    """a / b."""
    quotient = a.high / b.high
    rest = subtract(a, times(b, quotient))
    return _normal(quotient, rest.high / b.high)


def greater(a: Double, b: Double) -> jax.Array:
    """a > b."""
    return (a.high > b.high) | ((a.high == b.high) & (a.low > b.low))


def where(condition: jax.Array, a: Double, b: Double) -> Double:
    """a where the condition holds, else b."""
    return Double(jnp.where(condition, a.high, b.high), jnp.where(condition, a.low, b.low))


def clip(x: Double, least: Double, most: Double) -> Double:
    """x, moved between `least` and `most`."""
    x = where(greater(least, x), least, x)
    return where(greater(x, most), most, x)


def _normal(high: jax.Array, low: jax.Array) -> Double:
    total = high + low
    return Double(total, low - (total - high))


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two floats of half of the digits: their products are exact."""
    split = x * (2.0 ** ((jnp.finfo(x.dtype).nmant + 2) // 2) + 1)
    upper = split - (split - x)
    return upper, x - upper
