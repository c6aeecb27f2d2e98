"""Euclidean norms of groups and directions, right at both ends of the floating range and in one read of the memory."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg._core import compiler, numerics, sums_on_gpu
from jaxreg._core.partition import Arrays, Grouping, Unit, Units, each, most, spread, total


def norms(x: Arrays, groups: Grouping) -> jax.Array:
    """‖x_g‖₂, along axes kept with length 1; the derivative is x/‖x‖, and 0 at 0."""
    return _norms(_UNITS, _of_parts(x, groups)) if isinstance(groups, Units) else _norms(groups, x)


_UNITS = Unit(2, 1)  # of an array (arrays, units)


def _of_parts(x: tuple[jax.Array, ...], groups: Units) -> jax.Array:
    """The norms in each of several arrays, below one another: their norm is that of all entries."""
    return jnp.stack(each(lambda unit, part: norms(part, unit), groups, x))


def norm(x: jax.Array) -> jax.Array:
    """‖x‖₂ of the whole array, a scalar."""
    return norms(x, tuple(range(x.ndim))).reshape(())


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norms(groups: Grouping, x: jax.Array) -> jax.Array:
    scale, square = compiler.by_device(*_ways(groups), x)
    return jnp.sqrt(square) / scale


@_norms.defjvp
def _norms_jvp(groups: Grouping, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return norms(x, groups), total(numerics.real_product(directions(x, groups), dx), groups)


def directions(x: Arrays, groups: Grouping) -> Any:
    """x_g/‖x_g‖₂, and 0 with derivative 0 at 0 and for entries in no group."""
    if isinstance(groups, Units):
        shares = tuple(directions(_of_parts(x, groups), _UNITS))
        return each(lambda unit, x, share: directions(x, unit) * spread(share, unit), groups, x, shares)
    scale, inverse = _inverse(groups, x)
    y = x * spread(scale, groups)
    y = y if jnp.iscomplexobj(x) else jnp.where(jnp.isinf(x), jnp.sign(x), y)  # beside inf, all else counts nothing
    return y * spread(inverse, groups)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _inverse(groups: Grouping, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two factors of 1/‖x_g‖, a power of two, held constant, and the rest; 0 and 1 for a norm of 0 or ∞."""
    scale, square = compiler.by_device(*_ways(groups), x)
    counts = (square != 0) & (square != jnp.inf)
    return jnp.where(counts, scale, 0), lax.rsqrt(jnp.where(counts, square, 1))


@_inverse.defjvp
def _inverse_jvp(groups: Grouping, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """−⟨x/‖x‖, dx⟩/‖x‖²: no power of the sum of squares, which may be out of range where that is not."""
    (x,), (dx,) = primals, tangents
    scale, inverse = _inverse(groups, x)
    change = total(numerics.real_product(directions(x, groups), dx), groups)
    return (scale, inverse), (jnp.zeros_like(scale), -inverse * (change * scale * inverse))


@functools.lru_cache(maxsize=256)
def _ways(groups: Grouping) -> tuple[Any, Any]:
    """Two functions of x: a power of two s for each group, and Σ(s·|x_i|)², which neither overflows nor vanishes.

    The same objects at every call, so that JAX traces them once for a shape.
    """
    return functools.partial(two_sums, groups), functools.partial(three_sums, groups)


def two_sums(groups: Grouping, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of squares tells the scale: it is wrong only where it is very large or very small. Two reads."""
    size = numerics.number_of(most(x, groups))
    info = jnp.finfo(x.dtype)
    least = size * (float(info.tiny) / float(info.eps))  # above it, what is flushed to 0 is below the rounding
    _, _, up, down = _range(x)
    square = total(numerics.real_product(x, x), groups)
    scale = jnp.where(square < least, up, jnp.where(square > 1 / least, down, jnp.ones_like(square)))
    y = x * spread(scale, groups)
    return scale, total(numerics.real_product(y, y), groups)


def three_sums(groups: Grouping, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The squares of large, usual and small entries, each with a scale of its own. One read.

    Blue, *A portable Fortran program to find the Euclidean norm of a vector*, ACM TOMS, 1978.
    """
    low, high, up, down = _range(x)
    parts = (lax.real(x), lax.imag(x)) if jnp.iscomplexobj(x) else (x,)
    sizes = [lax.abs(part) for part in parts]
    are_large = [lax.gt(size, lax.full_like(size, high)) for size in sizes]
    are_small = [lax.lt(size, lax.full_like(size, low)) for size in sizes]
    are_usual = [lax.bitwise_not(lax.bitwise_or(*sides)) for sides in zip(are_large, are_small, strict=True)]  # nan too

    def squares(scale: float, inside: list[jax.Array]) -> jax.Array:
        """Chosen before they are squared: of (x·2⁸⁰)² compilers make x²·2¹⁶⁰, which is x²·∞, for single entries."""
        scaled = parts if scale == 1 else [lax.mul(part, lax.full_like(part, scale)) for part in parts]
        chosen = [lax.select(i, y, lax.full_like(y, 0)) for i, y in zip(inside, scaled, strict=True)]
        return functools.reduce(lax.add, [lax.mul(y, y) for y in chosen])

    terms = squares(down, are_large), squares(up, are_small), squares(1, are_usual)
    large, small, usual = sums_on_gpu.three_sums(terms, groups, lines=False)
    scale = jnp.where(large > 0, down, jnp.where(usual == 0, up, jnp.ones_like(usual)))
    beside = jnp.where(large > 0, usual, jnp.where(usual == 0, 0, small))  # of the next scale, down² = 1/up² from it
    beside = jnp.maximum(beside * down, 0) * down  # of `· down · down` compilers make one constant, which is 0
    return scale, jnp.where(large > 0, large, jnp.where(usual == 0, small, usual)) + beside


def _range(x: jax.Array) -> tuple[float, float, float, float]:
    """Bounds between which squares are in range and sums of 2³⁰ of them, and the scales below and above.

    Float32: 2^±48 and 2^±80, so that 2^(−126 + 80) and 2^(128 − 80) have squares and sums in range too.
    """
    exponent = jnp.finfo(x.dtype).maxexp
    bound, scale = 3 * exponent // 8, 5 * exponent // 8
    return 2.0**-bound, 2.0**bound, 2.0**scale, 2.0**-scale
