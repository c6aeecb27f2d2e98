"""Σ|x|, Σ|x|² and both: one pass over memory, and no overflow on the way to a result that is representable."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxreg._core.compiler import factored_sum, is_large, unshared
from jaxreg._core.numerics import real_dtype, real_product


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


def _scaled_l1_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (c, x), (dc, dx) = primals, tangents
    tangent = _along(dc, lambda: _scaled_l1(jnp.ones_like(c), x), c)
    return _scaled_l1(c, x), tangent + _along_entries(lambda: c * jnp.sign(x), dx, c)


_scaled_l1.defjvp(_scaled_l1_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _scaled_l2(c: jax.Array, x: jax.Array) -> jax.Array:
    return factored_sum(c, x, (lambda c, x: real_product(c * x, x)) if is_large(x) else _times_square)


def _scaled_l2_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (c, x), (dc, dx) = primals, tangents
    tangent = _along(dc, lambda: _scaled_l2(jnp.ones_like(c), x), c)
    return _scaled_l2(c, x), tangent + _along_entries(lambda: 2 * c * x, dx, c)


_scaled_l2.defjvp(_scaled_l2_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _scaled_l1l2(l1: jax.Array, l2: jax.Array, x: jax.Array) -> jax.Array:
    l1, l2, x = unshared((l1, l2, x))
    a = jnp.abs(x)
    return jnp.sum(a * (l1 + l2 * a))


def _scaled_l1l2_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (l1, l2, x), (dl1, dl2, dx) = primals, tangents
    one = jnp.ones_like(l1)
    tangent = _along(dl1, lambda: _scaled_l1(one, x), one) + _along(dl2, lambda: _scaled_l2(one, x), one)
    return _scaled_l1l2(l1, l2, x), tangent + _along_entries(lambda: l1 * jnp.sign(x) + 2 * l2 * x, dx, one)


_scaled_l1l2.defjvp(_scaled_l1l2_jvp, symbolic_zeros=True)


def _along(dc: Any, derivative: Callable[[], jax.Array], like: jax.Array) -> jax.Array:
    """The derivative times dc; 0 where c is held, for the derivative may be infinite, and 0·∞ is nan."""
    return jnp.zeros_like(like) if isinstance(dc, SymbolicZero) else dc * derivative()


def _along_entries(gradient: Callable[[], jax.Array], dx: Any, like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like) if isinstance(dx, SymbolicZero) else jnp.sum(real_product(gradient(), dx))


def _times_square(c: jax.Array, x: jax.Array) -> jax.Array:
    """c·|x|²: the square first, which has the digits of Keras, where it is in range."""
    in_range = (jnp.abs(x) > 2.0**-60) & (jnp.abs(x) < 2.0**60)
    return jnp.where(in_range, c * real_product(x, x), real_product(c * x, x))


def no_exact_form(terms: Iterable[str], *, has_box: bool, has_groups: bool) -> str:
    """The message for a sum whose proximal operator is none of the known ones."""
    groups = (
        " A sum of groups is exact where they are nested, all but the coarsest are `Group(L1(...))`, and the step is a "
        "number (`metric=None`)."
    )
    lower = " If the `Box` is `Box(lower=0.0)`, write `NonNegative()`." if has_box else ""
    return (
        f"`({' + '.join(terms)}).prox` has no exact form: the proximal operators of the terms, one after the other, "
        "are not that of their sum. Put all terms but one into the loss or into `jaxreg.add_regularization`, and give "
        f"the remaining one to `jaxreg.proximal`.{groups if has_groups else ''}{lower}"
    )
