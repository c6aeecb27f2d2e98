"""|x|, sums and thresholds that are right at 0, in half precision and at the ends of the floating range."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import compiler


def promote(x: Any) -> jax.Array:
    """Cast to the dtype in which penalties are summed: float32 for float16, bfloat16, float8, integers and bool.

    float32, float64 and complex stay. With x64 enabled, integers and bool become float64.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.result_type(float))
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def number_of(size: Any) -> Any:
    """A length that arithmetic of numbers takes: an int as it is, a symbolic one of `jax.export` as a traced float."""
    return size if isinstance(size, int) else jnp.asarray(size).astype(jnp.float32)


def root_of(size: Any, dtype: Any) -> jax.Array:
    """√n of a length."""
    return jnp.asarray(math.sqrt(size) if isinstance(size, int) else jnp.sqrt(number_of(size)), dtype)


def real_dtype(x: jax.Array) -> Any:
    """The dtype of |x|: the one of a penalty of `x` and of its coefficients."""
    return jnp.finfo(x.dtype).dtype


@jax.custom_jvp
def absolute(x: jax.Array) -> jax.Array:
    """|x| with derivative sign(x) = x/|x|, which is 0 at 0, where that of `jnp.abs` is +1."""
    return jnp.abs(x)


@absolute.defjvp
def _absolute_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return absolute(x), real_product(jnp.sign(x), dx)


def real_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Re(conj(a)·b): the real inner product, element by element."""
    return jnp.real(jnp.conj(a) * b) if jnp.iscomplexobj(a) or jnp.iscomplexobj(b) else a * b


def threshold(step: jax.Array, c: Any) -> jax.Array:
    """step·c, and 0 where c is 0 even for an infinite step; for a finite one with the derivatives of the product."""
    c = jnp.asarray(c, step.dtype)
    return jnp.where((c == 0) & jnp.isinf(step), 0, step) * c


def common_dtype(*dtypes: Any) -> Any:
    """The dtype that holds all, under strict promotion too: what is added is cast to it."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def power_of_two(x: jax.Array) -> jax.Array:
    """The largest power of two up to x, a float that is not negative: 0 below the normal numbers, ∞ for ∞ and nan.

    Its bits without those of the mantissa, in a few operations; `jnp.frexp` and `jnp.ldexp` are sixty.
    """
    info = jnp.finfo(x.dtype)
    integer = {16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}[info.bits]
    bits = jax.lax.bitcast_convert_type(x, integer)
    exponent = jax.lax.bitwise_and(bits, jax.lax.full_like(bits, ((1 << info.nexp) - 1) << info.nmant))
    return jax.lax.bitcast_convert_type(exponent, x.dtype)


@jax.custom_jvp
def exact(value: jax.Array, formula: jax.Array) -> jax.Array:
    """Return `value`, with the derivative of `formula`, which is the same number before rounding."""
    del formula
    return value


exact.defjvp(lambda primals, tangents: (exact(*primals), tangents[1]))


def unless_zero(factor: Any, moved: Callable[..., jax.Array], u: jax.Array, z: jax.Array, *others: Any) -> jax.Array:
    """Return moved(u, z, ...), a proximal operator at z with the step u, and z where `factor` is 0, for sets too.

    There the derivative is that of z and, in the strength, that of the operator: 0 for a set, which has no strength.
    The operator is called once, so that structures inside each other take linear work.
    """
    is_zero = jnp.asarray(factor) == 0
    w = moved(u, *(jnp.where(is_zero, jax.lax.stop_gradient(x), x) for x in (z, *others)))
    return jnp.where(is_zero, exact(z, z + w), w)


def multiple(factor: Any, value: jax.Array) -> jax.Array:
    """factor·value, and 0 where the factor is 0 even for an infinite value; nan stays nan."""
    factor = jnp.asarray(factor, value.dtype)
    return jnp.where((factor == 0) & jnp.isinf(value), 0, factor * value)


def shrunk_step(step: jax.Array, l2: Any) -> jax.Array:
    """step/(1 + 2·step·l2), also for an infinite step."""
    large, l2 = step > 1, jnp.asarray(l2, step.dtype)
    small = jnp.where(large, 0, step)
    return jnp.where(large, 1 / (1 / jnp.where(large, step, 1) + 2 * l2), small / (1 + 2 * small * l2))


def soft_threshold(z: jax.Array, u: jax.Array) -> jax.Array:
    """argmin_w u|w| + ½|w − z|²; +0.0 inside the threshold, where sign(z)·max(|z| − u, 0) gives −0.0 too.

    At |z| = u > 0 the derivative is 0; with u = 0 it is the identity also at 0.
    """
    size = jnp.abs(z)
    if not jnp.iscomplexobj(z):
        return jnp.where((size <= u) & (u > 0), 0, z - jnp.sign(z) * u)  # less work than a clip
    outside = (size > u) | (u == 0)
    return z * jnp.where(outside, 1 - u / jnp.where(outside, size, 1), 0)


def normalized(x: jax.Array, axis: int | tuple[int, ...] | None) -> tuple[jax.Array, jax.Array]:
    """(x/m, m) with m = max|x| along `axis`, held constant: for functions in which the scale cancels."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    # The compiler multiplies by 1/m, which would be subnormal, and flushed to 0, near the end of the range.
    down = jnp.where(largest > 1, 2.0**-16, 1).astype(largest.dtype)
    y = (x * down) / jnp.where(largest == 0, 1, largest * down)
    return (y if jnp.iscomplexobj(x) else jnp.where(jnp.isinf(x), jnp.sign(x), y)), largest  # inf/inf would be nan


def with_modulus(z: jax.Array, a: jax.Array, r: jax.Array) -> jax.Array:
    """The number of the sign (or phase) of z and of modulus r, where a = |z|; z itself where r = a."""
    if not jnp.iscomplexobj(z):
        signed = jnp.sign(z) * r
        return exact(jnp.where(r == 0, 0, signed), signed)  # no −0.0
    positive = a > 0
    return z * jnp.where(positive, r / jnp.where(positive, a, 1), 0)


@jax.custom_jvp
def gram(x: jax.Array) -> jax.Array:
    """X Xᴴ. Its derivative M + Mᴴ takes one product, M = dX Xᴴ, and so does its transpose: (G + Gᴴ) X."""
    return _times_adjoint(x, x)


@gram.defjvp
def _gram_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    # As a whole the transpose takes a TPU's compiler up to half a minute; panels divide a shared matrix worse.
    is_whole = compiler.devices(x) == 1
    m = compiler.matmul(dx, jnp.conj(x).T) if is_whole else _times_adjoint(dx, x)
    return gram(x), m + jnp.conj(m).T


def _times_adjoint(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, jnp.conj(b).T, precision=jax.lax.Precision.HIGHEST)


def relative_steps(step: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Steps divided by the largest of their group: projections depend on no more. 0 and inf become finite ratios."""
    info = jnp.finfo(step.dtype)
    step = jnp.minimum(step, info.max)
    largest = jax.lax.stop_gradient(jnp.max(step, axis=axes, keepdims=True, initial=0))
    down = jnp.where(largest > 1, 2.0**-16, 1).astype(step.dtype)  # as in `normalized`
    ratio = (step * down) / jnp.where(largest == 0, 1, largest * down)
    return jnp.where(largest == 0, 1, jnp.maximum(ratio, float(info.tiny) ** 0.375))
